"""Who is calling: asked of the bus, never taken from the message.

The bus knows the user, the groups and the process that made the connection, as the kernel told it then. The
unit of that process is read from /proc, which speaks of the process that has the pid now: whether it is the
same one has to be shown. See docs/decisions/0020-the-caller-is-who-made-the-connection.md.
"""

import logging
import os
import re
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from gi.repository import Gio, GLib

from bpflinkd.core.callers import Caller
from bpflinkd.dbus import process
from bpflinkd.dbus.process import Process, Ticks

log = logging.getLogger(__name__)

_BUS: Final = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_TIMEOUT_MS: Final = 5000
_REMEMBERED: Final = 256
"""Callers. Each costs a match rule, of which the system's bus gives a connection 512."""
_SIGHTINGS: Final = 1024
_NAME: Final = re.compile(r":(\d+)\.(\d+)")


class Peers:
    """Callers by unique bus name. A bus never gives a unique name out twice, so what was found keeps."""

    def __init__(self, connection: Gio.DBusConnection) -> None:
        self._connection = connection
        self._known: OrderedDict[str, tuple[Caller, Callable[[], None]]] = OrderedDict()
        self._waiting: dict[str, list[Callable[[Caller | None], None]]] = {}
        self._sightings = Sightings()
        self._gives_pidfds = False
        own = connection.get_unique_name()
        self._sightings.connected_by(own)
        # Answered before anything that is asked later.
        self._ask(own, self._learn)

    def identify(self, sender: str, then: Callable[[Caller | None], None]) -> None:
        """Call `then` with the caller, or with None where the bus does not know it (any more)."""
        if sender in self._known:
            self._known.move_to_end(sender)
            caller, _ = self._known[sender]
            then(caller)
            return
        if sender in self._waiting:
            self._waiting[sender].append(then)
            return
        self._waiting[sender] = [then]
        connected_by = self._sightings.connected_by(sender)
        stop = when_gone(self._connection, sender, lambda: self._forget(sender))

        def answered(said: dict[str, Any] | None, pidfd: int | None) -> None:
            found = None if said is None else self._caller(sender, said, pidfd, connected_by)
            if found is None:
                stop()
            else:
                self._remember(found, stop)
            for each in self._waiting.pop(sender):
                each(found)

        self._ask(sender, answered)

    def close(self) -> None:
        """The connection broke: forget everybody."""
        for name in tuple(self._known):
            self._forget(name)

    def _learn(self, _said: dict[str, Any] | None, pidfd: int | None) -> None:
        """Whether this bus gives pidfds. Where it gives none for a caller then, that process is gone."""
        self._gives_pidfds = pidfd is not None

    def _caller(
        self, name: str, said: dict[str, Any], pidfd: int | None, connected_by: Ticks
    ) -> Caller | None:
        uid, pid, gids = said.get("UnixUserID"), said.get("ProcessID", 0), said.get("UnixGroupIDs")
        if uid is None:
            return None
        found = None
        if pidfd is not None:
            found = process.of_pidfd(pidfd, uid, connected_by)
        elif pid and not self._gives_pidfds:
            found = process.of_pid(pid, uid, connected_by)
        if found is None:
            log.debug("the unit of %s (uid %d, pid %d) cannot be told for certain", name, uid, pid)
            found = Process(unit="", exe="", gids=frozenset())
        groups = found.gids if gids is None else frozenset(gids)
        return Caller(uid=uid, gids=groups, pid=pid, unit=found.unit, exe=found.exe, name=name)

    def _remember(self, caller: Caller, stop: Callable[[], None]) -> None:
        self._known[caller.name] = caller, stop
        if len(self._known) > _REMEMBERED:
            _, (_, stop_oldest) = self._known.popitem(last=False)
            stop_oldest()

    def _forget(self, name: str) -> None:
        if name in self._known:
            _, stop = self._known.pop(name)
            stop()

    def _ask(self, name: str, then: Callable[[dict[str, Any] | None, int | None], None]) -> None:
        """Call `then` with a connection's credentials, and with the pidfd among them; it is closed after."""

        def answered(connection: Gio.DBusConnection, result: Gio.AsyncResult) -> None:
            try:
                answer, files = connection.call_with_unix_fd_list_finish(result)
            except GLib.Error:
                then(None, None)
                return
            (said,) = answer.unpack()
            fds = list(files.steal_fds()) if files is not None else []
            try:
                at = said.get("ProcessFD")
                then(said, None if at is None else fds[at])
            finally:
                for fd in fds:
                    os.close(fd)

        self._connection.call_with_unix_fd_list(
            *_BUS,
            "GetConnectionCredentials",
            GLib.Variant("(s)", (name,)),
            GLib.VariantType("(a{sv})"),
            Gio.DBusCallFlags.NONE,
            _TIMEOUT_MS,
            None,
            None,
            answered,
        )


def when_gone(connection: Gio.DBusConnection, name: str, then: Callable[[], None]) -> Callable[[], None]:
    """Call `then` when a connection has left the bus, or where it has already. Returns what stops that."""
    # Not signal_subscribe(): PyGObject 3.42 does not free its callbacks.
    number = Gio.bus_watch_name_on_connection(
        connection, name, Gio.BusNameWatcherFlags.NONE, None, lambda *_: then()
    )
    return lambda: Gio.bus_unwatch_name(number)


class Sightings:
    """By when a connection had been made, as the order of names tells.

    A bus numbers its connections: `:1.7` was there before `:1.8`. So when a name is seen, all connections
    with lower numbers have been made already, also those that are heard of much later.
    """

    def __init__(self) -> None:
        # Both grow.
        self._numbers: list[tuple[int, int]] = []
        self._moments: list[Ticks] = []

    def connected_by(self, name: str, now: Ticks | None = None) -> Ticks:
        """See a name; returns the moment by which its connection had been made."""
        now = process.now() if now is None else now
        parsed = _NAME.fullmatch(name)
        if parsed is None:
            return now
        number = int(parsed[1]), int(parsed[2])
        later = bisect_left(self._numbers, number)
        if later < len(self._numbers):
            return self._moments[later]
        self._numbers.append(number)
        self._moments.append(now)
        # Without the oldest, the next one speaks for the connections before it.
        del self._numbers[:-_SIGHTINGS], self._moments[:-_SIGHTINGS]
        return now
