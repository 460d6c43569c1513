"""Tests against the kernel of this machine: real links, in namespaces and cgroups of their own."""

import os
from collections.abc import Iterator

import pytest

from tests.lab import Daemon, World
from tests.lab.daemon import warm_starts


@pytest.fixture(scope="package", autouse=True)
def _warm() -> Iterator[None]:
    with warm_starts():
        yield


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN")


@pytest.fixture(autouse=True)
def _cold(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("cold") is not None:
        monkeypatch.setattr(Daemon, "server", None)


@pytest.fixture
def world() -> Iterator[World]:
    """A namespace with one veth pair, `v0` (ours) and `v1` (the sender's), a bpffs and a bus."""
    with World() as made:
        made.veth("v0", "v1")
        yield made


@pytest.fixture
def daemon(world: World) -> Daemon:
    """A daemon that sweeps often."""
    return world.daemon("--sweep-interval", "0.1")
