"""One connection to the bus that bpflinkd is on: calls, signals, and waiting for both.

GIO carries the messages. Little else is imported: a command line client starts anew for every call.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn, TypeAlias

from gi.repository import Gio, GLib

from bpflinkd.client.errors import ClientError, NoDaemon, NotAllowed, refusal
from bpflinkd.client.messages import decode, decoder
from bpflinkd.dbus.contract import BUS_NAME

_SLOW_AFTER_MS: Final = 1000

Notice: TypeAlias = Callable[[], Callable[[], None]]
"""Begins to tell the user that we wait; what it returns ends that."""
Heard: TypeAlias = Callable[[str, list[Any]], None]
"""Takes a signal: its name, and its arguments."""


class Connection:
    """A private connection. It is for one thread, and runs GLib's main context while it waits.

    Ctrl-C ends any wait by KeyboardInterrupt.
    """

    def __init__(self, bus: str, *, timeout: float, interactive: bool, slow: Notice | None) -> None:
        """Connect to `system`, `session` or an address, in so many seconds. `NoDaemon`, `NotAllowed`."""
        self._slow = slow
        self._bus = f"{bus} bus" if bus in ("system", "session") else f"bus {bus}"
        flags = Gio.DBusCallFlags
        self._flags = flags.ALLOW_INTERACTIVE_AUTHORIZATION if interactive else flags.NONE
        client = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT
        client |= Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
        cancel = Gio.Cancellable()

        def begin(done: Any) -> None:
            Gio.DBusConnection.new_for_address(_address(bus), client, None, cancel, done)

        patience = GLib.timeout_add(int(timeout * 1000), cancel.cancel)
        try:
            self._connection = Gio.DBusConnection.new_for_address_finish(self._wait(begin))
        except GLib.Error as error:
            raise self._unreachable(error, timeout) from None
        finally:
            if not cancel.is_cancelled():
                GLib.source_remove(patience)

    @property
    def name(self) -> str:
        """Our unique name on the bus."""
        return str(self._connection.get_unique_name())

    def close(self) -> None:
        """Part from the bus. Links that this connection holds begin to end."""
        with suppress(GLib.Error):  # it was closed already, perhaps by the bus
            self._connection.close_sync(None)

    def exchange(
        self,
        path: str,
        interface: str,
        method: str,
        arguments: GLib.Variant | None,
        files: Gio.UnixFDList | None,
        timeout: float,
    ) -> tuple[Any, list[int]]:
        """A call; its answer and the descriptors that came with it, which are the caller's to close."""
        to = (BUS_NAME, path, interface, method, arguments, None, self._flags)

        def begin(done: Any) -> None:
            self._connection.call_with_unix_fd_list(*to, int(timeout * 1000), files, None, done)

        try:
            answer, sent = self._connection.call_with_unix_fd_list_finish(self._wait(begin))
            return decode(answer), list(sent.steal_fds()) if sent is not None else []
        except GLib.Error as error:
            raise self._failure(error, timeout) from None

    @contextmanager
    def hearing(self, path: str, interface: str, signal: str) -> Iterator[list[list[Any]]]:
        """A context in which the arguments of each such signal of the daemon's are gathered."""
        heard: list[list[Any]] = []

        def took(_bus: Any, _sender: str, _path: str, _interface: str, _name: str, body: Any) -> None:
            heard.append(decode(body))

        bus, none = self._connection, Gio.DBusSignalFlags.NONE
        subscription = bus.signal_subscribe(BUS_NAME, interface, signal, path, None, none, took)
        try:
            yield heard
        finally:
            bus.signal_unsubscribe(subscription)

    def listen(
        self,
        places: Sequence[tuple[str, str]],
        heard: Heard,
        *,
        there: Callable[[], None] = lambda: None,
        gone: Callable[[], None] = lambda: None,
    ) -> NoReturn:
        """Tell the daemon's signals until what is called raises; raises that.

        Args:
            places: pairs of an object path and an interface.
            there: called when the daemon is there, at once where it is already.
            gone: called when the daemon has gone. `NoDaemon` is raised when the bus has.
        """
        loop = GLib.MainLoop()
        ended: list[BaseException] = []

        def guarded(function: Callable[..., None], *arguments: Any) -> None:
            try:
                function(*arguments)
            except BaseException as error:  # GIO would print it and go on
                ended.append(error)
                loop.quit()

        def took(_bus: Any, _sender: str, _path: str, _interface: str, name: str, body: Any) -> None:
            guarded(lambda: heard(name, decode(body)))

        def vanished(connection: Any, _name: str) -> None:
            guarded(self._broke if connection is None or connection.is_closed() else gone)

        bus = self._connection
        none, start = Gio.DBusSignalFlags.NONE, Gio.BusNameWatcherFlags.AUTO_START
        heard_by = [
            bus.signal_subscribe(BUS_NAME, interface, None, path, None, none, took)
            for path, interface in places
        ]
        watched_by = Gio.bus_watch_name_on_connection(
            bus, BUS_NAME, start, lambda *_: guarded(there), vanished
        )
        try:
            loop.run()
        finally:
            Gio.bus_unwatch_name(watched_by)
            for subscription in heard_by:
                bus.signal_unsubscribe(subscription)
        raise ended[0]

    def _broke(self) -> NoReturn:
        sentence = f"the connection to the {self._bus} broke; links stay attached without it"
        raise NoDaemon(sentence, name="DaemonGone")

    def _wait(self, begin: Callable[[Any], None]) -> Gio.AsyncResult:
        """Run one operation of GIO's to its end. Unlike GIO's own waiting, Ctrl-C interrupts this."""
        loop = GLib.MainLoop()
        results: list[Gio.AsyncResult] = []
        told: list[Callable[[], None]] = []

        def done(_source: Any, result: Gio.AsyncResult) -> None:
            results.append(result)
            loop.quit()

        def slow() -> bool:
            told.append(self._slow() if self._slow else lambda: None)
            return bool(GLib.SOURCE_REMOVE)

        begin(done)
        decoder()
        patience = GLib.timeout_add(_SLOW_AFTER_MS, slow)
        try:
            loop.run()
        finally:
            if not told:
                GLib.source_remove(patience)
            for end in told:
                end()
        return results[0]

    def _unreachable(self, error: GLib.Error, timeout: float) -> ClientError:
        if _is(error, Gio.IOErrorEnum.PERMISSION_DENIED):
            return NotAllowed(f"the {self._bus} does not let you in: {error.message}", name="AccessDenied")
        if _is(error, Gio.IOErrorEnum.CANCELLED):
            return NoDaemon(f"the {self._bus} did not answer within {timeout:g} s", name="NoBus")
        return NoDaemon(
            f"the {self._bus} cannot be reached: {error.message}; is dbus-daemon running?", name="NoBus"
        )

    def _failure(self, error: GLib.Error, timeout: float) -> ClientError:
        remote = Gio.dbus_error_get_remote_error(error)
        if remote:
            return refusal(remote, error.message.removeprefix(f"GDBus.Error:{remote}: "))
        if _is(error, Gio.IOErrorEnum.TIMED_OUT):
            return ClientError(
                f"bpflinkd did not answer within {timeout:g} s; what was asked may still be done, "
                "'bpflinkctl list' tells; --timeout waits longer",
                name="Timeout",
            )
        if _is(error, Gio.IOErrorEnum.CLOSED):
            return NoDaemon(f"the connection to the {self._bus} broke: {error.message}", name="DaemonGone")
        return ClientError(f"the call could not be made: {error.message}", name="CallFailed")


def _is(error: GLib.Error, code: Any) -> bool:
    return bool(error.matches(Gio.io_error_quark(), code))


def _address(bus: str) -> str:
    kinds = {"system": Gio.BusType.SYSTEM, "session": Gio.BusType.SESSION}
    return str(Gio.dbus_address_get_for_bus_sync(kinds[bus], None)) if bus in kinds else bus
