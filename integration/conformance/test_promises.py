"""What holds for every kind of link on every kernel. One test, one column of the table."""

import contextlib
import signal
from dataclasses import dataclass
from typing import Any

import pytest
from gi.repository import GLib

from bpflinkd.core import names
from integration.conformance.conftest import running_and_empty, supported
from integration.conformance.kinds import Kind, compiled, loaded
from tests.lab import Daemon
from tests.lab.daemon import Refused, elf, pinned
from tests.lab.maps import Counters
from tests.lab.world import run, until

NAME = "it"
SWAPS = 30


def attach_counting(daemon: Daemon, kind: Kind) -> Counters:
    """Attach a counting program from an object file; returns its counter."""
    daemon.attach(NAME, kind.target(), elf(compiled(kind.program)))
    return hits_of(daemon)


def hits_of(daemon: Daemon, name: str = NAME) -> Counters:
    """The counter of the program that runs now."""
    return Counters(daemon.pins / names.encode(name) / "maps" / "hits")


def kernel_objects() -> dict[str, int]:
    """How many links, programs and maps there are on the host."""
    return {what: run("bpftool", "--json", what, "show").count('"id":') for what in ("link", "prog", "map")}


def test_attach(daemon: Daemon, kind: Kind) -> None:
    hits = attach_counting(daemon, kind)
    link = daemon.link(NAME)
    assert (link["State"], link["Generation"]) == ("active", 1)
    shown = run("bpftool", "link", "show", "id", str(link["KernelLinkId"]))
    assert kind.link_type in shown
    with kind.under_load() as load:
        pass
    assert load.events > 0
    assert hits[0] == load.events


def test_swap_under_load(daemon: Daemon, kind: Kind) -> None:
    programs = [loaded(daemon.world, kind.program, number) for number in (1, 2)]
    before = [each.hits[0] for each in programs]
    daemon.attach(NAME, kind.target(), pinned(programs[0].pin))
    with kind.under_load() as load:
        for swap in range(1, SWAPS + 1):
            assert daemon.replace(NAME, pinned(programs[swap % 2].pin)) == swap + 1
    counted = [each.hits[0] - earlier for each, earlier in zip(programs, before, strict=True)]
    assert sum(counted) == load.events
    assert min(counted) > 0
    assert daemon.link(NAME)["Missed"] == 0


def test_rollback(daemon: Daemon, kind: Kind) -> None:
    """To the program that is loaded still, with its counter: no event is missed or counted twice."""
    old = attach_counting(daemon, kind)
    first = daemon.link(NAME)["Program"]["id"]
    with kind.under_load() as load:
        fresh = GLib.Variant("b", True)
        daemon.replace(NAME, elf(compiled(kind.program)), fresh_maps=fresh)
        new = hits_of(daemon)
        assert daemon.rollback(NAME) == 3
    assert daemon.link(NAME)["Program"]["id"] == first
    assert old[0] == hits_of(daemon)[0] > 0
    assert old[0] + new[0] == load.events


def test_trial(daemon: Daemon, kind: Kind) -> None:
    """Nobody confirms: the program before is back by itself, and no event is missed or counted twice."""
    old = attach_counting(daemon, kind)
    trial = {"confirm_within": GLib.Variant("t", 5_000_000), "fresh_maps": GLib.Variant("b", True)}
    with kind.under_load() as load:
        daemon.replace(NAME, elf(compiled(kind.program)), **trial)
        new = hits_of(daemon)
        assert daemon.state(NAME) == "trial"
        until(lambda: daemon.link(NAME)["Generation"] == 3, "the one before is back", seconds=60)
    assert daemon.state(NAME) == "active"
    assert old[0] == hits_of(daemon)[0] > 0
    assert old[0] + new[0] == load.events


def test_expect_mismatch(daemon: Daemon, kind: Kind) -> None:
    attach_counting(daemon, kind)
    before, objects = daemon.link(NAME), kernel_objects()
    with pytest.raises(Refused) as refusal:
        daemon.replace(NAME, elf(compiled(kind.program)), expect=7)
    assert refusal.value.name == "StaleGeneration"
    assert (daemon.link(NAME), kernel_objects()) == (before, objects)


def test_wrong_type(daemon: Daemon, kind: Kind) -> None:
    hits = attach_counting(daemon, kind)
    before, objects = daemon.link(NAME), kernel_objects()
    with pytest.raises(Refused) as refusal:
        daemon.replace(NAME, elf(compiled("bind")))
    assert refusal.value.name == "WrongProgramType"
    with pytest.raises(Refused) as refusal:
        daemon.replace(NAME, pinned(loaded(daemon.world, "bind", 1).pin))
    assert refusal.value.name == "WrongProgramType"
    assert daemon.link(NAME) == before
    assert kernel_objects()["link"] == objects["link"]
    with kind.under_load() as load:
        pass
    assert hits[0] == load.events


