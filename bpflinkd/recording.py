"""What happens goes into the event log, and comes from there, on a thread of its own: a disk may be slow."""

import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from gi.repository import GLib

from bpflinkd.core.chronicle import LogEntry, Query
from bpflinkd.core.events import LinkAdded, OfOneLink
from bpflinkd.core.ports import Clock
from bpflinkd.store.event_log import EventLog
from bpflinkd.worker import Worker

if TYPE_CHECKING:
    from bpflinkd.core.ids import UnixMicros

log = logging.getLogger(__name__)

_Made = TypeVar("_Made")
_GATHER_MS: Final = 10
"""What happens within this time is written together: each time costs the main loop a turn or two."""
_LONGEST_REST: Final = 0.1
"""Seconds: it is the disk that takes longer."""


class Recording:
    """For the main loop."""

    def __init__(self, directory: Path, kept: int, clock: Clock, told: Callable[[int], None]) -> None:
        """Touches nothing yet.

        Args:
            directory: where the log is.
            kept: how many entries it keeps.
            told: called with the number of the newest entry when there are new ones.
        """
        self.newest = 0
        """Number of the newest entry; 0 before the first of this run."""
        self._log = EventLog(directory, kept)
        self._clock = clock
        self._since = clock()
        self._told = told
        # More would not be kept anyway: a disk that hangs costs no more memory than this.
        self._waiting: deque[tuple[UnixMicros, OfOneLink]] = deque(maxlen=kept)
        self._asked = False
        self._rest = 0.0
        """When the thread may read again."""
        self._worker = Worker("events")

    def add(self, news: OfOneLink, *, starting: bool = False) -> None:
        """Keep a piece of news. `starting`: the daemon takes its links back, which is no news of them."""
        if starting and isinstance(news, LinkAdded) and news.view.record.created < self._since:
            return
        self._waiting.append((self._clock(), news))
        if not self._asked:
            self._asked = True
            GLib.timeout_add(_GATHER_MS, self._write_soon)

    def read(
        self, query: Query, make: Callable[[tuple[LogEntry, ...]], _Made], done: Callable[..., None]
    ) -> None:
        """Read what was added before this; `done(made, error)` follows. `make` runs on the thread, too."""

        def work() -> _Made:
            # Python runs one thread at a time: whoever reads on and on leaves half of it to the main loop.
            time.sleep(max(0.0, self._rest - time.monotonic()))
            began = time.monotonic()
            made = make(self._log.read(query))
            ended = time.monotonic()
            self._rest = ended + min(ended - began, _LONGEST_REST)
            return made

        if self._waiting:
            self._worker.submit(self._write, self._written)
        self._worker.submit(work, done)

    def close(self) -> None:
        """Write what waits, and stop."""
        self._worker.stop()
        self._write()
        self._log.close()

    def _write_soon(self) -> bool:
        self._asked = False
        self._worker.submit(self._write, self._written)
        return bool(GLib.SOURCE_REMOVE)

    def _write(self) -> int:
        """On the thread: all that waits, in one go."""
        taken = [self._waiting.popleft() for _ in range(len(self._waiting))]
        return self._log.append(taken)

    def _written(self, newest: Any, error: BaseException | None) -> None:
        if error is not None:
            log.error("events were not kept: %s", error, exc_info=error)
        elif newest != self.newest:
            self.newest = newest
            self._told(newest)
