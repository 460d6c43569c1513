"""What is counted as it happens, since the daemon started."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, Info
from prometheus_client.metrics import disable_created_metrics

from bpflinkd.core.events import ChangeKind

_BUCKETS: Final = (0.00001, 0.0001, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
"""Seconds. A cgroup's swap takes 2 us, an interface's 8 ms: see docs/performance.md."""
_KINDS: Final = ("xdp", "cgroup", "kprobe")


class Observed:
    """Counters. For any thread: the library has a lock for each."""

    def __init__(self, registry: CollectorRegistry, version: str) -> None:
        """Each series is there from the first scrape on, with 0: a rate needs two."""
        # A series more for each counter, of when it was made.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        Info("bpflinkd_build", "The release that runs.", registry=registry).info({"version": version})
        self._swaps = Counter("bpflinkd_swaps", "Swaps of programs.", ("kind", "result"), registry=registry)
        self._seconds = Histogram(
            "bpflinkd_swap_seconds",
            "How long the kernel took for a swap that was done.",
            ("kind",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._changes = Counter(
            "bpflinkd_foreign_changes", "Changes by others to hooks of ours.", ("kind",), registry=registry
        )
        for kind in _KINDS:
            self._seconds.labels(kind)
            for result in ("done", "failed"):
                self._swaps.labels(kind, result)
        for change in ChangeKind:
            self._changes.labels(change)

    def swapped(self, kind: str, seconds: float, done: bool) -> None:
        """The kernel was asked to swap a program; `kind` is `xdp`, `cgroup` or `kprobe`."""
        self._swaps.labels(kind, "done" if done else "failed").inc()
        if done:
            self._seconds.labels(kind).observe(seconds)

    def changed(self, kind: ChangeKind) -> None:
        """Somebody else touched a hook of ours."""
        self._changes.labels(kind).inc()
