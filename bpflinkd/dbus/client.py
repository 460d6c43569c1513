"""The client's side of interface.xml: a method a verb, typed arguments, errors by what they mean.

GIO carries the messages. Little else is imported, the core's model not either: a command line
client starts anew for every call.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

from gi.repository import Gio, GLib

from bpflinkd.core import names
from bpflinkd.dbus.answers import ClientError, NoDaemon, NotAllowed, decode, decoder, refusal
from bpflinkd.dbus.contract import BUS_NAME, LINK, LINKS, MANAGER, OBJECT_MANAGER, PROPERTIES, ROOT
from bpflinkd.dbus.values import (
    Event,
    KprobeTarget,
    LinkProperties,
    ManagerProperties,
    OpenObject,
    OpenSource,
    Program,
    ProgramFile,
    Refusal,
    Reloaded,
    Row,
    Source,
    Target,
    XdpTarget,
)

_NO_OBJECT: Final = ("UnknownObject", "UnknownMethod", "UnknownInterface")
_SLOW_AFTER_MS: Final = 1000

Notice: TypeAlias = Callable[[], Callable[[], None]]
"""Begins to tell the user that we wait; what it returns ends that."""


class Client:
    """The Manager, through a connection of its own. Ctrl-C ends any wait by KeyboardInterrupt."""

    def __init__(self, bus: str = "system", *, timeout: float = 30.0, slow: Notice | None = None) -> None:
        """Connect to `system`, `session` or an address. `NoDaemon` and `NotAllowed` say why not.

        `timeout` is in seconds and for each answer; `slow` is called when one takes over a second.
        """
        self._timeout = timeout
        self._slow = slow
        self._bus = f"{bus} bus" if bus in ("system", "session") else f"bus {bus}"
        flags = Gio.DBusConnectionFlags
        client = flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION
        cancel = Gio.Cancellable()

        def begin(done: Any) -> None:
            GLib.timeout_add(int(timeout * 1000), cancel.cancel)
            Gio.DBusConnection.new_for_address(_address(bus), client, None, cancel, done)

        try:
            self._connection = Gio.DBusConnection.new_for_address_finish(self._wait(begin))
        except GLib.Error as error:
            raise self._unreachable(error) from None

    def attach(
        self,
        name: str,
        target: Target,
        source: Program,
        *,
        policy: str | None = None,
        lifetime: str | None = None,
        wait: bool = False,
    ) -> str:
        """Make a link; returns its object path."""
        where = _target(target)
        options = _strings({"policy": policy, "lifetime": lifetime}) | (
            {"wait": GLib.Variant("b", True)} if wait else {}
        )
        program, fds = _program(source)
        arguments = GLib.Variant("(sa{sv}a{sv}a{sv})", (name, where, program, options))
        return cast(str, self._manager("Attach", arguments, fds)[0])

    def replace(
        self, name: str, source: OpenObject | OpenSource | Source, *, expect: int | None = None
    ) -> int:
        """Swap the program of a link; returns the new generation."""
        options = {} if expect is None else {"expect": GLib.Variant("t", expect)}
        program, fds = _program(source)
        arguments = GLib.Variant("(sa{sv}a{sv})", (name, program, options))
        return cast(int, self._manager("Replace", arguments, fds)[0])

    def detach(self, name: str) -> None:
        """End a link."""
        self._manager("Detach", GLib.Variant("(sa{sv})", (name, {})))

    def reload(self) -> Reloaded:
        """Apply what the files in links.d declare."""
        done, refused = self._manager("Reload")
        return Reloaded(done, [Refusal(*one) for one in refused])

    def program_file(self, name: str) -> ProgramFile:
        """The file that a link's program was loaded from, as the daemon keeps it."""
        (_index, kind, program), fds = self._exchange(
            ROOT, MANAGER, "ProgramFile", GLib.Variant("(s)", (name,))
        )
        with open(fds[0], "rb") as file:
            return ProgramFile(kind, program, file.read())

    def rows(self) -> list[Row]:
        """Every link in brief, by name: what List returns."""
        return sorted(map(Row._make, self._manager("List")[0]))

    def links(self) -> list[LinkProperties]:
        """Every link with all its properties, by name."""
        (objects,) = self._call(ROOT, OBJECT_MANAGER, "GetManagedObjects")
        found = [interfaces[LINK] for interfaces in objects.values() if LINK in interfaces]
        return sorted(found, key=lambda link: cast(str, link["Name"]))

    def link(self, name: str) -> LinkProperties:
        """One link. Raises a `ClientError` named NoSuchLink where there is none."""
        try:
            return cast(LinkProperties, self._get_all(LINKS + names.encode(name), LINK))
        except ClientError as error:
            if error.name not in _NO_OBJECT:
                raise
        raise ClientError("NoSuchLink", f"there is no link {name!r}; 'bpflinkctl list' shows all")

    def list_foreign(self) -> list[dict[str, Any]]:
        """Programs on our hooks that are not ours, as ListForeign returns them."""
        return cast(list[dict[str, Any]], self._manager("ListForeign")[0])

    def status(self) -> ManagerProperties:
        """The daemon's own properties."""
        return cast(ManagerProperties, self._get_all(ROOT, MANAGER))

    def features(self) -> list[tuple[str, bool, str]]:
        """What kernel and host can do: name, whether, and why not."""
        return [tuple(feature) for feature in self._manager("Features")[0]]

    def follow(self, tell: Callable[[Event], None]) -> None:
        """Call `tell` with everything that happens, until `NoDaemon` or KeyboardInterrupt."""
        loop = GLib.MainLoop()
        ended: list[BaseException] = []

        def end(error: BaseException) -> None:
            ended.append(error)
            loop.quit()

        def heard(_bus: Any, _sender: str, _path: str, _interface: str, name: str, body: Any) -> None:
            link, *arguments = decode(body)
            try:
                tell(Event(name, link, arguments))
            except BaseException as error:  # GIO would print it and go on
                end(error)

        def gone(connection: Any, _name: str) -> None:
            closed = connection is None or connection.is_closed()
            what = f"the connection to the {self._bus} broke" if closed else "bpflinkd is not running"
            end(NoDaemon("DaemonGone", f"{what}; links stay attached without it"))

        bus, none = self._connection, Gio.DBusSignalFlags.NONE
        bus.signal_subscribe(BUS_NAME, MANAGER, None, ROOT, None, none, heard)
        start = Gio.BusNameWatcherFlags.AUTO_START
        Gio.bus_watch_name_on_connection(bus, BUS_NAME, start, None, gone)
        loop.run()
        raise ended[0]

    def _manager(self, method: str, arguments: GLib.Variant | None = None, fds: tuple[int, ...] = ()) -> Any:
        return self._call(ROOT, MANAGER, method, arguments, fds)

    def _get_all(self, path: str, interface: str) -> Any:
        return self._call(path, PROPERTIES, "GetAll", GLib.Variant("(s)", (interface,)))[0]

    def _call(
        self,
        path: str,
        interface: str,
        method: str,
        arguments: GLib.Variant | None = None,
        fds: tuple[int, ...] = (),
    ) -> Any:
        return self._exchange(path, interface, method, arguments, fds)[0]

    def _exchange(
        self,
        path: str,
        interface: str,
        method: str,
        arguments: GLib.Variant | None = None,
        fds: tuple[int, ...] = (),
    ) -> tuple[Any, list[int]]:
        """A call; its answer and the descriptors that came with it, which are the caller's to close."""
        files = Gio.UnixFDList.new()
        for fd in fds:
            files.append(fd)
        to = (BUS_NAME, path, interface, method, arguments, None, Gio.DBusCallFlags.NONE)
        milliseconds = int(self._timeout * 1000)

        def begin(done: Any) -> None:
            self._connection.call_with_unix_fd_list(*to, milliseconds, files, None, done)

        try:
            answer, sent = self._connection.call_with_unix_fd_list_finish(self._wait(begin))
            return decode(answer), list(sent.steal_fds()) if sent is not None else []
        except GLib.Error as error:
            raise self._failure(error) from None

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

    def _unreachable(self, error: GLib.Error) -> ClientError:
        if _is(error, Gio.IOErrorEnum.PERMISSION_DENIED):
            return NotAllowed("AccessDenied", f"the {self._bus} does not let you in: {error.message}")
        if _is(error, Gio.IOErrorEnum.CANCELLED):
            return NoDaemon("NoBus", f"the {self._bus} did not answer within {self._timeout:g} s")
        return NoDaemon(
            "NoBus", f"the {self._bus} cannot be reached: {error.message}; is dbus-daemon running?"
        )

    def _failure(self, error: GLib.Error) -> ClientError:
        remote = Gio.dbus_error_get_remote_error(error)
        if remote:
            return refusal(remote, error.message.removeprefix(f"GDBus.Error:{remote}: "))
        if _is(error, Gio.IOErrorEnum.TIMED_OUT):
            return ClientError(
                "Timeout",
                f"bpflinkd did not answer within {self._timeout:g} s; what was asked may still be done, "
                "'bpflinkctl list' tells; --timeout waits longer",
            )
        if _is(error, Gio.IOErrorEnum.CLOSED):
            return NoDaemon("DaemonGone", f"the connection to the {self._bus} broke: {error.message}")
        return ClientError("CallFailed", f"the call could not be made: {error.message}")


