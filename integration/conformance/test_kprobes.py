"""What is particular to kprobes: the slot and its misses, cookies, and what cannot be dispatched."""

import contextlib
import random
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from gi.repository import GLib

from integration.conformance.conftest import require
from integration.conformance.kinds import Kprobe, KprobeMulti, compiled, loaded
from integration.conformance.test_promises import NAME, hits_of, kernel_objects
from tests.lab import Daemon
from tests.lab.daemon import Refused, elf, pinned
from tests.lab.world import run, until

KILLS = 2
_SLOT_MAP = ("type", "prog_array", "key", "4", "value", "4", "entries", "1", "name", "left")


@pytest.fixture
def kprobe(daemon: Daemon) -> Kprobe:
    require(daemon, "kprobe")
    return Kprobe(daemon.world)


def test_cookie_comes_through_the_dispatcher(daemon: Daemon, kprobe: Kprobe) -> None:
    cookie = 2**64 - 3
    with elf(compiled("kprobe")) as (program, fds):
        target = {"kprobe": GLib.Variant("s", kprobe.function), "cookie": GLib.Variant("t", cookie)}
        daemon.call("Attach", "(sa{sv}a{sv}a{sv})", (NAME, target, program, {}), fds=fds)
    with kprobe.under_load() as load:
        pass
    hits = hits_of(daemon)
    assert (hits[0], hits[1]) == (load.events, cookie)
    assert daemon.link(NAME)["Cookie"] == cookie


def test_cookie_comes_through_to_many(daemon: Daemon) -> None:
    require(daemon, "kprobe-multi")
    kind = KprobeMulti(daemon.world)
    with elf(compiled("kprobe_multi")) as (program, fds):
        target = {kind.word: GLib.Variant("s", kind.function), "cookie": GLib.Variant("t", 99)}
        daemon.call("Attach", "(sa{sv}a{sv}a{sv})", (NAME, target, program, {}), fds=fds)
    with kind.under_load() as load:
        pass
    hits = hits_of(daemon)
    assert (hits[0], hits[1]) == (load.events, 99)
    assert daemon.link(NAME)["Hook"] == {"functions": 2}


def test_an_emptied_slot_is_seen_counted_and_filled(daemon: Daemon, kprobe: Kprobe) -> None:
    daemon.attach(NAME, kprobe.target(), elf(compiled("kprobe")))
    run("bpftool", "map", "delete", "pinned", daemon.pins / NAME / "slot", "key", *"0000")
    with kprobe.under_load() as load:
        until(lambda: daemon.state(NAME) == "severed", "the empty slot is seen", seconds=30)
    assert daemon.link(NAME)["Missed"] == load.events
    assert "slot-emptied" in daemon.said()
    daemon.replace(NAME, elf(compiled("kprobe")))
    missed = load.events
    with kprobe.under_load() as load:
        pass
    assert (hits_of(daemon)[0], daemon.link(NAME)["Missed"]) == (load.events, missed)
    assert daemon.state(NAME) == "active"


def test_a_strangers_program_in_the_slot_is_seen_and_put_back(daemon: Daemon, kprobe: Kprobe) -> None:
    daemon.attach(NAME, kprobe.target(), elf(compiled("kprobe")), policy=GLib.Variant("s", "restore"))
    place = daemon.world.bpffs / "stranger"
    run("bpftool", "prog", "load", compiled("kprobe"), place)
    slot = daemon.pins / NAME / "slot"
    run("bpftool", "map", "update", "pinned", slot, "key", *"0000", "value", "pinned", place)
    until(lambda: "slot-changed" in daemon.said(), "the stranger is seen", seconds=30)
    until(lambda: daemon.state(NAME) == "active", "ours is back", seconds=30)
    place.unlink()
    with kprobe.under_load() as load:
        pass
    assert hits_of(daemon)[0] == load.events


def test_slot_pin_lost_and_daemon_killed_is_severed_not_gone(daemon: Daemon, kprobe: Kprobe) -> None:
    daemon.attach(NAME, kprobe.target(), elf(compiled("kprobe")))
    slot = daemon.pins / NAME / "slot"
    slot.unlink()
    with kprobe.under_load() as load:
        until(slot.exists, "the pin is put back", seconds=20)
    assert (hits_of(daemon)[0], daemon.link(NAME)["Missed"]) == (load.events, 0)
    daemon.kill()
    slot.unlink()
    # What a crash between two pins of an attach leaves.
    left = daemon.pins / NAME / "next_slot"
    run("bpftool", "map", "create", left, *_SLOT_MAP)
    daemon.start()
    assert not left.exists()
    # The kernel emptied the slot with its last reference; the pin is back, and a replace mends it.
    assert daemon.state(NAME) == "severed"
    assert slot.exists()
    before = hits_of(daemon)[0]
    daemon.replace(NAME, elf(compiled("kprobe")))
    with kprobe.under_load() as load:
        pass
    assert hits_of(daemon)[0] == before + load.events


