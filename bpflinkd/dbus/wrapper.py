"""pydbus's object wrapper, with deferred replies, descriptors and error names of our own.

pydbus 0.6 replies as soon as a method returns and names errors after Python classes; the base
class leaves both open through `call_method`.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from gi.repository import Gio, GLib
from pydbus.registration import ObjectWrapper

from bpflinkd.core.errors import BadProgram, BpflinkdError, Internal
from bpflinkd.dbus import leak

log = logging.getLogger(__name__)

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class Call:
    """One method call that waits for its answer. Owns the descriptors that came with it."""

    __slots__ = ("_fds", "_invocation", "arguments", "path", "sender")

    def __init__(
        self, sender: str, path: str, arguments: tuple[Any, ...], invocation: Gio.DBusMethodInvocation
    ) -> None:
        self.sender = sender
        self.path = path
        self.arguments = arguments
        self._invocation = invocation
        # Taken out of the message, so that they are closed when the call is answered and not when
        # Python comes round to freeing the message.
        sent = invocation.get_message().get_unix_fd_list()
        self._fds: list[int] = list(sent.steal_fds()) if sent is not None else []

    def fd(self, index: int) -> int:
        """The descriptor at an index of the message; open until the answer is sent."""
        if not 0 <= index < len(self._fds):
            raise BadProgram(f"the message carries no file descriptor at index {index}")
        return self._fds[index]

    def answer(self, value: GLib.Variant | None) -> None:
        """Reply with the out arguments as one tuple; None for a method that returns nothing."""
        self._close_fds()
        self._invocation.return_value(value)
        leak.release(self._invocation)

    def answer_file(self, value: GLib.Variant, data: bytes) -> None:
        """The same, with a sealed memfd of `data` as the descriptor at index 0."""
        self._close_fds()
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
        self._invocation.return_value_with_unix_fd_list(value, files)
        leak.release(self._invocation)

    def fail(self, error: BaseException) -> None:
        """Reply with a named error; what is not ours is logged and named Internal."""
        self._close_fds()
        if not isinstance(error, BpflinkdError):
            log.error("unexpected failure while answering a call", exc_info=error)
            error = Internal(
                f"bpflinkd met an unexpected {type(error).__name__}; its journal has the details"
            )
        # A D-Bus string holds no NUL, and a log of the verifier's is kernel text.
        message = error.dbus_message.replace("\0", " ")
        self._invocation.return_dbus_error(error.dbus_name, message.encode(errors="replace").decode())

    def _close_fds(self) -> None:
        while self._fds:
            os.close(self._fds.pop())


Handler: TypeAlias = Callable[[Call], None]


Handlers: TypeAlias = Mapping[tuple[str, str], Handler]
"""By interface and method name; GIO lets only calls of the contract through."""


class DeferringWrapper(ObjectWrapper):  # type: ignore[misc]  # pydbus is not typed
    """Hands each call to a handler, which answers now or later.

    Signals go out through pydbus's own `SignalEmitted`.
    """

    def __init__(self, handlers: Handlers) -> None:
        # Not the base class's __init__: that inspects Python methods and signals by their names.
        self.object = handlers

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
        call = Call(sender, path, parameters.unpack(), invocation)
        try:
            self.object[interface, method](call)
        except Exception as error:  # the caller must get an answer, whatever went wrong
            call.fail(error)
