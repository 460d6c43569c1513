"""Work for the main loop that is done a little at a time, so that nothing else waits for it long."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from gi.repository import GLib

_TURN: Final = 0.002
"""Seconds of work before the rest of the main loop gets its turn."""


class Turns:
    """Does pieces of work one after the other, in the order in which they were asked for."""

    def __init__(self, more: Callable[[], Iterator[None] | None]) -> None:
        """Be idle.

        Args:
            more: asked for work when there is none; None where there is none indeed.
        """
        self._more = more
        self._work: deque[Iterator[None]] = deque()
        self._source = 0

    def do(self, work: Iterator[None]) -> None:
        """Work at this, each step of which takes far less than a turn."""
        self._work.append(work)
        self.go_on()

    def go_on(self) -> None:
        """There may be more work."""
        if not self._source:
            self._source = GLib.idle_add(self._turn, priority=GLib.PRIORITY_DEFAULT)

    def close(self) -> None:
        """Drop what is left."""
        self._work.clear()
        if self._source:
            GLib.source_remove(self._source)
            self._source = 0

    def _turn(self) -> bool:
        deadline = time.monotonic() + _TURN
        while True:
            if not self._work:
                more = self._more()
                if more is None:
                    self._source = 0
                    return bool(GLib.SOURCE_REMOVE)
                self._work.append(more)
            if next(self._work[0], self) is self:
                self._work.popleft()
            if time.monotonic() > deadline:
                return bool(GLib.SOURCE_CONTINUE)