@pytest.mark.parametrize(
    ("target", "error", "says"),
    [
        pytest.param({"kprobe": "no_such_function"}, "HookGone", "no function", id="no such function"),
        pytest.param({"kretprobe": "no_such_function"}, "HookGone", "no function", id="nor at return"),
        pytest.param({"kprobe": "t_show"}, "BadTarget", "ambiguous", id="ambiguous"),
        pytest.param({"kprobe": "do_int3"}, "NotSupported", "blacklist", id="on the blacklist"),
        pytest.param({"kprobe": Kprobe.function, "offset": 3}, "BadTarget", "boundaries", id="within"),
        pytest.param({"kprobe": Kprobe.function, "offset": 1 << 40}, "BadTarget", "beyond", id="beyond"),
    ],
)
def test_a_bad_target_is_a_sentence(
    daemon: Daemon, kprobe: Kprobe, target: dict[str, object], error: str, says: str
) -> None:
    before = kernel_objects()
    words = {key: GLib.Variant("s" if isinstance(v, str) else "t", v) for key, v in target.items()}
    with elf(compiled("kprobe")) as (program, fds), pytest.raises(Refused, match=says) as refusal:
        daemon.call("Attach", "(sa{sv}a{sv}a{sv})", (NAME, words, program, {}), fds=fds)
    assert refusal.value.name == error
    assert daemon.links() == {}
    assert not (daemon.pins / NAME).exists()
    until(lambda: kernel_objects()["link"] == before["link"], "no link is left", seconds=20)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        pytest.param("override", "bpf_override_return", id="bpf_override_return"),
        pytest.param("sleeper", "uprobe.s", id="sleeps"),
        pytest.param("user_space", "uprobe", id="a uprobe's"),
    ],
)
def test_a_program_that_cannot_be_dispatched_is_refused(
    daemon: Daemon, kprobe: Kprobe, program: str, says: str
) -> None:
    daemon.attach(NAME, kprobe.target(), elf(compiled("kprobe")))
    before = daemon.link(NAME)
    with pytest.raises(Refused, match=says) as refusal:
        daemon.replace(NAME, elf(compiled("refused"), program))
    assert refusal.value.name == "WrongProgramType"
    assert daemon.link(NAME) == before


def refuse_from_pin(daemon: Daemon, program: str, says: str) -> None:
    """A replace by a program that somebody else has loaded and pinned."""
    place = daemon.world.bpffs / f"refused_{program}"
    run("bpftool", "prog", "load", compiled(program), place)
    try:
        with pytest.raises(Refused, match=says) as refusal:
            daemon.replace(NAME, pinned(place))
    finally:
        place.unlink()
    assert refusal.value.name == "WrongProgramType"


def test_a_sleeping_program_is_refused_from_a_pin_too(daemon: Daemon, kprobe: Kprobe) -> None:
    """What no section name tells, the kernel does: it does not take such a program into the slot."""
    daemon.attach(NAME, kprobe.target(), elf(compiled("kprobe")))
    refuse_from_pin(daemon, "sleeper", "may sleep")
    with kprobe.under_load() as load:
        pass
    assert hits_of(daemon)[0] == load.events


def test_a_program_for_many_does_not_go_to_one(daemon: Daemon, kprobe: Kprobe) -> None:
    """Loaded for kprobe.multi by somebody else: its expected_attach_type is another."""
    require(daemon, "kprobe-multi")
    daemon.attach(NAME, kprobe.target(), elf(compiled("kprobe")))
    refuse_from_pin(daemon, "kprobe_multi", "expected_attach_type")


def test_an_offset_is_hit(daemon: Daemon, kprobe: Kprobe) -> None:
    """At the second instruction: after endbr64 or the call of ftrace, or wherever the first one ends."""
    for offset in range(1, 16):
        words = {
            "kprobe": GLib.Variant("s", kprobe.function),
            "offset": GLib.Variant("t", offset),
        }
        with elf(compiled("kprobe")) as (program, fds):
            try:
                daemon.call("Attach", "(sa{sv}a{sv}a{sv})", (NAME, words, program, {}), fds=fds)
            except Refused:
                continue
        break
    with kprobe.under_load() as load:
        pass
    assert hits_of(daemon)[0] == load.events
    assert daemon.link(NAME)["Target"]["kprobe"] == kprobe.function


