"""Who calls: real processes on a real bus, some of which pretend.

A bus newer than Debian's, which gives pidfds, is a FAKE: `_Newer` at the end of this file. What it gives are
real pidfds of real processes.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from gi.repository import Gio, GLib

from bpflinkd.core.callers import Caller
from bpflinkd.dbus.peer import Peers, Sightings, when_gone
from bpflinkd.dbus.process import now, of_pid, of_pidfd
from bpflinkd.kernel.cgroup import CgroupTree
from tests.unit.system_bus import NOBODY, connect, system_bus, turn_until

PYTHON: Final = "/usr/bin/python3"
_CLIENT: Final = """
import os, sys
os.{before}
from gi.repository import Gio
flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
bus = Gio.DBusConnection.new_for_address_sync(sys.argv[1], flags, None, None)
bus.set_exit_on_close(False)
print(bus.get_unique_name(), flush=True)
sys.stdin.read()
"""
# The child of one that has ended keeps its socket.
_LEFT_BEHIND: Final = _CLIENT.replace("sys.stdin", "if os.fork(): os._exit(0)\nsys.stdin")
# clone3() lets who may choose the pid: struct clone_args ends with the address of pids and how many they are.
_WITH_PID: Final = """
import ctypes, os, signal, sys
pid, uid = map(int, sys.argv[1:])
wanted = (ctypes.c_int * 1)(pid)
arguments = (ctypes.c_uint64 * 10)(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(wanted), 1)
made = ctypes.CDLL(None, use_errno=True).syscall(435, arguments, ctypes.sizeof(arguments))
if made == 0:
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    print("ready", flush=True)
    signal.pause()
if made < 0:
    sys.exit(os.strerror(ctypes.get_errno()))
sys.stdin.read()
os.kill(made, signal.SIGKILL)
os.waitpid(made, 0)
"""


@pytest.fixture(autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: other users, cgroups")


@pytest.fixture(scope="module")
def bus() -> Iterator[str]:
    with system_bus() as address:
        yield address


@pytest.fixture
def connection(bus: str) -> Iterator[Gio.DBusConnection]:
    made = connect(bus)
    yield made
    made.close_sync(None)


@pytest.fixture
def unit() -> Iterator[Path]:
    """The cgroup of a unit `tw-agent.service`, in a slice of our own."""
    root = CgroupTree().root
    assert root is not None
    top = Path(tempfile.mkdtemp(prefix="bpflinkd_test", suffix=".slice", dir=root))
    place = top / "tw-agent.service"
    place.mkdir()
    yield place
    turn_until(lambda: not (place / "cgroup.procs").read_text(), "the unit is empty")
    place.rmdir()
    top.rmdir()


def inside(cgroup: Path | None, *command: str | Path) -> list[str]:
    """A command that joins a cgroup before all else."""
    join = ("sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', cgroup) if cgroup is not None else ()
    return [str(word) for word in (*join, *command)]


@contextlib.contextmanager
def client(
    bus: str, *before: str, cgroup: Path | None = None, code: str = _CLIENT, prepare: str = "getpid()"
) -> Iterator[tuple[str, int]]:
    """The unique name and the pid of a process that is on the bus while the context lasts."""
    words = inside(cgroup, *before, PYTHON, "-c", code.replace("{before}", prepare), bus)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process.pid


def identified(peers: Peers, name: str) -> Caller | None:
    found: list[Caller | None] = []
    peers.identify(name, found.append)
    turn_until(lambda: bool(found), "an answer of the bus")
    return found[0]


def surely(peers: Peers, name: str) -> Caller:
    caller = identified(peers, name)
    assert caller is not None
    return caller


# What is told


def test_a_caller_is_told_in_full(bus: str, connection: Gio.DBusConnection, unit: Path) -> None:
    drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--groups=4242,4343")
    with client(bus, *drop, cgroup=unit) as (name, pid):
        assert surely(Peers(connection), name) == Caller(
            uid=NOBODY,
            gids=frozenset({NOBODY, 4242, 4343}),
            pid=pid,
            unit="tw-agent.service",
            exe=os.path.realpath(PYTHON),
            name=name,
        )


def test_root_is_told_in_full_too(bus: str, connection: Gio.DBusConnection, unit: Path) -> None:
    with client(bus, cgroup=unit) as (name, pid):
        caller = surely(Peers(connection), name)
    assert (caller.uid, caller.pid, caller.unit) == (0, pid, "tw-agent.service")
    assert caller.exe


def test_a_process_outside_of_units_has_none(bus: str, connection: Gio.DBusConnection, unit: Path) -> None:
    with client(bus, cgroup=unit.parent) as (name, _):
        assert surely(Peers(connection), name).unit == ""


def test_below_a_unit_its_name_counts(bus: str, connection: Gio.DBusConnection, unit: Path) -> None:
    below = unit / "ssh.service"
    below.mkdir()
    try:
        with client(bus, cgroup=below) as (name, _):
            assert surely(Peers(connection), name).unit == "tw-agent.service"
    finally:
        below.rmdir()


def test_the_kernel_makes_no_cgroup_that_would_add_a_line(unit: Path) -> None:
    """What `core.units` relies on: the one byte that could not be told from the kernel's own is refused."""
    with pytest.raises(OSError, match="Invalid argument"):
        (unit / "x\n0::").mkdir()


