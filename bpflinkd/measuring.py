"""Metrics: what happens is counted, what is asked for is read where it belongs, and a socket offers it.

The library is imported only where a socket is opened.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from gi.repository import GLib

import bpflinkd
from bpflinkd.config.listen import Listen
from bpflinkd.core.events import ForeignChange, OfOneLink
from bpflinkd.core.statistics import Reading
from bpflinkd.core.targets import CgroupTarget, Target, XdpTarget
from bpflinkd.worker import Worker

if TYPE_CHECKING:
    from bpflinkd.metrics.collector import Snapshot
    from bpflinkd.metrics.observed import Observed
    from bpflinkd.metrics.server import MetricsServer

log = logging.getLogger(__name__)

_PATIENCE: Final = 5.0
"""Seconds that a scrape waits for the main loop and the worker."""


class Measuring:
    """For the main loop. Without a place to listen at it does nothing."""

    def __init__(self, listen: Listen | None) -> None:
        """Count from now on; nobody can ask before `open`."""
        self._listen = listen
        self._observed: Observed | None = None
        self._server: MetricsServer | None = None
        if listen is not None:
            from prometheus_client import CollectorRegistry  # noqa: PLC0415

            from bpflinkd.metrics import observed  # noqa: PLC0415

            self._registry = CollectorRegistry()
            self._observed = observed.Observed(self._registry, bpflinkd.__version__)

    def open(
        self, worker: Worker, read: Callable[[], Reading], sources: Callable[[], Mapping[str, bool]]
    ) -> None:
        """Listen. Where that cannot be the journal says so: links are worth more than metrics.

        Args:
            read: for the worker.
            sources: for the main loop: which watch sources are live.
        """
        if self._listen is None:
            return
        from bpflinkd.metrics.collector import LinksCollector  # noqa: PLC0415
        from bpflinkd.metrics.server import MetricsServer  # noqa: PLC0415

        self._registry.register(LinksCollector(lambda: _snapshot(worker, read, sources)))
        try:
            self._server = MetricsServer(self._listen, self._registry)
        except OSError as error:
            log.error("%s", error)
        else:
            log.info("metrics are on %s", self._listen)

    def close(self) -> None:
        """Stop."""
        if self._server is not None:
            self._server.close()

    def swapped(self, target: Target, seconds: float, done: bool) -> None:
        """The kernel was asked to swap a program. From any thread."""
        if self._observed is not None:
            self._observed.swapped(_kind(target), seconds, done)

    def tell(self, news: OfOneLink) -> None:
        """Something happened."""
        if self._observed is not None and isinstance(news, ForeignChange):
            self._observed.changed(news.kind)


def _kind(target: Target) -> str:
    match target:
        case XdpTarget():
            return "xdp"
        case CgroupTarget():
            return "cgroup"
        case _:
            return "kprobe"


def _snapshot(
    worker: Worker, read: Callable[[], Reading], sources: Callable[[], Mapping[str, bool]]
) -> "Snapshot":
    """On the thread of a scrape: have it read, each part on the thread that it belongs to."""
    from bpflinkd.metrics.collector import Snapshot  # noqa: PLC0415
    from bpflinkd.metrics.server import Unavailable  # noqa: PLC0415

    ready = threading.Event()
    found: list[Snapshot] = []

    def on_main_loop() -> bool:
        live = sources()

        def on_worker() -> None:
            try:
                found.append(Snapshot(read(), live))
            finally:
                ready.set()

        worker.submit(on_worker)
        return bool(GLib.SOURCE_REMOVE)

    GLib.idle_add(on_main_loop, priority=GLib.PRIORITY_DEFAULT)
    ready.wait(_PATIENCE)
    if not found:
        raise Unavailable(f"bpflinkd has other work and did not answer within {_PATIENCE:g} s; ask again")
    return found[0]
