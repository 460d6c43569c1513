"""What is said to the service manager, heard by a notify socket that keeps descriptors as systemd does."""

import hashlib
import logging
import os
import socket
import string
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gi.repository import GLib
from hypothesis import given
from hypothesis import strategies as st

from bpflinkd import systemd
from bpflinkd.core import names
from bpflinkd.systemd import fdstore
from bpflinkd.systemd.logs import set_up_logging

NAMES = st.text(string.ascii_letters + string.digits + "_.:@+-", min_size=1, max_size=128).map(names.encode)


class ServiceManager:
    """The end of $NOTIFY_SOCKET: notes messages, stores descriptors, answers barriers."""

    def __init__(self, place: Path) -> None:
        self.messages: list[str] = []
        self.stored: dict[str, list[int]] = {}
        self.dies_at = ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(place))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self._place = str(place)

    def count(self, message: str) -> int:
        return self.messages.count(message)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to_itself:
            to_itself.sendto(b"END", self._place)
        self._thread.join()
        self._socket.close()
        for fds in self.stored.values():
            for fd in fds:
                os.close(fd)

    def _serve(self) -> None:
        while True:
            data, fds, _, _ = socket.recv_fds(self._socket, 4096, 253)
            message = data.decode()
            if message == "END":
                return
            self._heard(message, fds)

    def _heard(self, message: str, fds: list[int]) -> None:
        self.messages.append(message)
        said = dict(line.split("=", 1) for line in message.splitlines())
        name = said.get("FDNAME", "stored")
        if said.get("FDSTORE") == "1":
            self.stored.setdefault(name, []).extend(fds)
            return
        if said.get("FDSTOREREMOVE") == "1":
            for fd in self.stored.pop(name, []):
                os.close(fd)
        if said.get("BARRIER") == "1" and self.dies_at == "barrier":
            self.stored["barrier"] = fds
            return
        for fd in fds:
            os.close(fd)


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceManager]:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "notify"
        monkeypatch.setenv("NOTIFY_SOCKET", str(place))
        listening = ServiceManager(place)
        yield listening
        listening.close()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


# Messages


def test_assignments_are_one_message(manager: ServiceManager) -> None:
    assert systemd.notify("READY=1", "STATUS=3 links")
    assert systemd.barrier(5.0)
    assert manager.messages == ["READY=1\nSTATUS=3 links", "BARRIER=1"]


def test_a_manager_that_is_gone_is_no_failure_of_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not systemd.notify("READY=1")
    assert not systemd.barrier(0.1)
    assert "was not told READY=1" in caplog.text


def test_a_manager_that_does_not_answer_is_not_waited_for_for_ever(manager: ServiceManager) -> None:
    manager.dies_at = "barrier"
    assert not systemd.barrier(0.05)


@pytest.mark.usefixtures("alone")
def test_outside_of_a_service_nothing_is_done(pipe: tuple[int, int]) -> None:
    store = systemd.FdStore()
    assert not systemd.is_service()
    assert not systemd.notify("READY=1")
    assert systemd.barrier(0.0)
    assert not store.keep("edge", pipe)
    assert store.drop("edge")
    assert store.inherited() == {}
    assert systemd.watchdog_interval() is None


# The fd store


def test_kept_descriptors_are_the_same_open_files(manager: ServiceManager, pipe: tuple[int, int]) -> None:
    assert systemd.FdStore().keep("edge_2dfilter", pipe)
    assert systemd.barrier(5.0)
    assert manager.messages[0] == "FDSTORE=1\nFDNAME=edge_2dfilter\nFDPOLL=0"
    _, stored = manager.stored["edge_2dfilter"]
    os.write(stored, b"through the store")
    assert os.read(pipe[0], 100) == b"through the store"


def test_more_descriptors_than_fit_one_message_are_kept(
    manager: ServiceManager, pipe: tuple[int, int]
) -> None:
    assert systemd.FdStore().keep("edge", [pipe[0]] * 300)
    assert systemd.barrier(5.0)
    assert len(manager.stored["edge"]) == 300


def test_no_descriptors_are_no_message(manager: ServiceManager) -> None:
    assert systemd.FdStore().keep("edge", [])
    assert systemd.barrier(5.0)
    assert manager.messages == ["BARRIER=1"]


def test_what_is_dropped_is_closed_and_nobody_waits_for_it(manager: ServiceManager) -> None:
    store = systemd.FdStore()
    reading, writing = os.pipe()
    assert store.keep("edge", [writing])
    os.close(writing)
    assert store.drop("edge")
    assert os.read(reading, 1) == b""  # once nobody has the other end
    os.close(reading)
    assert manager.count("BARRIER=1") == 0


