"""Links that live with a D-Bus connection: watches the connections, and counts the grace time."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gi.repository import Gio, GLib

from bpflinkd.core.model import Hold, LinkView


@dataclass(slots=True)
class _Watched:
    hold: Hold
    watch: int = 0
    """GIO's id; 0 where the connection is known to be gone."""
    timer: int = 0
    until: int = 0
    """When the link ends, microseconds since 1970; 0 while its holder is there."""


class Holding:
    """For the main loop."""

    def __init__(self, connection: Gio.DBusConnection, bus: str, lapse: Callable[[str, str], None]) -> None:
        """`lapse` is called with the link and the holder's name when the grace time is over."""
        self._connection = connection
        self._bus = bus
        self._lapse = lapse
        self._watched: dict[str, _Watched] = {}

    def follow(self, view: LinkView) -> None:
        """A link is there, or is held otherwise than before."""
        name, hold = view.record.name, view.record.hold
        watched = self._watched.get(name)
        if watched is not None and watched.hold == hold:
            return
        self.forget(name)
        if hold is None or not hold.holder:
            return
        watched = self._watched[name] = _Watched(hold)
        if hold.bus == self._bus:
            # Tells at once where nobody has the name any more.
            watched.watch = Gio.bus_watch_name_on_connection(
                self._connection,
                hold.holder,
                Gio.BusNameWatcherFlags.NONE,
                None,
                lambda *_: self._gone(name, hold),
            )
        else:
            self._gone(name, hold)

    def forget(self, name: str) -> None:
        """A link is no more."""
        watched = self._watched.pop(name, None)
        if watched is None:
            return
        if watched.watch:
            Gio.bus_unwatch_name(watched.watch)
        if watched.timer:
            GLib.source_remove(watched.timer)

    def until(self, name: str) -> int:
        """When a link ends unless it is claimed, microseconds since 1970; 0 while that is not settled."""
        watched = self._watched.get(name)
        return watched.until if watched is not None else 0

    def _gone(self, name: str, hold: Hold) -> None:
        watched = self._watched.get(name)
        if watched is None or watched.hold != hold or watched.timer or self._connection.is_closed():
            return

        def over() -> Any:
            watched.timer = 0
            self._lapse(name, hold.holder)
            return GLib.SOURCE_REMOVE

        # The clock on the wall is only for showing: the timer runs on one that nobody can set.
        watched.until = time.time_ns() // 1000 + hold.grace
        watched.timer = GLib.timeout_add(-(-hold.grace // 1000), over)
