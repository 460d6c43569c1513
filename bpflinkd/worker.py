"""The one thread that runs kernel operations, in order. Results go back to the main loop.

An XDP swap waits for RCU, a load for the verifier: neither may hold up a reader.
"""

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias

from gi.repository import GLib

log = logging.getLogger(__name__)

Work: TypeAlias = Callable[[], Any]
Done: TypeAlias = Callable[[Any, BaseException | None], None]


def on_main_loop(function: Callable[..., None], *arguments: Any) -> None:
    """Run a function on the main loop, in the order of the calls, whatever thread calls."""

    def once() -> bool:
        function(*arguments)
        return bool(GLib.SOURCE_REMOVE)

    GLib.idle_add(once, priority=GLib.PRIORITY_DEFAULT)


class Worker:
    """A queue and a thread. `Done` is called on the main loop."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Work, Done | None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="kernel", daemon=True)
        self._thread.start()

    def submit(self, work: Work, done: Done | None = None) -> None:
        """Queue work. `done(result, error)` follows later; without it errors go to the log."""
        self._queue.put((work, done))

    def stop(self) -> None:
        """Finish what is queued, then end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            work, done = job
            try:
                result, error = work(), None
            except Exception as caught:  # whatever it is, the caller is told and the thread goes on
                result, error = None, caught
            if done is not None:
                on_main_loop(done, result, error)
            elif error is not None:
                log.error("work on the kernel thread failed", exc_info=error)
