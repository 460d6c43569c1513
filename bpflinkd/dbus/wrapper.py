"""pydbus's object wrapper, with deferred replies, descriptors and error names of our own.

pydbus 0.6 replies as soon as a method returns and names errors after Python classes; the base
class leaves both open through `call_method`.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from gi.repository import Gio, GLib
from pydbus.registration import ObjectWrapper

from bpflinkd.core.errors import BadProgram, BpflinkdError, Internal, LimitExceeded
from bpflinkd.dbus import leak
from bpflinkd.dbus.closer import Closer

if TYPE_CHECKING:
    from bpflinkd.core.callers import Caller

log = logging.getLogger(__name__)

MAX_VALUES: Final = 1000
"""Of one call's arguments, those inside others counted too: taking one apart holds up the main loop."""
LONG: Final = frozenset({"ReplaceMany"})
"""Methods whose first argument is an array that may be long. Their handlers get them as they came."""
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class Call:
    """One method call that waits for its answer. Owns the descriptors that came with it."""

    __slots__ = (
        "_at_end",
        "_closer",
        "_fds",
        "_invocation",
        "arguments",
        "caller",
        "interface",
        "method",
        "path",
        "pieces",
        "sender",
    )

    def __init__(
        self,
        sender: str,
        path: str,
        interface: str,
        method: str,
        invocation: Gio.DBusMethodInvocation,
        closer: Closer,
    ) -> None:
        self.sender = sender
        self.path = path
        self.interface = interface
        self.method = method
        self.arguments: tuple[Any, ...] = ()
        """As Python's own values, once the call was admitted."""
        self.pieces = 1
        """How many things it asks for at once."""
        self.caller: Caller | None = None
        """Who asks, once the call was admitted by somebody who knows."""
        self._invocation = invocation
        self._closer = closer
        self._at_end: list[Callable[[], None]] = []
        # Taken out of the message: what is left in it is closed by whoever frees it, and waits for that.
        sent = invocation.get_message().get_unix_fd_list()
        self._fds: list[int] = list(sent.steal_fds()) if sent is not None else []

    @property
    def interactive(self) -> bool:
        """Whether the caller lets polkit ask its user."""
        flags = self._invocation.get_message().get_flags()
        return bool(flags & Gio.DBusMessageFlags.ALLOW_INTERACTIVE_AUTHORIZATION)

    def fd(self, index: int) -> int:
        """The descriptor at an index of the message; open until the answer is sent."""
        if not 0 <= index < len(self._fds):
            raise BadProgram(f"the message carries no file descriptor at index {index}")
        return self._fds[index]

    def at_end(self, function: Callable[[], None]) -> None:
        """Call a function when the answer is sent, whichever it is."""
        self._at_end.append(function)

    def answer(self, value: GLib.Variant | None) -> None:
        """Reply with the out arguments as one tuple; None for a method that returns nothing."""
        self._end(lambda invocation: invocation.return_value(value))

    def answer_file(self, value: GLib.Variant, data: bytes) -> None:
        """The same, with a sealed memfd of `data` as the descriptor at index 0."""
        files = Gio.UnixFDList.new()
        fd = os.memfd_create("bpflinkd", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with os.fdopen(os.dup(fd), "wb") as file:
                file.write(data)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            os.lseek(fd, 0, os.SEEK_SET)
            files.append(fd)
        finally:
            os.close(fd)
        self._end(lambda invocation: invocation.return_value_with_unix_fd_list(value, files))

    def fail(self, error: BaseException) -> None:
        """Reply with a named error; what is not ours is logged and named Internal."""
        if not isinstance(error, BpflinkdError):
            log.error("unexpected failure while answering a call", exc_info=error)
            error = Internal(
                f"bpflinkd met an unexpected {type(error).__name__}; its journal has the details"
            )
        name = error.dbus_name
        # A D-Bus string holds no NUL, and a log of the verifier's is kernel text.
        message = error.dbus_message.replace("\0", " ").encode(errors="replace").decode()
        self._end(lambda invocation: invocation.return_dbus_error(name, message))

    def _end(self, reply: Callable[[Gio.DBusMethodInvocation], None]) -> None:
        invocation, self._invocation = self._invocation, None
        if invocation is None:
            raise RuntimeError(f"{self.method} was answered already")
        fds, self._fds = self._fds, []
        self._closer.close(fds)
        for function in self._at_end:
            function()
        reply(invocation)
        leak.release(invocation)


Handler: TypeAlias = Callable[[Call], None]


Handlers: TypeAlias = Mapping[tuple[str, str], Handler]
"""By interface and method name; GIO lets only calls of the contract through."""
Admit: TypeAlias = Callable[[Call, Callable[[], None]], None]
"""Goes on with a call, now or later, or answers it with a refusal. Sees no arguments yet."""


class DeferringWrapper(ObjectWrapper):  # type: ignore[misc]  # pydbus is not typed
    """Hands each call that is admitted to a handler, which answers now or later.

    Signals go out through pydbus's own `SignalEmitted`.
    """

    def __init__(self, handlers: Handlers, admit: Admit, closer: Closer) -> None:
        # Not the base class's __init__: that inspects Python methods and signals by their names.
        self.object = handlers
        self._admit = admit
        self._closer = closer

    def close(self) -> None:
        """No call and no signal will follow: let go of all that would keep the connection in memory."""
        self.object = {}
        type(self).SignalEmitted.map.pop(self, None)  # pydbus would keep every subscriber there, for good

    def call_method(
        self,
        _connection: Gio.DBusConnection,
        sender: str,
        path: str,
        interface: str,
        method: str,
        parameters: GLib.Variant,
        invocation: Gio.DBusMethodInvocation,
    ) -> None:
        """Called by GIO on the main loop."""
        call = Call(sender, path, interface, method, invocation, self._closer)

        long = method in LONG
        if long:
            call.pieces = parameters.get_child_value(0).n_children()

        def handle() -> None:
            try:
                call.arguments = (parameters,) if long else unpacked(parameters)
                self.object[interface, method](call)
            except Exception as error:  # the caller must get an answer, whatever went wrong
                call.fail(error)

        try:
            self._admit(call, handle)
        except Exception as error:
            call.fail(error)


def unpacked(parameters: GLib.Variant) -> tuple[Any, ...]:
    """Arguments as Python's own values. `LimitExceeded` where there are more than MAX_VALUES."""
    _count(parameters, MAX_VALUES)
    return tuple(parameters.unpack())


def _count(value: GLib.Variant, left: int) -> int:
    """How many more values there may be after those in this one."""
    children = value.n_children()
    left -= children
    if left < 0:
        raise LimitExceeded(f"the arguments hold more than {MAX_VALUES} values; send fewer at a time")
    for index in range(children):
        child = value.get_child_value(index)
        if child.is_container():
            left = _count(child, left)
        elif value.get_type_string().startswith("a"):
            break  # all are of one type
    return left
