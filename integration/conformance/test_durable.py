"""What is declared is so, and what was promised is back after a reboot, for every kind of link."""

from pathlib import Path

import pytest

from integration.conformance.conftest import require, supported
from integration.conformance.kinds import KINDS, Kind, compiled
from integration.conformance.test_promises import NAME, hits_of
from tests.lab import Daemon
from tests.lab.daemon import elf
from tests.lab.declarations import declare, link
from tests.lab.reboot import after_reboot


@pytest.fixture(params=["xdp native", "cgroup", "kprobe", "kprobe-multi"])
def kind(request: pytest.FixtureRequest, daemon: Daemon) -> Kind:
    """One kind of each way to be attached and swapped: under emulation each costs ten seconds."""
    require(daemon, KINDS[request.param].feature)
    return KINDS[request.param](daemon.world)


def declared(kind: Kind, program: str) -> str:
    """A kind's target in TOML."""
    (word, place), *details = kind.target().items()
    more = [f'{key.replace("_", "-")} = "{value}"' for key, value in details]
    return link(NAME, f"{word}:{place}", program, *more)


def reload(daemon: Daemon) -> dict[str, int]:
    """Reload; nothing may be refused."""
    done, refused = daemon.call("Reload")
    assert not refused
    return {what: number for what, number in done.items() if number}


def test_declared_replaced_and_gone(daemon: Daemon, kind: Kind, tmp_path: Path) -> None:
    old, new = compiled(kind.program), tmp_path / "new.bpf.o"
    new.write_bytes(old.read_bytes() + b"\0")
    file = declare(daemon.world, "a.toml", declared(kind, f'object = "{old}"'))
    try:
        assert reload(daemon) == {"attached": 1}
        assert reload(daemon) == {"unchanged": 1}
        before, hits = daemon.link(NAME), hits_of(daemon)
        declare(daemon.world, "a.toml", declared(kind, f'object = "{new}"'))
        with kind.under_load() as load:
            assert reload(daemon) == {"replaced": 1}
        # One counter, carried over: no hit is lost, and none counted twice.
        assert hits[0] == hits_of(daemon)[0] == load.events
        assert daemon.link(NAME)["KernelLinkId"] == before["KernelLinkId"]
    finally:
        file.unlink()
        assert reload(daemon) == {"detached": 1}
    assert daemon.links() == {}


def test_all_kinds_are_back_after_a_reboot(daemon: Daemon) -> None:
    kinds = supported(daemon)
    called = {name: name.replace(" ", "-") for name in kinds}
    for name, kind in kinds.items():
        daemon.attach(called[name], kind.target(), elf(compiled(kind.program)))
    before = {name: found["KernelLinkId"] for name, found in daemon.links().items()}
    after_reboot(daemon)
    for name, kind in kinds.items():
        found = daemon.link(called[name])
        assert (found["State"], found["Generation"]) == ("active", 1), name
        assert found["KernelLinkId"] != before[called[name]]
        hits = hits_of(daemon, called[name])
        with kind.under_load() as load:
            pass
        assert hits[0] == load.events > 0, name
