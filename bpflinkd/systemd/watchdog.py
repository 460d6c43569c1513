"""The watchdog: the service manager restarts a daemon that does not say in time that it is well."""

import logging
import os
from collections.abc import Callable

from gi.repository import GLib

from bpflinkd.systemd.manager import notify

log = logging.getLogger(__name__)


def watchdog_interval() -> float | None:
    """Seconds within which the manager wants to hear from us; None where it does not.

    As sd_watchdog_enabled(3): $WATCHDOG_PID names whom it is meant for.
    """
    text = os.environ.get("WATCHDOG_USEC", "")
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        return None
    return int(text) / 1_000_000


class Watchdog:
    """Says `WATCHDOG=1` three times an interval, from the main loop and only while all is well.

    A loop that is blocked says nothing by itself; `healthy` answers for the threads.
    """

    def __init__(self, healthy: Callable[[], bool]) -> None:
        """Begin, if the manager wants it (`watchdog_interval`).

        Args:
            healthy: called on the main loop before each message; must not wait for anything.
        """
        self._healthy = healthy
        self._silent = False
        self._source: int | None = None
        interval = watchdog_interval()
        if interval is not None:
            self._source = GLib.timeout_add(max(1, round(interval * 1000 / 3)), self._tick)

    def close(self) -> None:
        """Stop the timer. The manager waits no longer once it has been told `STOPPING=1`."""
        if self._source is not None:
            GLib.source_remove(self._source)
            self._source = None

    def _tick(self) -> bool:
        if self._healthy():
            notify("WATCHDOG=1")
            self._silent = False
        elif not self._silent:
            self._silent = True
            log.error("a thread of the daemon is stuck; without an end to that the watchdog will restart it")
        return bool(GLib.SOURCE_CONTINUE)
