"""The timer that has every link looked at, whatever the other sources said. Bounds the detection time."""

from collections.abc import Callable

from gi.repository import GLib


class Sweep:
    """Asks for a sweep every `interval` seconds; a new one only after the last has ended."""

    def __init__(self, interval: float, start: Callable[[Callable[[], None]], None]) -> None:
        """Begin.

        Args:
            start: starts a sweep and calls what it is given when that has ended.
        """
        self.interval = interval
        self.done = 0
        self._start = start
        self._running = False
        self._again = False
        self._source = GLib.timeout_add(max(1, round(interval * 1000)), self._tick)

    def now(self) -> None:
        """Sweep as soon as possible: something may have been missed."""
        if self._running:
            self._again = True
            return
        self._running = True
        self._start(self._ended)

    def close(self) -> None:
        """Stop the timer."""
        GLib.source_remove(self._source)

    def _tick(self) -> bool:
        if not self._running:
            self.now()
        return bool(GLib.SOURCE_CONTINUE)

    def _ended(self) -> None:
        self._running = False
        self.done += 1
        if self._again:
            self._again = False
            self.now()
