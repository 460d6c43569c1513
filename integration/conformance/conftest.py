"""One world and one daemon for all promises of one kind of link."""

from collections.abc import Iterator

import pytest

from integration.conformance import needs
from integration.conformance.kinds import KINDS, Kind
from tests.lab import Daemon, World
from tests.lab.daemon import warm_starts


@pytest.fixture(scope="session")
def warm() -> Iterator[None]:
    """Daemons start at a fraction of the cost."""
    with warm_starts():
        yield


@pytest.fixture(scope="session")
def world(warm: None) -> Iterator[World]:
    """A namespace with two veth pairs, a bpffs and a bus."""
    with World() as made:
        made.veth("v0", "v1")
        made.veth("g0", "g1")
        yield made


@pytest.fixture(scope="session")
def session_daemon(world: World) -> Daemon:
    return world.daemon("--sweep-interval", "0.2", "--compile-timeout", "250")


@pytest.fixture
def daemon(session_daemon: Daemon) -> Daemon:
    """A daemon that runs, whatever the last test did, and holds no link."""
    return running_and_empty(session_daemon)


def running_and_empty(daemon: Daemon) -> Daemon:
    """Start it where it ended; detach everything."""
    if daemon.process is None or daemon.process.poll() is not None:
        daemon.start()
    for name in daemon.links():
        daemon.detach(name)
    return daemon


def supported(daemon: Daemon) -> dict[str, Kind]:
    """Every kind of link that the daemon says this kernel can have."""
    features = {name: can for name, can, _ in daemon.call("Features")}
    return {name: kind(daemon.world) for name, kind in KINDS.items() if features[kind.feature]}


def require(daemon: Daemon, feature: str) -> None:
    """Skip what this kernel cannot do; fail where it can and the daemon says that it cannot."""
    name, supported, reason = next(found for found in daemon.call("Features") if found[0] == feature)
    if supported:
        return
    missing = needs.missing(feature)
    assert missing, f"this kernel has what {name} needs, and the daemon says: {reason}"
    pytest.skip(f"no {missing}")


@pytest.fixture(params=KINDS)
def kind_name(request: pytest.FixtureRequest, session_daemon: Daemon) -> str:
    """Each kind of link that this kernel can have."""
    require(session_daemon, KINDS[request.param].feature)
    return str(request.param)


@pytest.fixture
def kind(kind_name: str, daemon: Daemon) -> Kind:
    """The same, ready to be used."""
    return KINDS[kind_name](daemon.world)
