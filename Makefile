# Everything a developer or CI runs. `make demo` and `make test` set up a fresh Debian 12 as root.

PYTHON := /usr/bin/python3
BIN := .venv/bin
PREFIX ?= /usr
DESTDIR ?=

# What Debian has and PyPI has not, or has under other names; clang compiles our BPF C.
# The last line is for the examples of docs/client.md.
PACKAGES := python3-venv python3-gi python3-pydbus python3-systemd gir1.2-json-1.0 libbpf1 \
	python3-bpfcc libbpf-dev linux-libc-dev clang dbus iproute2 bpftool xdp-tools util-linux bsdutils systemd strace
# What tests use besides: polkit, and the other languages that clients are written in.
TEST_PACKAGES := polkitd pkg-config libsystemd-dev golang-go golang-dbus-dev golang-golang-x-sys-dev
# What boots other kernels: virtme-ng itself comes from PyPI.
GUEST_PACKAGES := qemu-system-x86 udev kmod file mmdebstrap e2fsprogs busybox-static
STAMP := .venv/built

.DEFAULT_GOAL := help
.PHONY: help build packages test-packages guest-packages integration demo test check unit kernel bench bench-guest install uninstall clean format

help: ## Show what can be made.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: $(STAMP) ## Install what is missing; leaves .venv/bin/bpflinkd and .venv/bin/bpflinkctl.

