"""Asks polkit whether a caller may do something, on the system's bus: on others anybody may be polkit."""

import itertools
import logging
from collections.abc import Callable
from typing import Any, Final

from gi.repository import Gio, GLib

from bpflinkd.core.callers import Action
from bpflinkd.dbus.peer import when_gone

log = logging.getLogger(__name__)

_AUTHORITY: Final = (
    "org.freedesktop.PolicyKit1",
    "/org/freedesktop/PolicyKit1/Authority",
    "org.freedesktop.PolicyKit1.Authority",
)
_ACTIONS: Final = "org.bpflinkd1."
_ALLOW_USER_INTERACTION: Final = 1
_TIMEOUT_MS: Final = 10_000
_NO_TIMEOUT: Final = GLib.MAXINT
_MOST_INTERACTIVE: Final = 64
"""Questions at a time that wait for a person; more are asked without one. The system's bus lets a connection
wait for 128 answers, and people must not keep us from asking for others."""
_ABSENT: Final = frozenset(
    {
        "org.freedesktop.DBus.Error.ServiceUnknown",
        "org.freedesktop.DBus.Error.Spawn.ServiceNotFound",
        "org.freedesktop.systemd1.NoSuchUnit",
        "org.freedesktop.systemd1.UnitMasked",
    }
)
"""The bus's errors where polkit is not installed. One that is installed and does not start has others."""


class Polkit:
    """The host's authority. Where there is none, owners may change what they own, and that is all."""

    def __init__(self, connection: Gio.DBusConnection, *, trusted: bool) -> None:
        """`trusted`: this is the system's bus, where only polkit gets polkit's name. Others are not asked."""
        self._connection = connection
        self._trusted = trusted
        self._numbers = itertools.count(1)
        self._interactive = 0

    def check(self, sender: str, action: Action, interactive: bool, then: Callable[[bool], None]) -> None:
        """Call `then` with whether polkit allows a caller an action. What is no clear yes is a no.

        Args:
            sender: unique bus name of the caller.
            interactive: polkit may ask a person for a password, which takes as long as it takes; given up
                when the caller leaves the bus. Otherwise it has 10 s.
        """
        if not self._trusted:
            then(_without_polkit(action))
            return
        question = _Question(self._connection, sender, action)
        if not interactive or self._interactive >= _MOST_INTERACTIVE:
            question.ask(then)
            return

        def answered(allowed: bool) -> None:
            self._interactive -= 1
            then(allowed)

        self._interactive += 1
        question.ask_a_person(f"bpflinkd-{next(self._numbers)}", answered)


class _Question:
    """One question to polkit."""

    def __init__(self, connection: Gio.DBusConnection, sender: str, action: Action) -> None:
        self._connection = connection
        self._sender = sender
        self._action = action
        self._given_up = Gio.Cancellable.new()

    def ask(self, then: Callable[[bool], None]) -> None:
        """Ask what can be told at once."""
        self._call(0, "", _TIMEOUT_MS, then)

    def ask_a_person(self, cancellation: str, then: Callable[[bool], None]) -> None:
        """Let polkit ask, too; `cancellation` is a word that no other question has."""

        def give_up() -> None:
            self._given_up.cancel()
            arguments = GLib.Variant("(s)", (cancellation,))
            self._connection.call(
                *_AUTHORITY,
                "CancelCheckAuthorization",
                arguments,
                None,
                Gio.DBusCallFlags.NONE,
                -1,
                None,
                None,
            )

        def answered(allowed: bool) -> None:
            stop()
            then(allowed)

        stop = when_gone(self._connection, self._sender, give_up)
        self._call(_ALLOW_USER_INTERACTION, cancellation, _NO_TIMEOUT, answered)

    def _call(self, flags: int, cancellation: str, timeout_ms: int, then: Callable[[bool], None]) -> None:
        # The connection, never a pid: polkit finds out by itself who that is.
        subject = ("system-bus-name", {"name": GLib.Variant("s", self._sender)})
        arguments: tuple[Any, ...] = (subject, _ACTIONS + self._action, {}, flags, cancellation)

        def answered(connection: Gio.DBusConnection, result: Gio.AsyncResult) -> None:
            then(self._judged(connection, result))

        self._connection.call(
            *_AUTHORITY,
            "CheckAuthorization",
            GLib.Variant("((sa{sv})sa{ss}us)", arguments),
            GLib.VariantType("((bba{ss}))"),
            Gio.DBusCallFlags.NONE,
            timeout_ms,
            self._given_up,
            answered,
        )

    def _judged(self, connection: Gio.DBusConnection, result: Gio.AsyncResult) -> bool:
        try:
            ((allowed, _challenge, _details),) = connection.call_finish(result).unpack()
        except GLib.Error as error:
            if Gio.DBusError.get_remote_error(error) in _ABSENT:
                return _without_polkit(self._action)
            if not self._given_up.is_cancelled():
                log.warning(
                    "polkit does not say whether %s may %s, so it may not: %s; see systemctl status polkit",
                    self._sender,
                    self._action,
                    error.message,
                )
            return False
        return bool(allowed)


def _without_polkit(action: Action) -> bool:
    return action is Action.CHANGE_OWN