def _is(error: GLib.Error, code: Any) -> bool:
    return bool(error.matches(Gio.io_error_quark(), code))


def _address(bus: str) -> str:
    kinds = {"system": Gio.BusType.SYSTEM, "session": Gio.BusType.SESSION}
    return str(Gio.dbus_address_get_for_bus_sync(kinds[bus], None)) if bus in kinds else bus


def _strings(values: dict[str, str | None]) -> dict[str, GLib.Variant]:
    return {key: GLib.Variant("s", value) for key, value in values.items() if value is not None}


def _target(target: Target) -> dict[str, GLib.Variant]:
    """The dictionary of a target."""
    if isinstance(target, KprobeTarget):
        kind = ("kretprobe" if target.at_return else "kprobe") + ("-multi" if target.multi else "")
        numbers = {"offset": target.offset, "cookie": target.cookie}
        return {
            **_strings({kind: target.function}),
            **{key: GLib.Variant("t", number) for key, number in numbers.items() if number},
        }
    words = ("xdp", "mode") if isinstance(target, XdpTarget) else ("cgroup", "attach_type")
    return _strings(dict(zip(words, target, strict=True)))


def _program(source: Program) -> tuple[dict[str, GLib.Variant], tuple[int, ...]]:
    """The dictionary of a program and the descriptors that go with it."""
    if isinstance(source, OpenObject | OpenSource):
        kind = "object" if isinstance(source, OpenObject) else "source"
        return {kind: GLib.Variant("h", 0), **_strings({"name": source.program})}, (source.fd,)
    kind = "u" if source.kind == "id" else "s"
    return {source.kind: GLib.Variant(kind, source.value)}, ()
