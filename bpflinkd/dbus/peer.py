"""Who is calling: asked of the bus, never taken from the message."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from gi.repository import Gio, GLib

from bpflinkd.core.requests import Caller

_REMEMBERED: Final = 1024
_TIMEOUT_MS: Final = 5000


class Peers:
    """Credentials by unique bus name. A bus never gives a unique name out twice, so they keep."""

    def __init__(self, connection: Gio.DBusConnection) -> None:
        self._connection = connection
        self._known: OrderedDict[str, Caller] = OrderedDict()

    def identify(self, sender: str, then: Callable[[Caller | None], None]) -> None:
        """Call `then` with the caller, or with None where the bus does not know it (any more)."""
        caller = self._known.get(sender)
        if caller is not None:
            then(caller)
            return

        def answered(connection: Gio.DBusConnection, result: Gio.AsyncResult) -> None:
            try:
                (uid,) = connection.call_finish(result).unpack()
            except GLib.Error:
                then(None)
                return
            self._known[sender] = Caller(uid=uid)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
            then(self._known[sender])

        self._connection.call(
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "GetConnectionUnixUser",
            GLib.Variant("(s)", (sender,)),
            GLib.VariantType("(u)"),
            Gio.DBusCallFlags.NONE,
            _TIMEOUT_MS,
            None,
            answered,
        )
