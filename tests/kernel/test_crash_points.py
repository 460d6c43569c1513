"""kill -9 at every system call that lasts, of attach, replace, detach and the start that heals them.

What is before stays, or what is after has come: for the records, for the kernel and for the pins
alike. Between two such calls nothing changes that outlives the daemon, so that this is the whole search.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from gi.repository import GLib

from bpflinkd.store.sqlite import FILE_NAME
from integration.conformance.conftest import require
from integration.conformance.kinds import KINDS, Cgroup, Xdp
from tests.lab import Daemon, World
from tests.lab.daemon import Refused
from tests.lab.faults import (
    LASTING_CALLS,
    PLAIN_WRITES,
    Call,
    Watched,
    require_strace,
    when_quiet,
)
from tests.lab.witnesses import Lab, View
from tests.lab.world import until

pytestmark = pytest.mark.timeout(1200)

ANSWERS = ("sendmsg",)
"""How answers and signals go to the bus."""
TRIES = 6
"""For each point: a checkpoint of the database now and then puts other calls between the usual ones."""


class XdpAuto(Xdp):
    mode = "auto"


SEARCHED = {"xdp auto": XdpAuto, "cgroup": Cgroup} | {
    name: KINDS[name] for name in ("kprobe", "kretprobe", "kprobe-multi")
}


@dataclass(frozen=True)
class Operation:
    """Something that the daemon is asked to do."""

    before: Callable[[Lab], None]
    act: Callable[[Lab], None]
    generation: int | None
    """That the link has when it is done; None: no link."""

    def is_done(self, before: View | None, now: View | None) -> bool:
        """Whether what is found is what there is after it, given what there was before."""
        if now is None or self.generation is None:
            return now is None and self.generation is None
        if now["Generation"] != self.generation:
            return False
        if before is not None:
            # A swap: the same link in the kernel, another program.
            changed = {key for key in before if before[key] != now[key]}
            assert {"Program", "Generation", "Source"} <= changed
            assert changed <= {"Program", "Generation", "GenerationSince", "Source", "StateSince"}
            assert now["Program"]["id"] != before["Program"]["id"]
        return True


OPERATIONS = {
    "attach": Operation(Lab.absent, Lab.attach, 1),
    "replace": Operation(Lab.present, Lab.replace, 2),
    "detach": Operation(Lab.present, Lab.detach, None),
}


@pytest.fixture(scope="module")
def bench() -> Iterator[Callable[[str], Lab]]:
    """One world for all, with a lab for each kind that is asked for."""
    with World() as world:
        world.veth("v0", "v1")
        # The sentinel is loaded by another thread than the one whose calls are counted.
        daemon = world.daemon("--sweep-interval", "3600", "--no-sentinel")
        labs: dict[str, Lab] = {}

        def lab(kind: str) -> Lab:
            if daemon.process is None or daemon.process.poll() is not None:
                daemon.end()
                daemon.start()
            for name in daemon.links():
                daemon.detach(name)
            require(daemon, SEARCHED[kind].feature)
            if kind not in labs:
                labs[kind] = Lab(SEARCHED[kind](world), daemon)
            return labs[kind]

        yield lab


@pytest.fixture(params=SEARCHED)
def lab(request: pytest.FixtureRequest, bench: Callable[[str], Lab]) -> Lab:
    require_strace()
    return bench(request.param)


def answered(act: Callable[[], None]) -> bool:
    """Do it; False where the daemon ended before it said that it is done."""
    try:
        act()
    except Refused as refusal:
        # The bus tells that the one who was asked has gone.
        assert refusal.name in (
            "org.freedesktop.DBus.Error.NoReply",
            "org.freedesktop.DBus.Error.ServiceUnknown",
        ), refusal
        return False
    return True


def watch(
    lab: Lab, operation: Operation, calls: tuple[str, ...], kill_at: dict[str, int]
) -> tuple[tuple[Call, ...], bool]:
    """Do it under watch; the calls that were made, and whether it was answered."""
    process = lab.daemon.process
    assert process
    with Watched(process.pid, lab.log, calls=calls, kill_at=kill_at) as watched:
        done = answered(lambda: operation.act(lab))
        if process.poll() is None:
            when_quiet(lab.log)
    return of_one_thread(watched.calls), done


def kinds_of(calls: Sequence[Call]) -> list[tuple[str, str]]:
    """The calls that change something, without their threads, which differ from process to process."""
    return [(call.name, call.what) for call in calls if call.what not in READS]


def of_one_thread(calls: tuple[Call, ...]) -> tuple[Call, ...]:
    """The calls of the one thread that makes what lasts; others, for the properties of a kprobe, only read.

    It makes a name and a number one point of the whole process: strace counts for each thread. The event log
    has a thread of its own, and nothing is decided by what is in it.
    """
    lasting = {
        call.thread: call
        for call in calls
        if call.name in LASTING_CALLS and call.what not in READS and not call.what.startswith(EVENT_LOG)
    }
    assert len(lasting) <= 1, lasting
    return tuple(call for call in calls if call.name not in LASTING_CALLS or call.thread in lasting)


def usual(lab: Lab, operation: Operation, calls: tuple[str, ...]) -> tuple[Call, ...]:
    """The calls of the operation when nobody disturbs it: those that come twice in a row."""
    seen: list[tuple[str, str]] = []
    for _ in range(TRIES):
        operation.before(lab)
        lab.agreed()  # and what came before has been told by then
        made, done = watch(lab, operation, calls, {})
        assert done
        if kinds_of(made) == seen:
            return made
        seen = kinds_of(made)
    raise AssertionError("the operation never makes the same calls twice in a row")


def check(lab: Lab, operation: Operation, before: View | None, done: bool, where: object) -> bool:
    """Start, and see that it ended as before or as after; True: as after."""
    lab.daemon.end()
    lab.daemon.start()
    try:
        now = lab.agreed()
        after = operation.is_done(before, now)
        assert after or now == before
        assert after or not done, "it was answered as done, and is not"
    except Exception as error:
        raise AssertionError(f"killed at {where}: {error}") from error
    return after


def search(lab: Lab, operation: Operation, calls: tuple[str, ...]) -> tuple[int, list[bool]]:
    """Kill it at each of the calls; how many there are, and for each whether it came out as done."""
    points = [call for call in usual(lab, operation, calls) if call.what not in READS]
    outcomes = []
    for index, point in enumerate(points):
        for _ in range(TRIES):
            operation.before(lab)
            before = lab.agreed()
            made, done = watch(lab, operation, calls, {point.name: point.nth})
            outcome = check(lab, operation, before, done, point)
            if kinds_of(made) == kinds_of(points[: index + 1]):
                break
        else:
            raise AssertionError(f"{point} was never reached as in the undisturbed operation: {made}")
        outcomes.append(outcome)
    return len(points), outcomes


@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_at_every_call_that_lasts(lab: Lab, name: str) -> None:
    operation = OPERATIONS[name]
    count, outcomes = search(lab, operation, LASTING_CALLS)
    print(f"{name}: {count} points, as after from number {outcomes.index(True) + 1} on")
    assert count > 10
    # There is one moment at which it is done, and both sides of it were searched.
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {False, True}


@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_at_every_word_to_the_bus(lab: Lab, name: str) -> None:
    """Done in the kernel and not yet told, told to the caller and not yet to others."""
    count, outcomes = search(lab, OPERATIONS[name], ANSWERS)
    assert count >= 3
    assert all(outcomes)


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_search_is_complete(lab: Lab, name: str) -> None:
    """One call more of each name than were searched, and the operation comes to its end."""
    operation = OPERATIONS[name]
    calls = (*LASTING_CALLS, *PLAIN_WRITES)
    operation.before(lab)
    made, _ = watch(lab, operation, calls, {})
    others = {call.what for call in made if call.name in PLAIN_WRITES}
    assert others <= {"anon_inode:[eventfd]", "daemon.log"}, (
        "records or pins are written by a call not searched"
    )
    points = usual(lab, operation, LASTING_CALLS)
    for _ in range(TRIES):
        operation.before(lab)
        before = lab.agreed()
        beyond = {call.name: call.nth + 1 for call in points}
        made, done = watch(lab, operation, LASTING_CALLS, beyond)
        assert check(lab, operation, before, done, "the end") or not done
        if kinds_of(made) == kinds_of(points):
            assert done
            return
    raise AssertionError("the operation never makes the calls that were searched")


@dataclass(frozen=True)
class HalfDone:
    """A crash in the middle of an operation, named by the call that was not made any more."""

    operation: str
    after: str
    """The last of these calls was made,"""
    at: str
    """and the next of these was not."""

    def index(self, calls: tuple[Call, ...]) -> int:
        done = max(i for i, call in enumerate(calls) if self.after in (call.name, call.what))
        return next(i for i, call in enumerate(calls) if i > done and call.name == self.at)


HALF_DONE = {
    "an attach not pinned": HalfDone("attach", "BPF_LINK_CREATE", "bpf"),
    "an attach not recorded": HalfDone("attach", "BPF_OBJ_PIN", "pwrite64"),
    "a swap not recorded": HalfDone("replace", "BPF_LINK_UPDATE", "pwrite64"),
    "maps half moved": HalfDone("replace", "link", "rename"),
    "pins half moved": HalfDone("replace", "rmdir", "rename"),
    "a detach begun": HalfDone("detach", "fdatasync", "bpf"),
}
EVENT_LOG = "events"
"""Its directory and its files begin so."""
READS = (
    "BPF_OBJ_GET",
    "BPF_OBJ_GET_INFO_BY_FD",
    "BPF_PROG_GET_FD_BY_ID",
    "BPF_PROG_QUERY",
    "BPF_LINK_GET_NEXT_ID",
    "BPF_LINK_GET_FD_BY_ID",
    "BPF_MAP_LOOKUP_ELEM",
)
"""What only looks. How often our pins are looked at depends on how fast the changes to them are told."""


@pytest.mark.parametrize("half", HALF_DONE)
def test_killed_at_every_step_of_the_start_that_heals(lab: Lab, half: str) -> None:
    """A crash, a start that is killed as well, and a start."""
    operation = OPERATIONS[HALF_DONE[half].operation]
    usually = usual(lab, operation, LASTING_CALLS)
    index = HALF_DONE[half].index(usually)
    point = usually[index]

    def crash() -> View | None:
        for _ in range(TRIES):
            lab.restart_if_killed()
            operation.before(lab)
            before = lab.agreed()
            made, done = watch(lab, operation, LASTING_CALLS, {point.name: point.nth})
            lab.daemon.end()
            if kinds_of(made) == kinds_of(usually[: index + 1]):
                assert not done
                return before
        raise AssertionError(f"{point} was never reached as in the undisturbed operation")

    def crash_twice(call: Call) -> bool:
        for _ in range(TRIES):
            before = crash()
            last = start_watched(lab, {call.name: call.nth})[-1]
            outcome = check(lab, operation, before, done=False, where=f"{point}, and then at {call}")
            if (last.name, last.what) == (call.name, call.what):
                return outcome
        raise AssertionError(f"{call} was never reached as in the undisturbed start")

    before = crash()
    points = steps(start_watched(lab, {}))
    outcome = check(lab, operation, before, done=False, where=point)
    print(f"{half}: {len(points)} points")
    assert len(points) >= 3
    assert [crash_twice(call) for call in points] == [outcome] * len(points)


def steps(calls: tuple[Call, ...]) -> list[Call]:
    """Calls but for those that only read, and the first of those in a row that are about the records.

    A transaction is there or not; the search of the operations is in the midst of each. And now and
    then a checkpoint comes with one, which must not make this another search.
    """
    found: list[Call] = []
    records = False
    for call in calls:
        before, records = records, call.what.startswith(FILE_NAME) or call.name in ("fsync", "fdatasync")
        if call.what not in READS and not (before and records):
            found.append(call)
    return found


def start_watched(lab: Lab, kill_at: dict[str, int]) -> tuple[Call, ...]:
    """Start under watch from where it asks for the bus; the calls from there until it is ready or killed.

    The bus is stopped until the watch has begun: the database and the directory of pins are open by then,
    and nothing is healed before the bus answers.
    """
    daemon = lab.daemon
    bus = daemon.bus_call("GetConnectionUnixProcessID", GLib.Variant("(s)", ("org.freedesktop.DBus",)))[0]
    os.kill(bus, signal.SIGSTOP)
    try:
        daemon_started(daemon)
        process = daemon.process
        assert process
        with Watched(process.pid, lab.log, kill_at=kill_at) as watched:
            os.kill(bus, signal.SIGCONT)
            until(lambda: process.poll() is not None or daemon.owned(), "a start, or its end", seconds=100)
    finally:
        os.kill(bus, signal.SIGCONT)
    daemon.kill()
    return of_one_thread(watched.calls)


def daemon_started(daemon: Daemon) -> None:
    """Start it, and wait until it has the directory of pins open."""
    with daemon.log.open("a") as log:
        process = daemon.process = subprocess.Popen(daemon.command(), stderr=log, text=True)

    def has_pins() -> bool:
        assert process.poll() is None
        try:
            return any(fd.readlink() == daemon.pins for fd in Path(f"/proc/{process.pid}/fd").iterdir())
        except FileNotFoundError:
            return False  # closed meanwhile

    until(has_pins, "the daemon to have its directories", seconds=100)


def test_the_call_of_a_kill_is_not_made(tmp_path: Path) -> None:
    """What `tests.lab.faults` says of strace: the order, and that each thread has a count of its own."""
    require_strace()
    code = (
        "import os, sys, threading\n"
        "sys.stdin.readline()\n"
        "make = lambda name: [os.mkdir(f'{sys.argv[1]}/{name}{n}') for n in range(3)]\n"
        "thread = threading.Thread(target=make, args=['a'])\n"
        "thread.start()\n"
        "thread.join()\n"
        "make('b')\n"
    )
    with subprocess.Popen(["python3", "-c", code, tmp_path], stdin=subprocess.PIPE) as process:
        with Watched(process.pid, tmp_path / "log", kill_at={"mkdir": 4}) as watched:
            process.communicate(b"\n")
        assert process.returncode == 0
    with subprocess.Popen(["python3", "-c", code, tmp_path / "x"], stdin=subprocess.PIPE) as process:
        (tmp_path / "x").mkdir()
        with Watched(process.pid, tmp_path / "log", kill_at={"mkdir": 3}) as watched:
            process.communicate(b"\n")
        assert process.returncode == -signal.SIGKILL
    assert {entry.name for entry in (tmp_path / "x").iterdir()} == {"a0", "a1"}
    assert [call.what for call in watched.calls] == ["a0", "a1", "a2"]
