"""What is refused before a call gets to the main loop, on a bus of the test's own."""

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from gi.repository import Gio, GLib

from bpflinkd.dbus import contract
from bpflinkd.dbus.closer import Closer
from bpflinkd.dbus.gate import MAX_BYTES, MAX_UNANSWERED, Gate
from bpflinkd.dbus.wrapper import Call, DeferringWrapper

INTERFACE = f"""<node><interface name="{contract.MANAGER}">
  <method name="Keep"><arg type="s" direction="in"/></method>
</interface></node>"""
SECONDS = 20


def everybody(_call: Call, then: Callable[[], None]) -> None:
    """An `Admit` that refuses nobody."""
    then()


class Bus:
    """A bus, a service behind a gate that keeps its calls unanswered until told, and a client."""

    def __init__(self, address: str) -> None:
        self.kept: list[Call] = []
        flags = Gio.DBusConnectionFlags
        kind = flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION
        self.service, self.client = (
            Gio.DBusConnection.new_for_address_sync(address, kind, None, None) for _ in range(2)
        )
        info = Gio.DBusNodeInfo.new_for_xml(INTERFACE).interfaces[0]
        closer = Closer()
        Gate(self.service, info.methods, closer)
        wrapper = DeferringWrapper({(contract.MANAGER, "Keep"): self.kept.append}, everybody, closer)
        self.service.register_object(contract.ROOT, info, wrapper.call_method, None, None)
        self.answers: Counter[str] = Counter()

    def ask(self, body: GLib.Variant, method: str = "Keep", fds: int = 0) -> None:
        """Call, and count the answer when it comes: by the name of the error, or an empty word."""
        files = Gio.UnixFDList.new()
        for _ in range(fds):
            with open(os.devnull) as null:
                files.append(null.fileno())

        def answered(connection: Gio.DBusConnection, result: Gio.AsyncResult) -> None:
            try:
                connection.call_with_unix_fd_list_finish(result)
            except GLib.Error as error:
                name = Gio.DBusError.get_remote_error(error)
                self.answers[name.rpartition(".")[2]] += 1
            else:
                self.answers[""] += 1

        to = (self.service.get_unique_name(), contract.ROOT, contract.MANAGER, method)
        self.client.call_with_unix_fd_list(*to, body, None, 0, -1, files, None, answered)

    def settle(self, answers: int, kept: int) -> None:
        """Run the main loop until so many calls were answered and so many are kept."""
        late: list[bool] = []
        timer = GLib.timeout_add_seconds(SECONDS, late.append, True)
        while (self.answers.total(), len(self.kept)) != (answers, kept):
            GLib.MainContext.default().iteration(True)
            assert not late, (self.answers, len(self.kept))
        GLib.source_remove(timer)

    def answer_all(self) -> None:
        """Answer what is kept."""
        while self.kept:
            self.kept.pop().answer(None)


@pytest.fixture
def bus() -> Iterator[Bus]:
    command = ["dbus-daemon", "--session", "--nofork", "--print-address"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as daemon:
        assert daemon.stdout
        try:
            made = Bus(daemon.stdout.readline().strip())
            yield made
            for connection in (made.client, made.service):
                connection.close_sync(None)
        finally:
            daemon.terminate()


WORD = GLib.Variant("(s)", ("x",))


def test_so_many_calls_may_wait_for_answers(bus: Bus) -> None:
    for _ in range(MAX_UNANSWERED + 6):
        bus.ask(WORD)
    bus.settle(6, MAX_UNANSWERED)
    assert bus.answers == {"LimitExceeded": 6}
    bus.answer_all()
    bus.settle(6 + MAX_UNANSWERED, 0)
    bus.ask(WORD)
    bus.settle(6 + MAX_UNANSWERED, 1)


def test_calls_that_gio_answers_itself_do_not_count(bus: Bus) -> None:
    for _ in range(MAX_UNANSWERED + 6):
        bus.ask(WORD, "Nope")
    bus.settle(MAX_UNANSWERED + 6, 0)
    bus.ask(WORD)
    bus.settle(MAX_UNANSWERED + 6, 1)
    assert bus.answers == {"UnknownMethod": MAX_UNANSWERED + 6}


@pytest.mark.parametrize(
    ("length", "fds", "passes"),
    [
        pytest.param(10, 4, True, id="within both limits"),
        pytest.param(10, 5, False, id="five descriptors"),
        pytest.param(MAX_BYTES, 0, False, id="too long"),
        pytest.param(MAX_BYTES, 4, False, id="too long, with descriptors"),
    ],
)
def test_size_and_descriptors(bus: Bus, length: int, fds: int, passes: bool) -> None:
    bus.ask(GLib.Variant("(s)", ("x" * length,)), fds=fds)
    bus.settle(0 if passes else 1, 1 if passes else 0)
    assert bus.answers == ({} if passes else {"LimitExceeded": 1})
    for call in bus.kept:
        assert [os.readlink(f"/proc/self/fd/{call.fd(index)}") for index in range(fds)] == ["/dev/null"] * fds
    bus.answer_all()


def test_wrong_arguments_lose_their_descriptors_before_gio_closes_them(bus: Bus) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        bus.ask(GLib.Variant("(u)", (1,)), fds=3)
    bus.settle(5, 0)
    assert bus.answers == {"InvalidArgs": 5}
    deadline = time.monotonic() + SECONDS
    while len(os.listdir("/proc/self/fd")) > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("sender", "left"),
    [
        pytest.param("org.freedesktop.DBus", 1, id="the bus itself"),
        pytest.param(":1.7", 0, id="anybody else"),
    ],
)
def test_descriptors_in_answers_are_for_those_of_the_bus(sender: str, left: int) -> None:
    """The bus gives the pidfd of a caller; an answer of somebody else is one that nobody asked for."""
    filters: list[Callable[..., Any]] = []
    connection = SimpleNamespace(add_filter=filters.append)
    Gate(connection, (), Closer())
    call = Gio.DBusMessage.new_method_call(None, "/", None, "GetConnectionCredentials")
    call.set_serial(1)
    answer = Gio.DBusMessage.new_method_reply(call)
    answer.set_sender(sender)
    files = Gio.UnixFDList.new()
    with open(os.devnull) as null:
        files.append(null.fileno())
    answer.set_unix_fd_list(files)
    assert filters[0](connection, answer, True) is answer
    assert files.get_length() == left
