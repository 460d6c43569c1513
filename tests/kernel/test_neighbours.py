"""Programs that come and go beside ours on a cgroup: nothing announces them, the sweep counts them."""

import time
from pathlib import Path

import pytest
from gi.repository import GLib

from tests.kernel.test_replace import tamper
from tests.kernel.test_watch import Signals, sever
from tests.lab import Daemon, World
from tests.lab.compiled import program
from tests.lab.daemon import elf
from tests.lab.world import run, until


@pytest.fixture
def daemon(world: World) -> Daemon:
    return world.daemon("--sweep-interval", "0.2", "--no-sentinel")


@pytest.fixture
def stranger(daemon: Daemon) -> Path:
    """A program of somebody else, pinned."""
    pin = daemon.world.bpffs / "stranger"
    run("bpftool", "prog", "load", program("ingress"), pin, "type", "cgroup/skb")
    return pin


def beside(place: str, pin: Path, verb: str = "attach", attach_type: str = "egress") -> None:
    flags = ("multi",) if verb == "attach" else ()
    run("bpftool", "cgroup", verb, str(World.cgroup_dir(place)), attach_type, "pinned", str(pin), *flags)


def test_one_that_comes_and_goes_is_told(daemon: Daemon, stranger: Path) -> None:
    place = daemon.world.cgroup()
    daemon.attach("egress", {"cgroup": place}, elf(program("count"), "egress_count"))
    signals = Signals(daemon)
    beside(place, stranger)
    until(lambda: signals.kinds("egress") == ["neighbour-added"], "told")
    beside(place, stranger, attach_type="ingress")
    beside(place, stranger, "detach")
    until(lambda: signals.kinds("egress") == ["neighbour-added", "neighbour-removed"], "told")
    assert daemon.state("egress") == "active"


def test_one_that_was_there_before_us_is_no_news(daemon: Daemon, stranger: Path) -> None:
    place = daemon.world.cgroup()
    beside(place, stranger)
    daemon.attach("egress", {"cgroup": place}, elf(program("count"), "egress_count"))
    signals = Signals(daemon)
    daemon.attach("other", {"cgroup": place}, elf(program("count"), "egress_count"))
    daemon.replace("egress", elf(program("count"), "egress_count"))
    daemon.detach("other")
    beside(place, stranger, "detach")
    until(lambda: bool(signals.kinds("egress")), "told")
    assert signals.kinds("egress") == ["neighbour-removed"]


def test_a_cgroup_that_goes_takes_its_programs_without_a_word(daemon: Daemon, stranger: Path) -> None:
    place = daemon.world.cgroup()
    daemon.attach("egress", {"cgroup": place}, elf(program("count"), "egress_count"))
    signals = Signals(daemon)
    beside(place, stranger)
    until(lambda: signals.kinds("egress") == ["neighbour-added"], "told")
    World.cgroup_dir(place).rmdir()
    until(lambda: daemon.state("egress") == "waiting", "gone")
    assert signals.kinds("egress") == ["neighbour-added", "target-gone"]


@pytest.mark.parametrize("policy", ["alert", "restore"])
@pytest.mark.parametrize("deed", ["updated", "detached", "detached and replaced"])
def test_what_happens_to_ours_is_told_as_that(daemon: Daemon, stranger: Path, deed: str, policy: str) -> None:
    place = daemon.world.cgroup()
    daemon.attach(
        "egress", {"cgroup": place}, elf(program("count"), "egress_count"), policy=GLib.Variant("s", policy)
    )
    signals = Signals(daemon)
    if deed == "updated":
        tamper(daemon, "egress", stranger)
    else:
        sever(daemon, "egress")
    expected = ["link-updated" if deed == "updated" else "link-detached"]
    if deed == "detached and replaced":
        beside(place, stranger)
        expected.append("neighbour-added")
    until(lambda: len(signals.kinds("egress")) >= len(expected), "told")
    time.sleep(1)
    assert sorted(signals.kinds("egress")) == expected
    assert daemon.state("egress") == (
        "active" if policy == "restore" else "tampered" if deed == "updated" else "severed"
    )