packages: NEEDED := $(PACKAGES)
test-packages: NEEDED := $(TEST_PACKAGES)
guest-packages: NEEDED := $(GUEST_PACKAGES)
packages test-packages guest-packages:
	@missing=$$(for package in $(NEEDED); do \
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

test: check guest-packages ## Everything that proves it: checks, unit tests, kernel tests here and in guests.
	$(BIN)/python -m integration --kernel-tests

check: build unit ## Format, lint, types, import contracts, unit tests.

unit: build test-packages
	$(BIN)/python -m pytest -q -n auto tests/unit

kernel: build test-packages
	@$(COMPILE)
	$(BIN)/python -m pytest -q tests/kernel

integration: build guest-packages ## Every promise, here, on other kernels in guests, and under systemd; a table.
	$(BIN)/python -m integration $(KERNELS)

# Byte code, also where PYTHONDONTWRITEBYTECODE is set: a daemon by exec would compile itself at each start.
COMPILE = $(BIN)/python -m compileall -q bpflinkd tests integration

format: build ## Bring the code into its form.
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: build ## Measure; print a table.
	$(BIN)/python -m bench

bench-guest: build guest-packages ## Measure what needs kprobes, on a Debian kernel in a guest.
	$(BIN)/python -m bench.guest

LIBDIR := $(PREFIX)/lib/bpflinkd
VENV := $(LIBDIR)/venv
UNITDIR := $(PREFIX)/lib/systemd/system
CATALOGDIR := $(PREFIX)/lib/systemd/catalog
SYSUSERSDIR := $(PREFIX)/lib/sysusers.d
TMPFILESDIR := $(PREFIX)/lib/tmpfiles.d
POLICYDIR := $(PREFIX)/share/dbus-1/system.d
ACTIVATIONDIR := $(PREFIX)/share/dbus-1/system-services
POLKITDIR := $(PREFIX)/share/polkit-1/actions
DOCDIR := $(PREFIX)/share/doc/bpflinkd
UNITS := bpflinkd.service bpflinkd-compiler.socket bpflinkd-compiler@.service
# Declared links and grants: the vendor's and the administrator's. Files in them are not ours.
LINKDIRS := $(LIBDIR)/links.d $(LIBDIR)/grants.d /etc/bpflinkd/links.d /etc/bpflinkd/grants.d
DIRS := $(PREFIX)/bin $(VENV) $(UNITDIR) $(CATALOGDIR) $(SYSUSERSDIR) $(TMPFILESDIR) $(POLICYDIR) \
	$(ACTIVATIONDIR) $(POLKITDIR) $(DOCDIR) $(LINKDIRS)
# The host's own systemd is told only where files were put for it, not for a package.
LIVE := [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]

install: ## Install program, units, D-Bus files and pages below DESTDIR.
	# Directories that are not there yet are noted, so that uninstall removes these and no others.
	@new=$$(for path in $(DIRS); do \
		while [ ! -d "$(DESTDIR)$$path" ]; do echo "$$path"; [ "$$path" != / ] || break; path=$$(dirname "$$path"); done; \
	done); \
	install -d $(addprefix $(DESTDIR),$(DIRS)) && echo "$$new" | sort -u >> $(DESTDIR)$(VENV)/directories
	$(PYTHON) -m venv --system-site-packages $(DESTDIR)$(VENV)
	$(DESTDIR)$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-compile .
	# What installs is not needed any more.
	$(DESTDIR)$(VENV)/bin/pip uninstall --quiet --yes setuptools pip
	# The programs name the interpreter by where it will be, not by where it is put now.
	sed -i '1s|^#!.*|#!$(VENV)/bin/python|' $(DESTDIR)$(VENV)/bin/bpflinkd $(DESTDIR)$(VENV)/bin/bpflinkctl
	sed -i 's|$(DESTDIR)$(VENV)|$(VENV)|g' $(DESTDIR)$(VENV)/pyvenv.cfg $$(find $(DESTDIR)$(VENV)/bin -type f)
	# Compiled now: the service cannot write there.
	$(PYTHON) -m compileall -q $(if $(DESTDIR),-s $(DESTDIR)) $(DESTDIR)$(VENV)/lib
	ln -sf $(VENV)/bin/bpflinkd $(VENV)/bin/bpflinkctl $(DESTDIR)$(PREFIX)/bin/
	@compiler=$$(cd $(DESTDIR)$(VENV) && echo lib/python3*/site-packages/bpflinkd/compiler.py); \
	for unit in $(UNITS); do \
		sed "s|@BINDIR@|$(PREFIX)/bin|; s|@DOCDIR@|$(DOCDIR)|; s|@COMPILER@|$(VENV)/$$compiler|" units/$$unit \
			> $(DESTDIR)$(UNITDIR)/$$unit || exit; \
	done
	install -m 644 units/bpflinkd.catalog $(DESTDIR)$(CATALOGDIR)/bpflinkd.catalog
	install -m 644 units/bpflinkd.sysusers.conf $(DESTDIR)$(SYSUSERSDIR)/bpflinkd.conf
	install -m 644 units/bpflinkd.tmpfiles.conf $(DESTDIR)$(TMPFILESDIR)/bpflinkd.conf
	install -m 644 units/org.bpflinkd1.conf $(DESTDIR)$(POLICYDIR)/org.bpflinkd1.conf
	install -m 644 units/org.bpflinkd1.service $(DESTDIR)$(ACTIVATIONDIR)/org.bpflinkd1.service
	install -m 644 units/org.bpflinkd1.policy $(DESTDIR)$(POLKITDIR)/org.bpflinkd1.policy
	install -m 644 docs/*.md $(DESTDIR)$(DOCDIR)/
	@if $(LIVE); then \
		systemd-sysusers $(SYSUSERSDIR)/bpflinkd.conf && systemd-tmpfiles --create $(TMPFILESDIR)/bpflinkd.conf && \
		$(reread) && echo "installed; to start it now and at boot: systemctl enable --now bpflinkd"; \
	fi

uninstall: ## Remove what install put there; links stay attached, records and declared links stay.
	@if $(LIVE); then systemctl disable --now bpflinkd.service bpflinkd-compiler.socket || true; fi
	@made=$$(sort -ru $(DESTDIR)$(VENV)/directories 2>/dev/null); \
	rm -rf $(DESTDIR)$(VENV) $(DESTDIR)$(DOCDIR)/*.md; \
	rm -f $(DESTDIR)$(PREFIX)/bin/bpflinkd $(DESTDIR)$(PREFIX)/bin/bpflinkctl \
		$(addprefix $(DESTDIR)$(UNITDIR)/,$(UNITS)) $(DESTDIR)$(CATALOGDIR)/bpflinkd.catalog \
		$(DESTDIR)$(SYSUSERSDIR)/bpflinkd.conf $(DESTDIR)$(TMPFILESDIR)/bpflinkd.conf \
		$(DESTDIR)$(POLICYDIR)/org.bpflinkd1.conf $(DESTDIR)$(ACTIVATIONDIR)/org.bpflinkd1.service \
		$(DESTDIR)$(POLKITDIR)/org.bpflinkd1.policy; \
	for path in $$made; do [ ! -d "$(DESTDIR)$$path" ] || rmdir --ignore-fail-on-non-empty "$(DESTDIR)$$path"; done
	@if $(LIVE); then $(reread); fi

# What a running systemd and bus have read of our files.
reread = journalctl --update-catalog && systemctl daemon-reload && \
	busctl call --quiet org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus ReloadConfig

clean: ## Remove what the build made.
	rm -rf .venv build dist bpflinkd/programs/*.bpf.o
