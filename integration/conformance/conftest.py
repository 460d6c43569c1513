"""One world and one daemon for all promises of one kind of link."""

from collections.abc import Iterator

import pytest

from integration.conformance import needs
from integration.conformance.kinds import KINDS, Kind
from tests.lab import Daemon, World


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """A namespace with one veth pair, a bpffs and a bus."""
    with World() as made:
        made.veth("v0", "v1")
        yield made


@pytest.fixture(scope="session")
def _daemon(world: World) -> Daemon:
    return world.daemon("--sweep-interval", "0.2")


@pytest.fixture
def daemon(_daemon: Daemon) -> Daemon:
    """A daemon that runs, whatever the last test did, and holds no link."""
    if _daemon.process is None or _daemon.process.poll() is not None:
        _daemon.start()
    for name in _daemon.links():
        _daemon.detach(name)
    return _daemon


def require(daemon: Daemon, feature: str) -> None:
    """Skip what this kernel cannot do; fail where it can and the daemon says that it cannot."""
    name, supported, reason = next(found for found in daemon.call("Features") if found[0] == feature)
    if supported:
        return
    missing = needs.missing(feature)
    assert missing, f"this kernel has what {name} needs, and the daemon says: {reason}"
    pytest.skip(f"no {missing}")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, daemon: Daemon) -> Kind:
    """Each kind of link that this kernel can have."""
    made = KINDS[request.param]
    require(daemon, made.feature)
    return made(daemon.world)