def test_looking_at_a_link_suppresses_no_hit(daemon: Daemon, kprobe: Kprobe) -> None:
    """A reader of maps that is preempted would: docs/kprobes.md. The daemon reads all the time here."""
    daemon.attach(NAME, kprobe.target(), elf(compiled("kprobe")))
    hits = hits_of(daemon)
    with kprobe.under_load() as load:
        for _ in range(200):
            daemon.link(NAME)
    assert hits[0] == load.events
    assert (daemon.link(NAME)["Missed"], daemon.link(NAME)["Suppressed"]) == (0, 0)


def test_two_links_on_one_function_both_count(daemon: Daemon, kprobe: Kprobe) -> None:
    daemon.attach(NAME, kprobe.target(), elf(compiled("kprobe")))
    daemon.attach("beside", kprobe.target(), elf(compiled("kprobe")))
    with kprobe.under_load() as load:
        pass
    assert hits_of(daemon)[0] == load.events


def test_two_are_swapped_together_or_neither(daemon: Daemon, kprobe: Kprobe) -> None:
    both = ("a", "b")
    for name in both:
        daemon.attach(name, kprobe.target(), elf(compiled("kprobe")))
    new, wrong = loaded(daemon.world, "kprobe", 1), loaded(daemon.world, "bind", 1)

    def swap(*pins: Path) -> list[tuple[str, int]]:
        swaps = [(name, {"pin": GLib.Variant("s", str(pin))}) for name, pin in zip(both, pins, strict=True)]
        return list(daemon.call("ReplaceMany", "(a(sa{sv})a{sv})", (swaps, {})))

    before = daemon.links()
    with pytest.raises(Refused, match=r"'b'.*no link was changed") as refusal:
        swap(new.pin, wrong.pin)
    assert refusal.value.name == "WrongProgramType"
    assert daemon.links() == before
    earlier = new.hits[0]
    assert swap(new.pin, new.pin) == [("a", 2), ("b", 2)]
    with kprobe.under_load() as load:
        pass
    assert new.hits[0] - earlier == 2 * load.events
    place = daemon.world.bpffs / "stranger"
    run("bpftool", "prog", "load", compiled("kprobe"), place)
    slot = daemon.pins / "b" / "slot"
    run("bpftool", "map", "update", "pinned", slot, "key", *"0000", "value", "pinned", place)
    with pytest.raises(Refused, match=r"'b'.*no link was changed"):
        swap(new.pin, new.pin)
    assert daemon.link("a")["Generation"] == 2


def test_kill_9_at_random_moments_of_attach_replace_and_detach(daemon: Daemon, kprobe: Kprobe) -> None:
    """Record, slot and pins agree after each start; one link at most, and it counts what it is told."""
    chance = random.Random(20261121)
    links_before = kernel_objects()["link"]
    for _ in range(KILLS):
        change = threading.Thread(target=_change_until_refused, args=(daemon, kprobe), daemon=True)
        change.start()
        time.sleep(chance.uniform(0.5, 4))
        daemon.kill()
        change.join(60)
        daemon.start()
        links = daemon.links()
        assert daemon.pinned() == set(links)
        if NAME not in links:
            until(lambda: kernel_objects()["link"] == links_before, "no link is left behind", seconds=20)
            continue
        assert links[NAME]["State"] == "active"
        pins = {pin.name for pin in (daemon.pins / NAME).iterdir()} - {"kept"}
        assert pins == {"link", "slot", "program", "maps"}
        hits, missed = hits_of(daemon), links[NAME]["Missed"]
        before = hits[0]
        with kprobe.under_load() as load:
            pass
        assert (hits[0] - before, daemon.link(NAME)["Missed"]) == (load.events, missed)
        assert missed == 0
        daemon.detach(NAME)


def test_a_detach_that_had_emptied_the_slot_is_finished(daemon: Daemon, kprobe: Kprobe) -> None:
    """As `kill -9` leaves it in the midst of a detach: nothing is left, nor set aside as a stranger's."""
    links_before = kernel_objects()["link"]
    daemon.attach(NAME, kprobe.target(), elf(compiled("kprobe")))
    daemon.kill()
    with contextlib.closing(sqlite3.connect(daemon.state_dir / "bpflinkd.sqlite")) as state, state:
        state.execute("UPDATE link SET ending = 1")
    run("bpftool", "map", "delete", "pinned", daemon.pins / NAME / "slot", "key", *"0000")
    daemon.start()
    assert daemon.links() == {}
    assert not daemon.pinned()
    until(lambda: kernel_objects()["link"] == links_before, "the link is gone", seconds=20)


def _change_until_refused(daemon: Daemon, kprobe: Kprobe) -> None:
    """Attach, replace, detach, over and over, until the daemon is gone."""
    with contextlib.suppress(Refused):
        while True:
            daemon.attach(NAME, kprobe.target(), elf(compiled("kprobe")))
            for _ in range(3):
                daemon.replace(NAME, elf(compiled("kprobe")))
            daemon.detach(NAME)