@dataclass
class Survived:
    """What became of one link while its daemon was killed and started again under load."""

    events: int
    counted: int
    before: dict[str, Any]
    after: dict[str, Any]
    program_pinned: bool
    replaced: bool
    """A replace afterwards counts on without a gap, in the same map."""


def killed_and_started(daemon: Daemon, *, lose_pins: bool) -> dict[str, Survived]:
    """All kinds at once: under emulation a start takes ten seconds."""
    kinds = supported(daemon)
    called = {name: name.replace(" ", "-") for name in kinds}
    hits, before, loads = {}, {}, {}
    for name, kind in kinds.items():
        daemon.attach(called[name], kind.target(), elf(compiled(kind.program)))
        hits[name] = hits_of(daemon, called[name])
        before[name] = daemon.link(called[name])
    with contextlib.ExitStack() as running:
        for name, kind in kinds.items():
            loads[name] = running.enter_context(kind.under_load(gently=True))
        if lose_pins:
            for name in called.values():
                (daemon.pins / names.encode(name) / "program").unlink()
        daemon.restart(signal.SIGKILL)
    survived = {}
    for name, kind in kinds.items():
        counted, after = hits[name][0], daemon.link(called[name])
        daemon.replace(called[name], elf(compiled(kind.program)))
        new = hits_of(daemon, called[name])
        with kind.under_load() as load:
            pass
        survived[name] = Survived(
            events=loads[name].events,
            counted=counted,
            before=before[name],
            after=after,
            program_pinned=(daemon.pins / names.encode(called[name]) / "program").exists(),
            replaced=hits[name][0] == new[0] == counted + load.events,
        )
    return survived


@pytest.fixture(scope="module")
def killed(session_daemon: Daemon) -> dict[str, Survived]:
    return killed_and_started(running_and_empty(session_daemon), lose_pins=False)


@pytest.fixture(scope="module")
def killed_without_pins(session_daemon: Daemon) -> dict[str, Survived]:
    return killed_and_started(running_and_empty(session_daemon), lose_pins=True)


def check_survived(found: Survived) -> None:
    assert found.events > 0
    assert found.counted == found.events
    assert found.after["KernelLinkId"] == found.before["KernelLinkId"]
    assert found.after["Program"] == found.before["Program"]
    assert (found.after["State"], found.after["Generation"]) == ("active", 1)
    assert found.after["Missed"] == 0
    assert found.program_pinned
    assert found.replaced


def test_kill_9_and_restart(kind_name: str, killed: dict[str, Survived]) -> None:
    check_survived(killed[kind_name])


def test_pin_removed(kind_name: str, killed_without_pins: dict[str, Survived]) -> None:
    check_survived(killed_without_pins[kind_name])


def test_target_removed_and_back(daemon: Daemon, kind: Kind) -> None:
    target = kind.passing()
    daemon.attach(NAME, target, elf(compiled(kind.program)), wait=GLib.Variant("b", True))
    assert daemon.state(NAME) == "waiting"
    for _ in range(2):
        place = kind.appear()
        until(lambda: daemon.state(NAME) == "active", "attached to what appeared", seconds=60)
        hits = hits_of(daemon)
        before = hits[0]
        with kind.under_load(place) as load:
            pass
        assert hits[0] - before >= load.events > 0
        if kind.feature == "kprobe-multi":
            # The kernel keeps a module loaded while such a link is on it.
            with pytest.raises(RuntimeError, match="in use"):
                kind.vanish()
            break
        kind.vanish()
        until(lambda: daemon.state(NAME) == "waiting", "gone with its target", seconds=60)


def test_detach_leaves_nothing(daemon: Daemon, kind: Kind) -> None:
    # Whatever is made once and kept, such as the slot that programs are tried on, is there now.
    attach_counting(daemon, kind)
    daemon.detach(NAME)
    before = kernel_objects()
    hits = attach_counting(daemon, kind)
    daemon.replace(NAME, elf(compiled(kind.program)))
    daemon.detach(NAME)
    assert not daemon.pinned()
    assert daemon.links() == {}
    hits_before = hits[0]
    with kind.under_load() as load:
        pass
    assert load.events > 0
    assert hits[0] == hits_before
    hits.close()

    def same() -> bool:
        return kernel_objects() == before

    until(same, "every link, program and map of it is gone", seconds=20)
