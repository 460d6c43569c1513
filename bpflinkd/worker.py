"""A thread that runs kernel operations, in order, and others for what takes long. Results go to the loop.

An XDP swap waits for RCU, a load for the verifier: neither may hold up a reader.
"""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, TypeAlias

from gi.repository import GLib

log = logging.getLogger(__name__)

_SLICE: Final = 0.005
"""Seconds after which other work of the main loop gets its turn."""
SHORT: Final = 0.001
"""The same of work that nobody waits for."""

Work: TypeAlias = Callable[[], Any]
Done: TypeAlias = Callable[[Any, BaseException | None], None]


class MainLoop:
    """Runs functions on the main loop, in the order in which the worker asked for it.

    One wake-up serves all that came meanwhile; a source of its own for each would cost a round of
    the loop each.
    """

    def __init__(self, priority: int = GLib.PRIORITY_DEFAULT, seconds: float = _SLICE) -> None:
        """`seconds` is what one turn of it may take, before other work gets its turn."""
        self._priority = priority
        self._seconds = seconds
        self._waiting: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()

    def post(self, function: Callable[..., None], *arguments: Any) -> None:
        """Run `function(*arguments)` soon. Only ever called on one thread: the worker's, or the main loop's.

        With one thread that appends and one that removes, the length tells without a lock whether
        the loop is awake: it removes an entry only when that is done.
        """
        self._waiting.append((function, arguments))
        if len(self._waiting) == 1:
            GLib.idle_add(self._run, priority=self._priority)

    def _run(self) -> bool:
        until = time.monotonic() + self._seconds
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
            result, error = _attempt(work)
            self._since = None
            if done is not None:
                self.main_loop.post(done, result, error)
            elif error is not None:
                log.error("work on the kernel thread failed", exc_info=error)


class Pool:
    """Threads for work that takes seconds and touches no link. `Done` is called on the main loop.

    Work of one user is done in order, one piece at a time, and users take turns: whoever has much to do, or
    something that takes long, keeps only itself waiting, as long as there are fewer such users than threads.
    """

    def __init__(self, name: str, threads: int) -> None:
        """One of the threads is root's alone."""
        self._others = threads - 1
        self._news = threading.Condition()
        self._waiting: OrderedDict[int, deque[tuple[Work, Done]]] = OrderedDict()
        """By user; whose turn is next comes first."""
        self._running: set[int] = set()
        for number in range(threads):
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True).start()

    def submit(self, uid: int, work: Work, done: Done) -> None:
        """Queue work of a user. `done(result, error)` follows later."""
        with self._news:
            self._waiting.setdefault(uid, deque()).append((work, done))
            self._news.notify()

    def _next(self) -> int | None:
        """The user whose turn it is; None where nobody's work may begin."""
        others = len(self._running - {0})
        for uid in self._waiting:
            if uid not in self._running and (uid == 0 or others < self._others):
                return uid
        return None

    def _run(self) -> None:
        while True:
            with self._news:
                while (uid := self._next()) is None:
                    self._news.wait()
                work, done = self._waiting[uid].popleft()
                if not self._waiting[uid]:
                    del self._waiting[uid]
                self._running.add(uid)
            result, error = _attempt(work)
            # Before the next piece begins, or its answer might come first.
            GLib.idle_add(_call_once, done, result, error, priority=GLib.PRIORITY_DEFAULT)
            with self._news:
                self._running.discard(uid)
                if uid in self._waiting:
                    self._waiting.move_to_end(uid)
                self._news.notify_all()


def _attempt(work: Work) -> tuple[Any, BaseException | None]:
    try:
        return work(), None
    except Exception as error:  # whatever it is, the caller is told and the thread goes on
        return None, error


def _call_once(done: Done, result: Any, error: BaseException | None) -> bool:
    done(result, error)
    return bool(GLib.SOURCE_REMOVE)
