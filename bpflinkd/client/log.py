"""The event log: what happened to the links, also before a client was there to see it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, Protocol, cast

from gi.repository import GLib

from bpflinkd.client import messages
from bpflinkd.client.connection import Connection
from bpflinkd.client.errors import NoDaemon
from bpflinkd.client.values import Recorded
from bpflinkd.dbus.contract import PROPERTIES, ROOT


class _Manager(Protocol):
    """Calls a method of the Manager; returns its out arguments."""

    def __call__(self, method: str, signature: str, arguments: tuple[Any, ...]) -> Any: ...


class EventLog:
    """Of one client. For administrators; others name links that they own, or get `NotAllowed`."""

    def __init__(self, connection: Connection, manager: _Manager) -> None:
        self._connection = connection
        self._manager = manager

    def newest(
        self,
        links: Iterable[str] | None = None,
        *,
        kinds: Iterable[str] = (),
        since: int = 0,
        limit: int | None = None,
    ) -> list[Recorded]:
        """The newest entries that are asked for, the oldest of them first.

        Args:
            links: names, also of links that are gone; None for all.
            kinds: events, such as `program_replaced`, or kinds of foreign change, such as `link-updated`.
            since: microseconds since 1970.
            limit: at most so many, and at most 200.
        """
        return self._events(messages.which_events(links, kinds, since, limit=limit))

    def entries(
        self, links: Iterable[str] | None = None, *, kinds: Iterable[str] = (), since: int = 0
    ) -> Iterator[Recorded]:
        """Every entry that is asked for, read page by page."""
        which = messages.which_events(links, kinds, since)
        after = 0
        while page := self._page(which, after):
            yield from page
            after = page[-1]["number"]

    def follow(
        self,
        tell: Callable[[Recorded], None],
        links: Iterable[str] | None = None,
        *,
        kinds: Iterable[str] = (),
        since: int = 0,
    ) -> NoReturn:
        """Call `tell` with every entry that is asked for, then with those to come: each once, in order.

        Ends by `NoDaemon`, KeyboardInterrupt or what `tell` raises.
        """
        which = messages.which_events(links, kinds, since)
        after, reading, more = 0, False, False

        def read_on() -> None:
            nonlocal after, reading, more
            more = True
            if reading:
                return  # called while an answer is waited for
            reading = True
            while more:
                more = False
                for entry in self._page(which, after):
                    after, more = entry["number"], True
                    tell(entry)
            reading = False

        # An entry's number is told when it can be read, and listening begins before the first look.
        places = [(ROOT, PROPERTIES)]
        self._connection.listen(places, lambda _signal, _arguments: read_on(), there=read_on, gone=gone)

    def _page(self, which: dict[str, GLib.Variant], after: int) -> list[Recorded]:
        return self._events({**which, "after": messages.u64(after, "number of an event")})

    def _events(self, which: dict[str, GLib.Variant]) -> list[Recorded]:
        return cast(list[Recorded], self._manager("Events", "(a{sv})", (which,))[0])


def gone() -> NoReturn:
    """What a daemon that has gone means to a follower."""
    raise NoDaemon("bpflinkd is not running; links stay attached without it", name="DaemonGone")
