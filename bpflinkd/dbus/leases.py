"""What callers were promised for a time, which ends when they leave the bus, too."""

from collections.abc import Callable
from typing import Final

from gi.repository import Gio, GLib

SHORTEST: Final = 1_000_000
LONGEST: Final = 2 * 3600 * 1_000_000
"""Microseconds that a lease may be asked for."""


class Leases:
    """For the main loop. One for each connection, however often it asks."""

    def __init__(
        self, connection: Gio.DBusConnection, began: Callable[[str], None], ended: Callable[[str], None]
    ) -> None:
        """`began` is called for each name that gets a lease and had none, `ended` when that is over."""
        self._connection = connection
        self._began, self._ended = began, ended
        self._timers: dict[str, int] = {}
        self._watches: dict[str, int] = {}
        self._closed = False

    def keep(self, name: str, micros: int) -> None:
        """From now on, so long; instead of what was left of an earlier lease."""
        if self._closed:
            self._ended(name)  # the bus went while the caller was being served
            return
        before = self._timers.get(name)
        if before is not None:
            GLib.source_remove(before)
        self._timers[name] = GLib.timeout_add(-(-micros // 1000), self._over, name)
        if before is None:
            self._began(name)
        if name not in self._watches:
            # Tells at once where nobody has the name any more.
            self._watches[name] = Gio.bus_watch_name_on_connection(
                self._connection, name, Gio.BusNameWatcherFlags.NONE, None, self._gone
            )

    def close(self) -> None:
        """End them all: the connection is gone."""
        self._closed = True
        for name in tuple(self._timers):
            GLib.source_remove(self._timers[name])
            self._end(name)

    def _over(self, name: str) -> bool:
        self._end(name)
        return bool(GLib.SOURCE_REMOVE)

    def _gone(self, _connection: Gio.DBusConnection | None, name: str) -> None:
        if name in self._timers:
            GLib.source_remove(self._timers[name])
            self._end(name)

    def _end(self, name: str) -> None:
        del self._timers[name]
        Gio.bus_unwatch_name(self._watches.pop(name))
        self._ended(name)
