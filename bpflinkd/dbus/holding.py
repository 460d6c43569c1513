"""Links that live with a D-Bus connection: watches the connections, and counts the grace time."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from gi.repository import Gio, GLib

from bpflinkd.core.model import Hold, LinkView


@dataclass(slots=True)
class _Held:
    """A link, and the time after its holder."""

    hold: Hold
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
        self._links: dict[str, _Held] = {}
        self._watches: dict[str, int] = {}
        """One for each holder, however many links it has: a bus sets a limit to what a connection watches."""

    def follow(self, view: LinkView) -> None:
        """A link is there, or is held otherwise than before."""
        name, hold = view.record.name, view.record.hold
        held = self._links.get(name)
        if held is not None and held.hold == hold:
            return
        self.forget(name)
        if hold is None or not hold.holder:
            return
        self._links[name] = _Held(hold)
        if hold.bus != self._bus:
            self._over(name)
        elif hold.holder not in self._watches:
            # Tells at once where nobody has the name any more.
            self._watches[hold.holder] = Gio.bus_watch_name_on_connection(
                self._connection, hold.holder, Gio.BusNameWatcherFlags.NONE, None, self._gone
            )

    def forget(self, name: str) -> None:
        """A link is no more."""
        held = self._links.pop(name, None)
        if held is None:
            return
        if held.timer:
            GLib.source_remove(held.timer)
        holder = held.hold.holder
        if all(other.hold.holder != holder for other in self._links.values()):
            self._unwatch(holder)

    def close(self) -> None:
        """Forget all links: another connection follows them."""
        for name in tuple(self._links):
            self.forget(name)

    def until(self, name: str) -> int:
        """When a link ends unless it is claimed, microseconds since 1970; 0 while that is not settled."""
        held = self._links.get(name)
        return held.until if held is not None else 0

    def _gone(self, connection: Gio.DBusConnection | None, holder: str) -> None:
        if connection is None or connection.is_closed():
            return  # the bus went, not the holder
        self._unwatch(holder)
        for name, held in self._links.items():
            if held.hold.holder == holder and held.hold.bus == self._bus and not held.timer:
                self._over(name)

    def _unwatch(self, holder: str) -> None:
        watch = self._watches.pop(holder, 0)
        if watch:
            Gio.bus_unwatch_name(watch)

    def _over(self, name: str) -> None:
        """The holder of a link is gone: its grace time begins."""
        held = self._links[name]
        hold = held.hold

        def over() -> bool:
            held.timer = 0
            self._lapse(name, hold.holder)
            return bool(GLib.SOURCE_REMOVE)

        # The clock on the wall is only for showing: the timer runs on one that nobody can set.
        held.until = time.time_ns() // 1000 + hold.grace
        held.timer = GLib.timeout_add(-(-hold.grace // 1000), over)
