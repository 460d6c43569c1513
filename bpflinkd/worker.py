"""A thread that runs kernel operations, in order. Results go back to the main loop.

An XDP swap waits for RCU, a load for the verifier: neither may hold up a reader.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, TypeAlias

from gi.repository import GLib

log = logging.getLogger(__name__)

_SLICE: Final = 0.005
"""Seconds after which other work of the main loop gets its turn."""

Work: TypeAlias = Callable[[], Any]
Done: TypeAlias = Callable[[Any, BaseException | None], None]


class MainLoop:
    """Runs functions on the main loop, in the order in which the worker asked for it.

    One wake-up serves all that came meanwhile; a source of its own for each would cost a round of
    the loop each.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()

    def post(self, function: Callable[..., None], *arguments: Any) -> None:
        """Run `function(*arguments)` soon. Only ever called on the worker thread.

        With one thread that appends and one that removes, the length tells without a lock whether
        the loop is awake: it removes an entry only when that is done.
        """
        self._waiting.append((function, arguments))
        if len(self._waiting) == 1:
            GLib.idle_add(self._run, priority=GLib.PRIORITY_DEFAULT)

    def _run(self) -> bool:
        until = time.monotonic() + _SLICE
        while self._waiting:
            function, arguments = self._waiting[0]
            try:
                function(*arguments)
            except Exception:  # one that fails must not keep the others from running
                log.exception("a callback failed")
            self._waiting.popleft()
            if time.monotonic() > until:
                return bool(self._waiting)
        return False


class Worker:
    """A queue and a thread. `Done` is called on the main loop."""

    def __init__(self, name: str) -> None:
        self.main_loop = MainLoop()
        self._queue: SimpleQueue[tuple[Work, Done | None] | None] = SimpleQueue()
        self._since: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Work, done: Done | None = None) -> None:
        """Queue work. `done(result, error)` follows later; without it errors go to the log."""
        self._queue.put((work, done))

    def busy_for(self) -> float:
        """Seconds that the piece of work at hand has taken so far; 0 while there is none."""
        since = self._since
        return time.monotonic() - since if since is not None else 0.0

    def stop(self) -> None:
        """Finish what is queued, then end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            work, done = job
            self._since = time.monotonic()
            try:
                result, error = work(), None
            except Exception as caught:  # whatever it is, the caller is told and the thread goes on
                result, error = None, caught
            self._since = None
            if done is not None:
                self.main_loop.post(done, result, error)
            elif error is not None:
                log.error("work on the kernel thread failed", exc_info=error)