def test_what_was_kept_is_inherited(tmp_path: Path) -> None:
    """As systemd does it: descriptors from 3 on, $LISTEN_PID is the new process."""
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    code = (
        "import os\n"
        "from bpflinkd.systemd import FdStore\n"
        "store = FdStore()\n"
        "found = store.inherited()\n"
        "print({key: [os.read(fd, 9).decode() for fd in fds] for key, fds in found.items()})\n"
        "print([os.get_inheritable(fd) for fds in found.values() for fd in fds])\n"
        "print(store.inherited(), [key for key in os.environ if key.startswith('LISTEN')])\n"
    )
    start = 'exec 3<a 4<b 5<c; LISTEN_PID=$$ LISTEN_FDS=3 LISTEN_FDNAMES=x:y_2dz:x exec "$@"'
    done = subprocess.run(
        ["/bin/sh", "-c", start, "sh", sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout.splitlines() == [
        "{'x': ['a', 'c'], 'y_2dz': ['b']}",
        "[False, False, False]",
        "{} []",
    ]


def test_descriptors_meant_for_another_process_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert systemd.FdStore().inherited() == {}


@given(NAMES)
def test_a_key_fits_and_is_what_the_manager_allows(name: str) -> None:
    key = systemd.FdStore.key(name)
    assert 0 < len(key) <= fdstore.LONGEST_KEY
    assert all(" " <= character <= "~" and character != ":" for character in key)
    assert systemd.FdStore.key(key) == key


@given(NAMES, NAMES)
def test_different_names_have_different_keys(one: str, other: str) -> None:
    assert (systemd.FdStore.key(one) == systemd.FdStore.key(other)) == (one == other)


def test_a_long_name_becomes_a_hash_that_no_encoded_name_can_be() -> None:
    key = systemd.FdStore.key("x" * 128)
    assert key == "__" + hashlib.sha256(b"x" * 128).hexdigest()[:28]
    assert names.encode(names.decode(key)) != key


# The watchdog


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        pytest.param({"WATCHDOG_USEC": "30000000"}, 30.0, id="thirty-seconds"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "OURS"}, 30.0, id="for-us"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None, id="for-another-process"),
        pytest.param({}, None, id="none-wanted"),
        pytest.param({"WATCHDOG_USEC": "0"}, None, id="switched-off"),
        pytest.param({"WATCHDOG_USEC": "soon"}, None, id="not-a-number"),
    ],
)
@pytest.mark.usefixtures("alone")
def test_interval_is_read_as_systemd_means_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], interval: float | None
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value.replace("OURS", str(os.getpid())))
    assert systemd.watchdog_interval() == interval


def run_loop(seconds: float) -> None:
    """Time goes by on the main loop."""
    loop = GLib.MainLoop()
    GLib.timeout_add(round(seconds * 1000), loop.quit)
    loop.run()


@pytest.fixture
def bites_after(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds; short, so that a test sees several."""
    monkeypatch.setenv("WATCHDOG_USEC", "150000")
    return 0.15


def test_a_healthy_daemon_is_heard_in_time(manager: ServiceManager, bites_after: float) -> None:
    watchdog = systemd.Watchdog(lambda: True)
    run_loop(4 * bites_after)
    watchdog.close()
    assert systemd.barrier(5.0)
    assert manager.count("WATCHDOG=1") >= 4


def test_a_stuck_thread_makes_it_silent_until_it_goes_on(
    manager: ServiceManager, bites_after: float, caplog: pytest.LogCaptureFixture
) -> None:
    well = False
    watchdog = systemd.Watchdog(lambda: well)
    run_loop(2 * bites_after)
    assert systemd.barrier(5.0)
    assert manager.count("WATCHDOG=1") == 0
    assert caplog.text.count("is stuck") == 1
    well = True
    run_loop(2 * bites_after)
    watchdog.close()
    assert systemd.barrier(5.0)
    assert manager.count("WATCHDOG=1") > 0


def test_a_blocked_loop_says_nothing(manager: ServiceManager, bites_after: float) -> None:
    watchdog = systemd.Watchdog(lambda: True)
    loop = GLib.MainLoop()
    heard: list[int] = []

    def block() -> bool:
        time.sleep(4 * bites_after)
        assert systemd.barrier(5.0)
        heard.append(manager.count("WATCHDOG=1"))
        loop.quit()
        return False

    GLib.idle_add(block, priority=GLib.PRIORITY_HIGH)
    loop.run()
    watchdog.close()
    assert heard == [0]


@pytest.mark.usefixtures("alone")
def test_without_a_watchdog_there_is_no_timer() -> None:
    def asked() -> bool:
        raise AssertionError("nobody wants to know")

    watchdog = systemd.Watchdog(asked)
    run_loop(0.05)
    watchdog.close()


# The log


@pytest.mark.parametrize(
    ("stream", "foreground", "handler"),
    [
        pytest.param("OURS", False, "JournalHandler", id="a-service-logs-to-the-journal"),
        pytest.param("OURS", True, "StreamHandler", id="asked-for-standard-error"),
        pytest.param("1:2", False, "StreamHandler", id="standard-error-goes-elsewhere"),
        pytest.param(None, False, "StreamHandler", id="no-service"),
    ],
)
@pytest.mark.usefixtures("alone")
def test_where_the_log_goes(
    monkeypatch: pytest.MonkeyPatch, stream: str | None, foreground: bool, handler: str
) -> None:
    status = os.fstat(2)
    if stream:
        monkeypatch.setenv("JOURNAL_STREAM", stream.replace("OURS", f"{status.st_dev}:{status.st_ino}"))
    root = logging.RootLogger(logging.WARNING)
    monkeypatch.setattr(logging, "root", root)
    set_up_logging(foreground=foreground)
    assert [type(each).__name__ for each in root.handlers] == [handler]
