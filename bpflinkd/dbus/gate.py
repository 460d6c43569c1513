"""What is looked at before GIO hands a message on: on GIO's own thread, for every message.

GIO queues calls for the main loop without a bound, and answers some itself: then it closes the descriptors
that came with them on the thread that all of D-Bus waits for. Here a message is refused by what can be told
without knowing who sent it, and loses the descriptors that no method would take.
"""

import logging
from collections import Counter, deque
from collections.abc import Iterable
from typing import Final

from gi.repository import Gio, GLib

from bpflinkd.core.errors import BpflinkdError, LimitExceeded
from bpflinkd.dbus import contract
from bpflinkd.dbus.closer import Closer, kernel_answers
from bpflinkd.dbus.wrapper import LONG

log = logging.getLogger(__name__)

MAX_BYTES: Final = 64 << 10
"""Of one call's arguments."""
MAX_BYTES_LONG: Final = 1 << 20
"""The same of methods in `wrapper.LONG`. Such a call counts as many as could have had its bytes."""
MAX_FDS: Final = 4
"""Of one call."""
MAX_UNANSWERED: Final = 128
"""Calls of one connection."""
_BUS: Final = "org.freedesktop.DBus"
_CALL: Final = Gio.DBusMessageType.METHOD_CALL
_NO_REPLY: Final = Gio.DBusMessageFlags.NO_REPLY_EXPECTED


class Gate:
    """A filter of a connection's messages."""

    def __init__(
        self, connection: Gio.DBusConnection, methods: Iterable[Gio.DBusMethodInfo], closer: Closer
    ) -> None:
        """Filter from now on.

        Args:
            methods: those of the Manager. Only they are called with descriptors, and only with the
                arguments that they have.
        """
        self._closer = closer
        self._signatures = {
            method.name: "".join(argument.signature for argument in method.in_args) for method in methods
        }
        self._unanswered: Counter[str] = Counter()
        # Appended to on whichever thread frees a message, emptied on GIO's thread only.
        self._ended: deque[tuple[str, int]] = deque()
        self._connection = connection
        self._id = connection.add_filter(self._filter)

    def close(self) -> None:
        """Filter no more."""
        self._connection.remove_filter(self._id)

    def _filter(
        self, connection: Gio.DBusConnection, message: Gio.DBusMessage, incoming: bool
    ) -> Gio.DBusMessage | None:
        """Called by GIO. None: the message is dropped."""
        if not incoming:
            return message
        try:
            self._look(message)
        except BpflinkdError as error:
            self._answer(connection, message, error)
            return None
        except Exception:  # GIO would print it, and drop the message without a word
            log.exception("a message could not be looked at")
            self._strip(message)
            return None
        return message

    def _look(self, message: Gio.DBusMessage) -> None:
        if message.get_sender() == _BUS:
            return  # the pidfd of a caller, for one
        is_call = message.get_message_type() == _CALL
        if not (is_call and self._takes_fds(message)):
            self._strip(message)
        if not is_call:
            return
        try:
            weight = self._limit(message)
        except BpflinkdError:
            self._strip(message)
            raise
        sender = message.get_sender()
        self._unanswered[sender] += weight
        message.weak_ref(self._ended.append, (sender, weight))

    def _limit(self, message: Gio.DBusMessage) -> int:
        """Refuse what is too much; returns as how many calls it counts."""
        body = message.get_body()
        size = body.get_size() if body is not None else 0
        most = MAX_BYTES_LONG if message.get_member() in LONG else MAX_BYTES
        if size > most:
            raise LimitExceeded(f"the call has {size} bytes of arguments; at most {most} are taken")
        files = message.get_unix_fd_list()
        fds = files.peek_fds() if files is not None else []
        if len(fds) > MAX_FDS:
            raise LimitExceeded(f"the call carries {len(fds)} file descriptors; at most {MAX_FDS} are taken")
        if self._closer.stuck and not all(map(kernel_answers, fds)):
            raise LimitExceeded(
                "a file that some caller sent cannot be closed, as its file system does not answer; until it "
                "does send files as memfds"
            )
        while self._ended:
            ended, weight = self._ended.popleft()
            self._unanswered[ended] -= weight
            if not self._unanswered[ended]:
                del self._unanswered[ended]
        if self._unanswered[message.get_sender()] >= MAX_UNANSWERED:
            raise LimitExceeded(
                f"{MAX_UNANSWERED} calls of this connection wait for their answers; wait for one of them"
            )
        return 1 + size // MAX_BYTES

    def _takes_fds(self, message: Gio.DBusMessage) -> bool:
        """Whether GIO will hand this call to us. It closes by itself what came with others."""
        to = (message.get_path(), message.get_interface())
        signature = self._signatures.get(message.get_member())
        return to == (contract.ROOT, contract.MANAGER) and signature == message.get_signature()

    def _strip(self, message: Gio.DBusMessage) -> None:
        files = message.get_unix_fd_list()
        if files is not None:
            self._closer.close(files.steal_fds())

    @staticmethod
    def _answer(connection: Gio.DBusConnection, message: Gio.DBusMessage, error: BpflinkdError) -> None:
        if message.get_flags() & _NO_REPLY:
            return
        reply = Gio.DBusMessage.new_method_error_literal(message, error.dbus_name, error.dbus_message)
        try:
            connection.send_message(reply, Gio.DBusSendMessageFlags.NONE)
        except GLib.Error as failure:
            log.debug("a refusal could not be sent: %s", failure.message)
