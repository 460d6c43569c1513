"""What the sentinel told, sorted by link. For the worker thread only."""

import logging
from collections.abc import Iterable
from typing import Final

from bpflinkd.core.errors import BpflinkdError
from bpflinkd.core.events import ChangeKind, SlotHook, Touch
from bpflinkd.core.ids import Micros
from bpflinkd.core.links import Entry, Links
from bpflinkd.core.ports import Sentinel
from bpflinkd.core.targets import CgroupHook, Hook, XdpHook
from bpflinkd.core.touches import SEEN_BY

log = logging.getLogger(__name__)

_AT_ONCE: Final = 500
"""Touches that are taken in one piece of work."""
COMPLETE: Final = Micros(20_000)
"""What a thread that changed a hook may take until its record is there: others may have their turn first."""
_ALL: Final = 100
"""Pieces of work in which the sentinel's buffer is read to its end, however fast it fills."""


class Witness:
    """Reads the sentinel, and keeps what each link has yet to be told."""

    def __init__(self, sentinel: Sentinel, links: Links) -> None:
        self._sentinel = sentinel
        self._links = links
        self._untold: dict[str, list[Touch]] = {}
        self._followed = set(sentinel.followed())
        self._dropped = 0
        self._early: dict[XdpHook | CgroupHook | SlotHook, list[Touch]] | None = {}
        """Until all links are taken back: what happened while no daemon ran, and since, by hook."""
        self._given: set[tuple[str, int]] = set()
        """Of those, which link has been told which, by its `id`."""
        self.sees = frozenset(kind for operation in sentinel.sees for kind in SEEN_BY.get(operation, ()))
        """The kinds of change that it tells on this kernel, so that no other source need do so."""

    def expect(self, hook: Hook | SlotHook | None) -> None:
        """From here on changes to this hook are of interest."""
        if not isinstance(hook, XdpHook | CgroupHook | SlotHook) or hook in self._followed:
            return
        self._followed.add(hook)
        try:
            self._sentinel.follow(hook)
        except BpflinkdError as error:  # the other sources go on
            log.error("%s", error)

    def begun(self) -> None:
        """The start is over: what links have not been told yet, they will be."""
        for name, entry in self._links.items():
            if untold := self._early_of(entry):
                self._untold.setdefault(name, []).extend(untold)
        self._early = None
        self._given.clear()
        self._dropped = -1  # links may have ended while no daemon ran

    def read(self) -> None:
        """Read some of what happened."""
        self._sort(self._sentinel.read(_AT_ONCE))

    def read_all(self) -> None:
        """Read all that happened up to now."""
        self._sort(self._everything())

    def _everything(self) -> Iterable[Touch]:
        for _ in range(_ALL):
            found = self._sentinel.read(_AT_ONCE)
            yield from found
            if len(found) < _AT_ONCE:
                return

    def _sort(self, touches: Iterable[Touch]) -> None:
        if self._early is not None:
            for touch in touches:
                self._early.setdefault(touch.hook, []).append(touch)
            return
        by_hook: dict[object, list[str]] | None = None
        for touch in touches:
            if by_hook is None:
                by_hook = {}
                for name, entry in self._links.items():
                    for hook in entry.hooks():
                        by_hook.setdefault(hook, []).append(name)
            for name in by_hook.get(touch.hook, ()):
                self._untold.setdefault(name, []).append(touch)

    def touched(self) -> tuple[str, ...]:
        """Links that have something to be told."""
        return tuple(name for name in self._untold if name in self._links)

    def take(self, entry: Entry) -> list[Touch]:
        """What a link has to be told, the oldest first. Given once."""
        return self._early_of(entry) + self._untold.pop(entry.record.name, [])

    def _early_of(self, entry: Entry) -> list[Touch]:
        """What came during the start and this link was not told yet."""
        found = []
        for hook in entry.hooks():
            for touch in (self._early or {}).get(hook, ()):
                key = entry.record.name, id(touch)
                if key not in self._given:
                    self._given.add(key)
                    found.append(touch)
        return found

    def await_(self, entry: Entry, at_most: Micros = COMPLETE) -> list[Touch]:
        """The same, after a moment in which something that is under way becomes complete."""
        self._sentinel.wait(at_most)
        self.read_all()
        return self.take(entry)

    def lost(self) -> int:
        """How many there was no room for since this was asked last."""
        return self._sentinel.lost()

    def tidy(self) -> None:
        """Changes to hooks that no link is on, or wants to be on, are nothing to us any more."""
        if self._dropped == self._links.dropped:
            return
        self._dropped = self._links.dropped
        wanted = {hook for entry in self._links.values() for hook in entry.hooks()}
        for hook in self._followed - wanted:
            self._sentinel.unfollow(hook)
        self._followed &= wanted

    def told_by_it(self, kind: ChangeKind) -> bool:
        """Whether a change of this kind is the sentinel's to tell."""
        return kind in self.sees
