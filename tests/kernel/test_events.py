"""The event log of a real daemon: kept over kill -9 and a full disk, followed without loss."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from gi.repository import GLib

from bpflinkd.core.events import Healed
from bpflinkd.core.ids import UnixMicros
from bpflinkd.store.event_log import EventLog
from tests.kernel.test_ownership import GRANTS, OWNER, STRANGER
from tests.kernel.test_watch import becomes, sever
from tests.lab import Daemon, World
from tests.lab.as_user import AsUser
from tests.lab.compiled import program
from tests.lab.daemon import Refused, builtin, elf
from tests.lab.world import run, until

CTL = Path(sys.executable).with_name("bpflinkctl")


def events(daemon: Daemon, **options: GLib.Variant) -> list[dict[str, Any]]:
    return list(daemon.call("Events", "(a{sv})", (options,)))


def told(daemon: Daemon) -> list[str]:
    return [each.get("kind") or each["event"] for each in events(daemon)]


def ctl(world: World, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command: list[str | Path] = [CTL, "--bus", world.bus, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def documents(world: World, *arguments: str) -> list[dict[str, Any]]:
    done = ctl(world, "--json", *arguments)
    assert done.returncode == 0, done.stdout
    return [json.loads(line) for line in done.stdout.splitlines()]


# What is kept


def test_what_happened_is_known_after_kill_9_and_after_the_link_is_gone(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, elf(program("count"), "count_old"))
    daemon.replace("edge", elf(program("count"), "count_new"))
    until(lambda: "program_replaced" in told(daemon), "told")
    daemon.kill()
    daemon.start()
    daemon.detach("edge")
    found = events(daemon)
    assert [each["event"] for each in found] == ["link_added", "program_replaced", "link_removed"]
    assert {each["name"] for each in found} == {"edge"}
    assert found[1]["before"][1:2] == ("count_old",)
    assert found[1]["after"][1:2] == ("count_new",)
    assert found[1]["who"]["uid"] == 0
    assert found[1]["who"]["executable"].startswith("/usr/bin/python3")
    assert "detached by uid 0" in found[2]["sentence"]
    assert [each["number"] for each in found] == sorted({each["number"] for each in found})
    assert abs(found[2]["time"] / 1_000_000 - time.time()) < 60


def test_a_foreign_change_is_kept_and_blamed(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    sever(daemon)
    becomes(daemon, "severed")
    (change,) = events(daemon, kinds=GLib.Variant("as", ["foreign_change"]))
    assert (change["kind"], change["state"], change["target"]) == (
        "link-detached",
        "severed",
        ("xdp", "v0", "auto"),
    )
    assert change["before"][1] == "pass_xdp"
    daemon.detach("edge")
    (document,) = documents(daemon.world, "blame", "edge")
    assert [each.get("kind") or each["event"] for each in document["events"]] == [
        "link_added",
        "link-detached",
        "link_removed",
    ]
    lines = ctl(daemon.world, "blame", "edge").stdout.splitlines()
    assert lines[0].split() == ["TIME", "WHAT", "WHO", "PROGRAM"]
    assert "link-detached" in lines[2]
    assert "-> none" in lines[2]
    assert len(ctl(daemon.world, "blame", "edge", "-n", "1").stdout.splitlines()) == 2


def test_nothing_to_blame(daemon: Daemon) -> None:
    done = ctl(daemon.world, "blame", "edge")
    assert (done.returncode, "NoSuchLink" in done.stderr) == (1, True)


def test_links_that_a_start_takes_back_are_no_news(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    for _ in range(2):
        daemon.restart()
    assert told(daemon) == ["link_added"]


def test_no_more_is_kept_than_is_asked_for(world: World) -> None:
    daemon = world.daemon("--events-kept", "100", "--sweep-interval", "3600")
    path = world.cgroup()
    daemon.attach("it", {"cgroup": path}, elf(program("count"), "egress_count"))
    for _ in range(150):
        daemon.replace("it", elf(program("count"), "egress_count"))
    found = events(daemon)
    assert [each["generation"] for each in found] == list(range(52, 152))


# What goes wrong


def test_a_full_disk_costs_no_event_and_nothing_else(world: World) -> None:
    place = world.dir / "state"
    (place / "events").mkdir(parents=True)
    run("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place / "events")
    world.at_end(lambda: run("umount", "-l", place / "events"))
    daemon = world.daemon("--sweep-interval", "3600")
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    assert told(daemon) == ["link_added"]
    filler = place / "events" / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    for _ in range(100):
        daemon.replace("edge", builtin())
    until(lambda: "all else goes on" in daemon.said(), "said")
    assert told(daemon) == ["link_added", *["program_replaced"] * 100], "memory has what the disk has not"
    assert daemon.said().count("all else goes on") == 1
    filler.unlink()
    daemon.replace("edge", builtin())
    until(lambda: "works again" in daemon.said(), "said")
    daemon.kill()
    daemon.start()
    assert told(daemon) == ["link_added", *["program_replaced"] * 101]
    assert daemon.link("edge")["Generation"] == 102


def test_a_broken_file_is_set_aside_and_the_daemon_starts(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    until(lambda: told(daemon) == ["link_added"], "told")
    daemon.end()
    (daemon.state_dir / "events" / "events.sqlite").write_bytes(b"no database" * 1000)
    daemon.start()
    daemon.replace("edge", builtin())
    assert told(daemon) == ["program_replaced"]
    assert "set aside as events.aside.sqlite" in daemon.said()


# Who may know


@pytest.mark.parametrize(
    ("options", "error"),
    [
        pytest.param({}, "NotAuthorized", id="of all links"),
        pytest.param({"links": []}, "NotAuthorized", id="of no link"),
        pytest.param({"links": ["mine"]}, "", id="of its own"),
        pytest.param({"links": ["mine", "roots"]}, "NotAuthorized", id="of root's among its own"),
        pytest.param({"links": ["gone"]}, "NotAuthorized", id="of one that is gone"),
    ],
)
def test_a_user_is_told_of_its_own_links(world: World, options: dict[str, Any], error: str) -> None:
    place = world.dir / "etc" / "grants.d"
    place.mkdir(parents=True)
    (place / "test.toml").write_text(GRANTS.replace("xdp:u0", "xdp:v*"))
    daemon = world.daemon("--sweep-interval", "3600")
    daemon.attach("mine", {"xdp": "v0"}, builtin())
    daemon.detach("mine")
    daemon.attach("roots", {"xdp": "v1"}, builtin())
    owner, stranger = AsUser(world, OWNER), AsUser(world, STRANGER)
    owner.attach("mine", {"xdp": "v0"}, builtin())
    given = ({key: GLib.Variant("as", value) for key, value in options.items()},)
    try:
        found = owner.call("Events", "(a{sv})", given)
    except Refused as refused:
        assert refused.name == error
        assert "may not read what happened" in refused.message
    else:
        assert not error
        assert [(each["event"], each["who"]["uid"]) for each in found] == [("link_added", OWNER)], (
            "what root's link of this name went through is not its business"
        )
    with pytest.raises(Refused, match="NotAuthorized"):
        stranger.call("Events", "(a{sv})", given)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param({"since": GLib.Variant("s", "1h")}, "'since' must be of type int", id="a word"),
        pytest.param({"since": GLib.Variant("x", -1)}, "never below 0", id="before 1970"),
        pytest.param({"after": GLib.Variant("x", -1)}, "never below 0", id="a number below 0"),
        pytest.param({"limit": GLib.Variant("u", 0)}, "between 1 and 200", id="none"),
        pytest.param({"limit": GLib.Variant("u", 2**32 - 1)}, "between 1 and 200", id="all of them"),
        pytest.param({"links": GLib.Variant("au", [1])}, "must be of type as", id="links by number"),
        pytest.param({"kinds": GLib.Variant("as", ["x" * 999])}, "no kind of event", id="no kind"),
        pytest.param({"sinse": GLib.Variant("t", 1)}, "known options", id="a typo"),
    ],
)
def test_what_cannot_be_asked_is_refused(daemon: Daemon, options: dict[str, GLib.Variant], said: str) -> None:
    with pytest.raises(Refused, match=said) as refused:
        events(daemon, **options)
    assert refused.value.name == "BadOption"
    assert len(refused.value.message) < 700


@pytest.mark.parametrize("key", ["since", "after"])
def test_the_largest_numbers_are_numbers(daemon: Daemon, key: str) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    assert events(daemon, **{key: GLib.Variant("t", 2**64 - 1)}) == []


# Following


@pytest.fixture
def busy(world: World) -> Iterator["Busy"]:
    made = Busy(world)
    yield made
    made.stop()


class Busy:
    """A daemon whose link gets a new generation again and again."""

    def __init__(self, world: World) -> None:
        self.daemon = world.daemon("--sweep-interval", "3600")
        self._changer = AsUser(world, 0)
        self._changer.attach("it", {"cgroup": world.cgroup()}, elf(program("count"), "egress_count"))
        self._on = True
        self._thread = threading.Thread(target=self._change)
        self._thread.start()

    def _change(self) -> None:
        while self._on:
            self._changer.replace("it", elf(program("count"), "egress_count"))

    def stop(self) -> None:
        self._on = False
        self._thread.join()


def test_a_follower_gets_each_event_once_from_the_log_and_after(busy: Busy) -> None:
    world = busy.daemon.world
    until(lambda: busy.daemon.link("it")["Generation"] > 20, "some generations")
    log = world.dir / "followed"
    with log.open("w") as file:
        command: list[str | Path] = [CTL, "--bus", world.bus, "--json", "events", "it", "--since", "1h"]
        follower = world.process(*command, stdout=file)
        until(lambda: len(log.read_text().splitlines()) > 50, "followed", seconds=30)
        busy.stop()
        last = busy.daemon.link("it")["Generation"]
        until(lambda: f'"generation": {last}' in log.read_text(), "the last one", seconds=30)
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 0
    generations = [json.loads(line)["generation"] for line in log.read_text().splitlines()]
    assert generations == list(range(1, last + 1))


def test_names_and_kinds_are_followed_alone(daemon: Daemon) -> None:
    log = daemon.world.dir / "followed"
    with log.open("w") as file:
        command: list[str | Path] = [
            CTL,
            "--bus",
            daemon.world.bus,
            "--json",
            "events",
            "two",
            "--kind",
            "program_replaced",
        ]
        follower = daemon.world.process(*command, stdout=file)
        daemon.attach("one", {"xdp": "v0"}, builtin())
        daemon.attach("two", {"xdp": "v1"}, builtin())

        def seen() -> bool:
            daemon.replace("one", builtin())
            daemon.replace("two", builtin())
            return bool(log.read_text())

        until(seen, "followed")
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 0
    followed = [json.loads(line) for line in log.read_text().splitlines()]
    assert {(each["event"], each["name"]) for each in followed} == {("program_replaced", "two")}


def test_a_name_that_is_no_link_is_pointed_out(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    done = ctl(daemon.world, "events", "edgee", "--no-follow")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "bpflinkctl: there is no link 'edgee' now; did you mean 'edge'?\n"
    assert ctl(daemon.world, "events", "edge", "--no-follow").stderr == ""


def test_what_happened_so_far_is_told_and_no_more(daemon: Daemon) -> None:
    daemon.attach("one", {"xdp": "v0"}, builtin())
    daemon.attach("two", {"xdp": "v1"}, builtin())
    daemon.detach("one")
    so_far = documents(daemon.world, "events", "--no-follow")
    assert [(each["event"], each["name"]) for each in so_far] == [
        ("link_added", "one"),
        ("link_added", "two"),
        ("link_removed", "one"),
    ]
    assert documents(daemon.world, "events", "one", "--no-follow", "--kind", "link_removed") == so_far[2:]
    assert documents(daemon.world, "events", "--no-follow", "--since", "2099-01-01") == []
    assert documents(daemon.world, "events", "--no-follow", "--since", "boot") == so_far


def written(daemon: Daemon, number: int) -> None:
    """So many entries more, while the daemon is away."""
    daemon.end()
    log = EventLog(daemon.state_dir / "events", 10_000)
    now = UnixMicros(time.time_ns() // 1000)
    log.append((now, Healed(name="it", sentence=str(each))) for each in range(number))
    log.close()
    daemon.start()


def test_many_entries_come_page_by_page(daemon: Daemon) -> None:
    written(daemon, 2500)
    assert [each["sentence"] for each in events(daemon)] == [str(each) for each in range(2300, 2500)]
    all_of_it = documents(daemon.world, "events", "--no-follow")
    assert [each["sentence"] for each in all_of_it] == [str(each) for each in range(2500)]
