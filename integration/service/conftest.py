"""One guest for all tests, in the order of the files: boot, ..., reboot, ..., upgrade. It boots twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from integration.guest import kernels
from integration.guest.machine import REPO
from integration.service import disk, image, initramfs
from integration.service.guest import Guest
from integration.service.host import Host, declaration

KERNEL: Final = "bookworm-backports"
RESULTS: Final = REPO / "build" / "guests" / "systemd"
_PATIENCE: Final = 900
"""Seconds that one test may take; the first makes the disk and boots."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Emulation is slow: the limit of the other tests is too short."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(_PATIENCE))


@pytest.fixture(scope="session")
def machine() -> Iterator[Guest]:
    """A guest with bpflinkd installed and enabled and a declared link, booted once."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for old in (*RESULTS.glob("console-*"), RESULTS / "journal"):
        old.unlink(missing_ok=True)
    kernel = kernels.get(KERNEL)
    busybox = image.get(kernel) / "usr/bin/busybox"
    start = initramfs.make(kernel, busybox, RESULTS / "initramfs")
    files = {"/etc/bpflinkd/links.d/edge.toml": declaration("edge-filter", "xdp:test0")}
    root = RESULTS / "disk"
    guest = Guest(kernel, start, root, RESULTS)
    try:
        disk.make(kernel, root, work=RESULTS / "work", files=files)
        guest.boot()
        yield guest
        if guest.running:
            guest.power_off()
    finally:
        guest.close()
        if guest.boots:
            disk.read_journal(root, RESULTS / "journal", RESULTS / "work")
        root.unlink(missing_ok=True)


@pytest.fixture
def host(machine: Guest) -> Iterator[Host]:
    """The guest with the service running; the links that a test attached are detached after it."""
    made = Host(machine)
    made.ensure_running()
    yield made
    made.tidy()
