"""No room for records: what cannot be recorded is not done, and what is recorded goes on."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Daemon, World
from tests.lab.compiled import program
from tests.lab.daemon import Refused, elf
from tests.lab.faults import Watched, require_strace
from tests.lab.world import run, until

PAGE = 4096
"""tmpfs gives room by pages, and a page of the database is as large."""
ENOUGH = 64
"""Pages of room with which everything must work."""


@dataclass
class Small:
    """A daemon whose state directory is a small file system of its own, with a link of each kind."""

    daemon: Daemon
    path: str
    objects: dict[str, Path] = field(default_factory=dict)

    @property
    def world(self) -> World:
        return self.daemon.world

    # The disk

    def fill(self, room: int = 0) -> None:
        """Leave so many pages."""
        self.clear()
        with self._filler.open("wb", buffering=0) as file:
            length = 0
            try:
                while written := file.write(bytes(16 * PAGE)):
                    length += written
            except OSError:
                pass
            assert length % PAGE == 0
            file.truncate(length - room * PAGE)

    def clear(self) -> None:
        self._filler.unlink(missing_ok=True)

    @property
    def _filler(self) -> Path:
        return self.daemon.state_dir / "filler"

    # Operations

    def attach(self) -> None:
        self.daemon.attach("more", {"xdp": "v1"}, elf(program("single")))

    def replace(self) -> None:
        names = {"count_old": "count_new", "count_new": "count_old"}
        self.daemon.replace("edge", elf(program("count"), names[self.daemon.link("edge")["Program"]["name"]]))

    def detach(self) -> None:
        self.daemon.detach("more")

    # What there is

    def snapshot(self) -> tuple[Any, ...]:
        """Links as the daemon tells of them, pins, programs on the hooks."""
        pins = sorted(str(pin.relative_to(self.daemon.pins)) for pin in self.daemon.pins.rglob("*"))
        links = self.daemon.links()
        for link in links.values():
            # A start takes the time of the generation for it, which a replace before it did not change.
            del link["StateSince"]
        return links, pins, self.hooks()

    def brief(self) -> dict[str, tuple[str, str, int]]:
        """What matters first, so that a failure of a test can be read."""
        links = self.daemon.links()
        return {name: (link["State"], link["Reason"], link["Generation"]) for name, link in links.items()}

    def hooks(self) -> list[str]:
        """Each hook with what is on it."""
        ends = [self.world.ip("-d", "-j", "link", "show", name) for name in ("v0", "v1")]
        xdp = [end[end.index('"xdp"') :][:120] if '"xdp"' in end else "" for end in ends]
        return [*xdp, run("bpftool", "cgroup", "show", self.world.cgroup_dir(self.path))]

    def running(self) -> dict[str, bool]:
        """Whether the kernel has a program on the hook of each link."""
        edge, _, it = self.hooks()
        return {"edge": bool(edge), "it": bool(it.strip())}


def assert_same(now: tuple[Any, ...], before: tuple[Any, ...]) -> None:
    """Two snapshots are equal; if not, only what differs is told."""
    assert set(now[0]) == set(before[0])
    for name, link in before[0].items():
        changed = {
            key: (value, now[0][name][key]) for key, value in link.items() if now[0][name][key] != value
        }
        assert changed == {}, name
    assert now[1:] == before[1:]


@pytest.fixture
def small(world: World) -> Iterator[Small]:
    place = world.dir / "state"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place)
    daemon: Daemon | None = None
    try:
        daemon = world.daemon("--sweep-interval", "3600")
        made = Small(daemon, world.cgroup())
        daemon.attach("edge", {"xdp": "v0"}, elf(program("count"), "count_old"))
        daemon.attach("it", {"cgroup": made.path}, elf(program("count"), "egress_count"))
        yield made
    finally:
        if daemon is not None:
            daemon.end()
        run("umount", "--lazy", place)


@dataclass(frozen=True)
class Operation:
    """Something that needs room."""

    before: Callable[[Small], None] | None
    act: Callable[[Small], None]
    again: Callable[[Small], None] | None
    """Makes it possible once more."""


OPERATIONS = {
    "attach": Operation(None, Small.attach, Small.detach),
    "replace": Operation(None, Small.replace, None),
    "detach": Operation(Small.attach, Small.detach, Small.attach),
}


@pytest.mark.parametrize("killed", [pytest.param(False, id="goes on"), pytest.param(True, id="is killed")])
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.timeout(600)
def test_done_or_refused_whatever_room_there_is(small: Small, name: str, killed: bool) -> None:
    """Every number of pages from none on, until it is done: each write of it is once the one that fails."""
    operation, daemon = OPERATIONS[name], small.daemon
    if operation.before is not None:
        operation.before(small)
    refused = 0
    for room in range(ENOUGH):
        # A log from the beginning: what is written to it needs room, and always as much.
        daemon.restart()
        before = small.snapshot()
        small.fill(room)
        try:
            operation.act(small)
        except Refused as refusal:
            assert (refusal.name, "full" in refusal.message) == ("StorageFailed", True), refusal
            assert_same(small.snapshot(), before)
            refused += 1
            done = False
        else:
            done = True
            assert small.snapshot() != before
        brief, now = small.brief(), small.snapshot()
        if killed:  # and started on the disk that is as full
            daemon.restart(signal.SIGKILL)
            assert (room, small.brief()) == (room, brief)
            assert_same(small.snapshot(), now)
        small.clear()
        if done:
            break
        # Nothing is left of the failure once there is room.
        operation.act(small)
        if operation.again is not None:
            operation.again(small)
    assert done
    print(f"{name}: refused {refused} times")
    assert refused > 1
    assert {link["State"] for link in daemon.links().values()} == {"active"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_started_on_a_full_disk_it_has_its_links(small: Small, number: int) -> None:
    daemon = small.daemon
    before = small.snapshot()
    daemon.end(number)
    small.fill()
    daemon.start()
    assert_same(small.snapshot(), before)
    with pytest.raises(Refused, match="full") as refusal:
        daemon.detach("it")
    assert refusal.value.name == "StorageFailed"
    assert_same(small.snapshot(), before)
    small.clear()
    small.replace()
    daemon.detach("it")
    assert set(daemon.links()) == {"edge"}


@pytest.mark.parametrize(
    ("name", "call", "done"),
    [
        pytest.param("attach", "rename", True, id="an attach that was recorded"),
        pytest.param("attach", "mkdir", False, id="an attach that was not"),
        pytest.param("replace", "rename", True, id="a replace that was recorded"),
        pytest.param("replace", "mkdir", False, id="a replace that was not"),
        pytest.param("detach", "unlink", True, id="a detach that was begun"),
    ],
)
def test_what_a_crash_left_is_healed_on_a_full_disk(small: Small, name: str, call: str, done: bool) -> None:
    """Killed in the midst while there was room, at the first such call, and started when there is none."""
    require_strace()
    operation, daemon = OPERATIONS[name], small.daemon
    if operation.before is not None:
        operation.before(small)
    before = small.snapshot()
    assert daemon.process
    with (
        Watched(daemon.process.pid, small.world.dir / "strace.log", kill_at={call: 1}),
        pytest.raises(Refused, match="NoReply"),
    ):
        operation.act(small)
    daemon.end()
    small.fill()
    daemon.start()
    links, pins, _ = small.snapshot()
    assert {link["State"] for link in links.values()} == {"active"}
    assert not [pin for pin in pins if "next_" in pin]
    expected = {
        "attach": {"edge": 1, "it": 1, "more": 1},
        "replace": {"edge": 2, "it": 1},
        "detach": {"edge": 1, "it": 1},
    }
    if done:
        assert {key: link["Generation"] for key, link in links.items()} == expected[name]
        assert {pin.split("/")[0] for pin in pins} == set(expected[name])
    else:
        assert_same(small.snapshot(), before)
    now = small.snapshot()
    small.clear()
    daemon.restart(signal.SIGKILL)
    assert_same(small.snapshot(), now)
    if not done:
        operation.act(small)
    assert {key: generation for key, (_, _, generation) in small.brief().items()} == expected[name]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_links_that_are_gone_are_attached_again_on_a_full_disk(small: Small, number: int) -> None:
    """As after a reboot: the kernel has nothing, the records are there, and cannot be written to."""
    daemon = small.daemon
    before = daemon.links()
    daemon.end(number)
    subprocess.run(["rm", "-r", *map(str, daemon.pins.iterdir())], check=True)
    until(lambda: not any(small.running().values()), "the kernel to drop the links")
    small.fill()
    daemon.start()
    links = daemon.links()
    assert {name: (link["State"], link["Reason"]) for name, link in links.items()} == {
        "edge": ("active", ""),
        "it": ("active", ""),
    }
    assert small.running() == {"edge": True, "it": True}
    for name, link in links.items():
        for key in ("Generation", "Target", "Policy", "Created", "Source"):
            assert link[key] == before[name][key]
    # Killed once more, with what it could not record: it is the same links that it takes back.
    now = small.snapshot()
    daemon.restart(signal.SIGKILL)
    assert_same(small.snapshot(), now)
    small.clear()
    small.replace()
    daemon.restart(signal.SIGKILL)
    assert {link["State"] for link in daemon.links().values()} == {"active"}
    assert daemon.link("edge")["Generation"] == 2
