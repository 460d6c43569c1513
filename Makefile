# Everything a developer or CI runs. `make demo` and `make test` set up a fresh Debian 12 as root.

PYTHON := /usr/bin/python3
BIN := .venv/bin
PREFIX ?= /usr
DESTDIR ?=

# What Debian has and PyPI has not, or has under other names; clang compiles our BPF C.
PACKAGES := python3-venv python3-gi python3-pydbus python3-systemd gir1.2-json-1.0 libbpf1 \
	python3-bpfcc libbpf-dev linux-libc-dev clang dbus iproute2 bpftool xdp-tools util-linux bsdutils systemd
# What boots other kernels: virtme-ng itself comes from PyPI.
GUEST_PACKAGES := qemu-system-x86 udev kmod file
STAMP := .venv/built

.DEFAULT_GOAL := help
.PHONY: help build packages guest-packages integration demo test check unit kernel bench bench-guest install uninstall clean format

help: ## Show what can be made.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: $(STAMP) ## Install what is missing; leaves .venv/bin/bpflinkd and .venv/bin/bpflinkctl.

packages guest-packages:
	@missing=$$(for package in $(if $(filter guest-%,$@),$(GUEST_PACKAGES),$(PACKAGES)); do \
		dpkg-query -W -f '$${db:Status-Abbrev}' $$package 2>/dev/null | grep -q '^ii' || echo $$package; \
	done); \
	if [ -n "$$missing" ]; then \
		echo "installing:" $$missing; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
	fi

$(STAMP): pyproject.toml hatch_build.py $(wildcard bpflinkd/programs/*.bpf.c) | packages
	$(PYTHON) -m venv --system-site-packages .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: build ## Show the main job for real, beside whatever runs here, leaving nothing behind.
	$(BIN)/python -m integration.demo

test: check kernel integration ## Everything that proves it: checks, unit tests, kernel tests here and in guests.

check: build unit ## Format, lint, types, import contracts, unit tests.

unit: build
	$(BIN)/python -m pytest -q tests/unit

kernel: build
	$(BIN)/python -m pytest -q tests/kernel

integration: build guest-packages ## Every promise for every kind of link, here and on other kernels in guests; a table.
	$(BIN)/python -m integration $(KERNELS)

format: build ## Bring the code into its form.
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: build ## Measure; print a table.
	$(BIN)/python -m bench

bench-guest: build guest-packages ## Measure what needs kprobes, on a Debian kernel in a guest.
	$(BIN)/python -m bench.guest

LIBDIR := $(PREFIX)/lib/bpflinkd

install: ## Install program, unit and D-Bus files below DESTDIR.
	$(PYTHON) -m venv --system-site-packages $(DESTDIR)$(LIBDIR)
	$(DESTDIR)$(LIBDIR)/bin/pip install --quiet --disable-pip-version-check .
	# The programs name the interpreter by where it will be, not by where it is put now.
	sed -i '1s|^#!.*|#!$(LIBDIR)/bin/python|' $(DESTDIR)$(LIBDIR)/bin/bpflinkd $(DESTDIR)$(LIBDIR)/bin/bpflinkctl
	install -d $(DESTDIR)$(PREFIX)/bin
	ln -sf $(LIBDIR)/bin/bpflinkd $(LIBDIR)/bin/bpflinkctl $(DESTDIR)$(PREFIX)/bin/
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	sed 's|@BINDIR@|$(PREFIX)/bin|' units/bpflinkd.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/bpflinkd.service
	install -D -m 644 units/org.bpflinkd1.conf $(DESTDIR)$(PREFIX)/share/dbus-1/system.d/org.bpflinkd1.conf
	install -D -m 644 units/org.bpflinkd1.service $(DESTDIR)$(PREFIX)/share/dbus-1/system-services/org.bpflinkd1.service

uninstall: ## Remove what install put there; links, records and configuration stay.
	rm -rf $(DESTDIR)$(LIBDIR)
	rm -f $(DESTDIR)$(PREFIX)/bin/bpflinkd $(DESTDIR)$(PREFIX)/bin/bpflinkctl
	rm -f $(DESTDIR)$(PREFIX)/lib/systemd/system/bpflinkd.service
	rm -f $(DESTDIR)$(PREFIX)/share/dbus-1/system.d/org.bpflinkd1.conf
	rm -f $(DESTDIR)$(PREFIX)/share/dbus-1/system-services/org.bpflinkd1.service

clean: ## Remove what the build made.
	rm -rf .venv build dist bpflinkd/programs/*.bpf.o