def test_who_is_not_on_the_bus_is_nobody(connection: Gio.DBusConnection) -> None:
    peers = Peers(connection)
    assert identified(peers, ":1.99999") is None
    assert peers._known == {}


# Memory


def test_a_caller_is_asked_for_once_and_forgotten_when_it_leaves(
    bus: str, connection: Gio.DBusConnection
) -> None:
    peers = Peers(connection)
    with client(bus) as (name, _):
        both: list[Caller | None] = []
        peers.identify(name, both.append)
        peers.identify(name, both.append)
        turn_until(lambda: len(both) == 2, "both answers")
        assert both[0] is both[1]
        at_once: list[Caller | None] = []
        peers.identify(name, at_once.append)
        assert at_once == both[:1]
    turn_until(lambda: not peers._known, "it is forgotten")
    assert identified(peers, name) is None


def test_what_is_remembered_has_a_limit(
    bus: str, connection: Gio.DBusConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bpflinkd.dbus.peer._REMEMBERED", 2)
    peers = Peers(connection)
    others = [connect(bus) for _ in range(3)]
    names = [str(other.get_unique_name()) for other in others]
    for name in (names[0], names[1], names[0], names[2]):
        assert identified(peers, name)
    assert list(peers._known) == [names[0], names[2]]
    for other in others:
        other.close_sync(None)
    turn_until(lambda: not peers._known, "they are forgotten")


def test_the_bus_has_room_for_all_that_is_remembered(bus: str, connection: Gio.DBusConnection) -> None:
    """A match rule that the bus refuses is refused without a word: the last to come must be forgotten too."""
    peers = Peers(connection)
    others = [connect(bus) for _ in range(250)]  # a user may have 256
    for other in others:
        assert identified(peers, str(other.get_unique_name()))
    others.pop().close_sync(None)
    turn_until(lambda: len(peers._known) == len(others), "the last is forgotten")
    for other in others:
        other.close_sync(None)


def test_a_departure_is_told_until_it_is_not_wanted(bus: str, connection: Gio.DBusConnection) -> None:
    leaving, unwanted, gone = connect(bus), connect(bus), connect(bus)
    gone.close_sync(None)
    told: list[str] = []
    when_gone(connection, str(gone.get_unique_name()), lambda: told.append("gone"))
    turn_until(lambda: told == ["gone"], "the departure before")
    when_gone(connection, str(leaving.get_unique_name()), lambda: told.append("leaving"))
    when_gone(connection, str(unwanted.get_unique_name()), lambda: told.append("unwanted"))()
    unwanted.close_sync(None)
    leaving.close_sync(None)
    turn_until(lambda: len(told) > 1, "the departure")
    assert told == ["gone", "leaving"]


# Who pretends


def test_who_has_left_its_socket_to_a_child_has_no_unit(
    bus: str, connection: Gio.DBusConnection, unit: Path
) -> None:
    with client(bus, cgroup=unit, code=_LEFT_BEHIND) as (name, pid):
        turn_until(lambda: ended(pid), "the parent ended")
        caller = surely(Peers(connection), name)
    assert (caller.uid, caller.pid, caller.unit, caller.exe) == (0, pid, "", "")


def test_who_changed_its_user_has_no_unit(bus: str, connection: Gio.DBusConnection, unit: Path) -> None:
    with client(bus, cgroup=unit, prepare=f"seteuid({NOBODY})") as (name, _):
        caller = surely(Peers(connection), name)
    assert (caller.uid, caller.unit) == (NOBODY, "")


@pytest.mark.parametrize(
    ("uid", "another_was_seen", "unit_told"),
    [
        pytest.param(NOBODY - 1, False, "", id="another user's"),
        pytest.param(NOBODY, True, "", id="its user's, started after a later caller was seen"),
        pytest.param(NOBODY, False, "tw-agent.service", id="its user's, and nobody else called meanwhile"),
    ],
)
def test_who_waited_for_its_pid_to_be_of_the_unit(
    bus: str, connection: Gio.DBusConnection, unit: Path, uid: int, another_was_seen: bool, unit_told: str
) -> None:
    """The last is what remains to an attacker on a bus without pidfds: within one user. See decision 0020."""
    peers = Peers(connection)
    drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    with client(bus, *drop, code=_LEFT_BEHIND) as (name, pid):
        turn_until(lambda: ended(pid), "the parent ended")
        os.waitpid(pid, 0)
        if another_was_seen:
            later = connect(bus)
            assert identified(peers, str(later.get_unique_name()))
            later.close_sync(None)
            reached = now() + 2
            turn_until(lambda: now() > reached, "the clock of start times")
        with process_of_the_unit(pid, uid, unit):
            caller = surely(peers, name)
    assert (caller.uid, caller.pid, caller.unit) == (NOBODY, pid, unit_told)


def ended(pid: int) -> bool:
    """Whether a child has ended, with all of its threads; it is not waited for yet."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


@contextlib.contextmanager
def process_of_the_unit(pid: int, uid: int, unit: Path) -> Iterator[None]:
    """A process with a pid of our choice."""
    words = inside(unit, PYTHON, "-c", _WITH_PID, str(pid), str(uid))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield


# The order of names


def test_a_later_name_tells_that_the_earlier_were_there() -> None:
    seen = Sightings()
    assert seen.connected_by(":1.5", 100) == 100
    assert seen.connected_by(":1.3", 200) == 100
    assert seen.connected_by(":1.9", 300) == 300
    assert seen.connected_by(":1.5", 400) == 100
    assert seen.connected_by(":1.6", 500) == 300
    assert seen.connected_by(":2.0", 600) == 600
    assert seen.connected_by(":1.2000000000", 700) == 600


def test_a_name_of_another_form_tells_nothing() -> None:
    seen = Sightings()
    seen.connected_by(":1.5", 100)
    assert seen.connected_by(":not-numbered", 200) == 200
    assert seen.connected_by(":1.5.5", 200) == 200


def test_sightings_have_a_limit_and_stay_true(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bpflinkd.dbus.peer._SIGHTINGS", 2)
    seen = Sightings()
    for number in (1, 2, 3):
        seen.connected_by(f":1.{number}", number * 100)
    assert seen.connected_by(":1.1", 400) == 200
    assert len(seen._numbers) == len(seen._moments) == 2


# The process


@contextlib.contextmanager
def running(*command: str | Path, cgroup: Path | None = None) -> Iterator[int]:
    with subprocess.Popen(inside(cgroup, *command)) as process:
        try:
            program = Path(command[-2]).name[:15]
            turn_until(lambda: comm(process.pid) == program, f"{program} runs")
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        pytest.param("tool", "{place}/tool", id="as it is"),
        pytest.param("a\n\x1b[1m\u202eb", "{place}/a??[1m?b", id="nothing that moves a cursor or turns text"),
        pytest.param("ab\udcff", "{place}/ab\ufffd", id="no text"),
    ],
)
def test_the_program_can_be_shown(tmp_path: Path, name: str, shown: str) -> None:
    program = tmp_path / name
    shutil.copy("/usr/bin/sleep", program)
    with running(program, "60") as pid:
        found = of_pid(pid, 0, now())
    assert found is not None
    assert found.exe == shown.format(place=tmp_path)


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_bytes().removesuffix(b"\n").decode(errors="surrogateescape")


def test_a_long_path_is_cut_and_a_removed_file_is_told(tmp_path: Path) -> None:
    deep = tmp_path / ("ü" * 100) / ("ü" * 100)
    deep.mkdir(parents=True)
    shutil.copy("/usr/bin/sleep", deep / "sleep")
    with running(deep / "sleep", "60") as pid:
        (deep / "sleep").unlink()
        found = of_pid(pid, 0, now())
    assert found is not None
    assert len(found.exe.encode()) in {254, 255}
    assert found.exe.startswith(f"{tmp_path}/ü")
    assert found.exe.endswith("ü (deleted)")


@pytest.mark.parametrize(
    ("options", "gids"),
    [
        pytest.param(("--regid=7", "--groups=8,9"), {7, 8, 9}, id="all groups"),
        pytest.param(("--rgid=7", "--egid=8", "--groups=9"), {9}, id="set-group-ID: not that one"),
        pytest.param(("--regid=7", "--clear-groups"), {7}, id="no other groups"),
    ],
)
def test_groups_where_the_bus_does_not_say(options: tuple[str, ...], gids: set[int]) -> None:
    with running("setpriv", *options, "/usr/bin/sleep", "60") as pid:
        found = of_pid(pid, 0, now())
    assert found is not None
    assert found.gids == gids


def test_a_process_is_not_older_than_it_says() -> None:
    with running("/usr/bin/sleep", "60") as pid:
        assert of_pid(pid, 0, now()) is not None
        assert of_pid(pid, 0, now() - 1000) is None


def test_a_name_with_parentheses_and_lines_changes_nothing(tmp_path: Path) -> None:
    program = tmp_path / ") 0 (\nUid:\t1\t1"
    shutil.copy("/usr/bin/sleep", program)
    with running(program, "60") as pid:
        assert of_pid(pid, 0, now()) is not None
        assert of_pid(pid, 1, now()) is None


# A bus that gives pidfds


@pytest.fixture
def newer() -> Iterator["_Newer"]:
    made = _Newer()
    yield made
    made.close()


def test_a_pidfd_is_believed(newer: "_Newer", unit: Path) -> None:
    with running("/usr/bin/sleep", "60", cgroup=unit) as pid:
        newer.callers[":1.7"] = pid, os.pidfd_open(pid)
        caller = surely(Peers(newer.connection), ":1.7")
    assert (caller.uid, caller.pid, caller.unit) == (0, pid, "tw-agent.service")
    assert caller.gids == {0}


def test_the_pidfd_of_one_that_ended_tells_nothing(newer: "_Newer", unit: Path) -> None:
    with running("/usr/bin/sleep", "60", cgroup=unit) as pid:
        newer.callers[":1.7"] = pid, os.pidfd_open(pid)
    assert surely(Peers(newer.connection), ":1.7").unit == ""


def test_a_pid_alone_is_not_believed_where_there_could_be_a_pidfd(newer: "_Newer", unit: Path) -> None:
    with running("/usr/bin/sleep", "60", cgroup=unit) as pid:
        newer.callers[":1.7"] = pid, None
        caller = surely(Peers(newer.connection), ":1.7")
    assert (caller.uid, caller.pid, caller.unit) == (0, pid, "")


def test_without_a_user_nobody_is_known(newer: "_Newer") -> None:
    newer.callers[":1.7"] = 0, None
    assert identified(Peers(newer.connection), ":1.7") is None


def test_no_descriptor_is_left_open(newer: "_Newer") -> None:
    newer.callers[":1.7"] = os.getpid(), os.pidfd_open(os.getpid())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        assert identified(Peers(newer.connection), ":1.7")
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_no_pidfd_tells_nothing() -> None:
    with open("/dev/null") as file:
        assert of_pidfd(file.fileno(), 0, now()) is None


class _Newer:
    """The bus itself, as far as `Peers` asks it: who has a user has a pidfd, if it is given one."""

    XML: Final = (
        "<node><interface name='org.freedesktop.DBus'>"
        "<method name='Hello'><arg type='s' direction='out'/></method>"
        "<method name='GetNameOwner'><arg type='s'/><arg type='s' direction='out'/></method>"
        "<method name='GetConnectionCredentials'><arg type='s'/><arg type='a{sv}' direction='out'/></method>"
        "</interface></node>"
    )

    def __init__(self) -> None:
        self.callers: dict[str, tuple[int, int | None]] = {":1.0": (os.getpid(), os.pidfd_open(os.getpid()))}
        self._place = tempfile.mkdtemp(prefix="bpflinkd-bus-")
        self._ends: list[Gio.DBusConnection] = []
        self._server = Gio.DBusServer.new_sync(
            f"unix:path={self._place}/socket", Gio.DBusServerFlags.NONE, Gio.dbus_generate_guid(), None, None
        )
        self._server.connect("new-connection", self._connected)
        self._server.start()
        flags = Gio.DBusConnectionFlags
        made: list[Gio.DBusConnection] = []
        Gio.DBusConnection.new_for_address(
            self._server.get_client_address(),
            flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION,
            None,
            None,
            lambda _, result: made.append(Gio.DBusConnection.new_for_address_finish(result)),
        )
        turn_until(lambda: bool(made), "a connection")
        (self.connection,) = made
        self.connection.set_exit_on_close(False)

    def _connected(self, _server: object, end: Gio.DBusConnection) -> bool:
        self._ends.append(end)
        (interface,) = Gio.DBusNodeInfo.new_for_xml(self.XML).interfaces
        end.register_object("/org/freedesktop/DBus", interface, self._called, None, None)
        return True

    def _called(self, *call: Any) -> None:
        method, arguments, invocation = call[4:7]
        if method == "Hello":
            invocation.return_value(GLib.Variant("(s)", (":1.0",)))
            return
        if method == "GetNameOwner":
            invocation.return_value(arguments)
            return
        (name,) = arguments.unpack()
        pid, pidfd = self.callers[name]
        said = {"ProcessID": GLib.Variant("u", pid)}
        files = Gio.UnixFDList.new()
        if pid:
            said["UnixUserID"] = GLib.Variant("u", 0)
        if pidfd is not None:
            said["ProcessFD"] = GLib.Variant("h", files.append(pidfd))
        invocation.return_value_with_unix_fd_list(GLib.Variant("(a{sv})", (said,)), files)

    def close(self) -> None:
        self.connection.close_sync(None)
        self._server.stop()
        for _, pidfd in self.callers.values():
            if pidfd is not None:
                os.close(pidfd)
        shutil.rmtree(self._place)
