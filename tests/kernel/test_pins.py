"""Pins of a daemon's links are touched by others: told, and put back; also what a start makes of it."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel.test_replace import load_counters
from tests.kernel.test_watch import Signals
from tests.lab import Daemon
from tests.lab.compiled import program
from tests.lab.daemon import builtin, elf
from tests.lab.world import run, until


@pytest.fixture
def signals(daemon: Daemon) -> Iterator[Signals]:
    listening = Signals(daemon)
    yield listening
    listening.close()


@pytest.fixture
def links(daemon: Daemon) -> dict[str, set[str]]:
    """One on an interface and one on a cgroup: what is pinned of each."""
    daemon.attach("edge", {"xdp": "v0"}, elf(program("count"), "count_old"))
    daemon.attach("it", {"cgroup": daemon.world.cgroup()}, elf(program("count"), "egress_count"))
    return pinned(daemon)


def pinned(daemon: Daemon) -> dict[str, set[str]]:
    """By link, each pin and the id of what it leads to."""
    found: dict[str, set[str]] = {}
    for name in daemon.links():
        home = daemon.pins / name
        found[name] = {
            f"{pin.relative_to(home)} is {run('bpftool', kind, 'show', 'pinned', pin).split(':')[0]}"
            for pattern, kind in (("link", "link"), ("program", "prog"), ("maps/*", "map"))
            for pin in home.glob(pattern)
        }
    return found


def back(daemon: Daemon, links: dict[str, set[str]]) -> None:
    def all_there() -> bool:
        try:
            return pinned(daemon) == links
        except RuntimeError:  # between two pins
            return False

    until(all_there, "every pin is back")


@pytest.mark.parametrize("name", ["edge", "it"])
@pytest.mark.parametrize(
    ("damage", "kinds"),
    [
        *(
            pytest.param(lambda home, pin=pin: (home / pin).unlink(), ["pin-removed"], id=f"rm {pin}")
            for pin in ("link", "program", "maps/counters")
        ),
        pytest.param(lambda home: (home / "link").rename(home / "x"), ["pin-removed"], id="mv"),
        pytest.param(lambda home: home.rename(home.parents[1] / "x"), ["pin-removed"] * 3, id="mv all"),
    ],
)
def test_pins_that_are_removed_come_back(
    daemon: Daemon,
    signals: Signals,
    links: dict[str, set[str]],
    name: str,
    damage: Callable[[Path], object],
    kinds: list[str],
) -> None:
    damage(daemon.pins / name)
    until(lambda: signals.kinds(name) == kinds, "told")
    back(daemon, links)
    assert {link["State"] for link in daemon.links().values()} == {"active"}
    daemon.kill()
    daemon.start()
    assert pinned(daemon) == links
    for each in links:
        daemon.detach(each)
    assert daemon.pinned() <= {"_aside"}


def test_every_pin_of_every_link_is_removed(
    daemon: Daemon, signals: Signals, links: dict[str, set[str]]
) -> None:
    elsewhere = daemon.pins.rename(daemon.world.bpffs / "elsewhere")  # or rm would race with us
    run("rm", "-r", elsewhere)
    back(daemon, links)
    for name in links:
        until(lambda name=name: signals.kinds(name) == ["pin-removed"] * 3, "told")  # type: ignore[misc]
    (daemon.pins / "edge" / "link").unlink()  # which is watched again after a sweep
    until(lambda: len(signals.kinds()) == 4, "told")
    back(daemon, links)


def test_a_fight_about_a_pin_backs_off(daemon: Daemon, signals: Signals, links: dict[str, set[str]]) -> None:
    pin, removed = daemon.pins / "edge" / "link", 0
    ends = time.monotonic() + 3
    while time.monotonic() < ends:
        with contextlib.suppress(FileNotFoundError):
            pin.unlink()
            removed += 1
    assert 9 < removed < 20, "eight times at once, then after pauses"
    until(lambda: len(signals.kinds()) == removed, "each is told", seconds=30)
    back(daemon, links)
    assert signals.kinds() == ["pin-removed"] * removed
    assert "contended, we put pins back" in daemon.said()


def test_a_stranger_in_our_place(daemon: Daemon, signals: Signals, links: dict[str, set[str]]) -> None:
    pins, counters = load_counters(daemon)
    before = run("bpftool", "prog", "show", "pinned", pins[0]).split(":")[0]
    pins[0].rename(daemon.pins / "edge" / "program")
    until(lambda: signals.kinds() == ["pin-replaced"], "told")
    back(daemon, links)
    (aside,) = (daemon.pins / "_aside").iterdir()
    assert run("bpftool", "prog", "show", "pinned", aside).split(":")[0] == before
    assert counters


def test_our_own_changes_are_not_told(daemon: Daemon, signals: Signals, links: dict[str, set[str]]) -> None:
    for number in range(20):
        daemon.replace("edge", elf(program("count"), ("count_new", "count_old")[number % 2]))
        daemon.attach("more", {"xdp": "v1"}, builtin())
        daemon.detach("more")
    time.sleep(0.3)
    assert signals.kinds() == []
    assert not (daemon.pins / "_aside").exists()


@pytest.mark.parametrize("pause", [0, 0.002, 0.005, 0.01])
@pytest.mark.parametrize("pin", ["link", "program", ""])
def test_killed_right_after(daemon: Daemon, links: dict[str, set[str]], pin: str, pause: float) -> None:
    for name in links:
        place = daemon.pins / name / pin
        place.unlink() if pin else shutil.rmtree(place, ignore_errors=True)  # we may be faster than it
    time.sleep(pause)
    daemon.kill()
    daemon.start()
    assert {link["State"] for link in daemon.links().values()} == {"active"}
    for name in links:
        found = {path.name for path in (daemon.pins / name).rglob("*")}
        assert found == {"link", "program", "maps", "counters"}
    assert daemon.pinned() <= {*links}


def test_a_program_pin_replaced_while_no_daemon_ran(daemon: Daemon, links: dict[str, set[str]]) -> None:
    pins, counters = load_counters(daemon)
    daemon.kill()
    pins[0].rename(daemon.pins / "edge" / "program")
    (daemon.pins / "it" / "maps" / "counters").unlink()
    daemon.start()
    assert {link["State"] for link in daemon.links().values()} == {"active"}
    back(daemon, links)
    assert counters


def test_unmounted(daemon: Daemon, links: dict[str, set[str]]) -> None:
    run("umount", "--lazy", daemon.world.bpffs)
    until(lambda: "is not on a bpffs" in daemon.said(), "told")
    time.sleep(0.5)  # several sweeps
    assert daemon.said().count("is not on a bpffs") == len(links)
    assert {link["State"] for link in daemon.links().values()} == {"active"}
    run("mount", "-t", "bpf", "bpf", daemon.world.bpffs)
    back(daemon, links)
    daemon.kill()
    daemon.start()
    assert pinned(daemon) == links
