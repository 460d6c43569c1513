"""All watch sources together: netlink, uevents, inotify on cgroups, and the sweep."""

import glob
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from bpflinkd.core.events import Tiding
from bpflinkd.core.model import LinkView
from bpflinkd.core.ports import Sentinel
from bpflinkd.core.targets import CgroupTarget
from bpflinkd.watch.cgroups import CgroupWatch
from bpflinkd.watch.netlink import NetlinkWatch
from bpflinkd.watch.pins import PinsWatch
from bpflinkd.watch.sentinel import SentinelWatch
from bpflinkd.watch.sweep import Sweep
from bpflinkd.watch.uevent import UeventWatch

_LONG: Final = 0.005
"""Seconds that most work does not take."""


class WatchSource(NamedTuple):
    """One source, as `status` shows it."""

    name: str
    live: bool
    events: int
    detail: str


class Watching:
    """For the main loop."""

    def __init__(
        self,
        interval: float,
        cgroup_root: Path | None,
        pins: Path,
        sentinel: Sentinel,
        tell: Callable[[Tiding], None],
        sweep: Callable[[Callable[[], None]], None],
        witness: Callable[[Callable[[], None]], None],
        busy_for: Callable[[], float],
    ) -> None:
        """Begin.

        Args:
            interval: seconds between two sweeps.
            cgroup_root: where cgroup v2 is mounted; None where it is not.
            pins: the root of our pins on a bpffs.
            sentinel: what it tells is read by `witness`.
            tell: called with each tiding.
            sweep: starts a sweep and calls what it is given when that has ended.
            witness: the same, reads what the sentinel told.
            busy_for: seconds that those who are told have been at one piece of work.
        """
        self._sentinel = sentinel
        self._sentinel_watch = SentinelWatch(sentinel.fd, witness)
        self._sweep = Sweep(interval, self._sweeping)
        self._start_sweep = sweep
        self._pins = PinsWatch(pins, tell, self._sweep.now, lambda: busy_for() > _LONG)
        self._netlink = NetlinkWatch(tell, self._sweep.now)
        self._uevent = UeventWatch(tell, self._sweep.now)
        self._cgroups = CgroupWatch(cgroup_root, tell, self._sweep.now) if cgroup_root else None
        self._patterns: frozenset[str] = frozenset()

    def close(self) -> None:
        """Stop."""
        self._sentinel_watch.close()
        self._pins.close()
        self._sweep.close()
        self._netlink.close()
        self._uevent.close()
        if self._cgroups is not None:
            self._cgroups.close()

    def _sweeping(self, ended: Callable[[], None]) -> None:
        self._pins.sweep()
        self._start_sweep(ended)

    def follow(self, view: LinkView) -> None:
        """A link came: watch its pins, and the cgroup that it is on, or waits for."""
        self._pins.follow(view.record.name)
        target = view.record.target
        if self._cgroups is not None and isinstance(target, CgroupTarget):
            self._cgroups.follow(glob.escape(target.path), view.link_id is not None)

    def unfollow(self, view: LinkView) -> None:
        """A link went."""
        self._pins.unfollow(view.record.name)
        target = view.record.target
        if self._cgroups is not None and isinstance(target, CgroupTarget):
            self._cgroups.unfollow(glob.escape(target.path))

    def follow_patterns(self, patterns: frozenset[str]) -> None:
        """The templates are for cgroups that match one of these, and for no others."""
        if self._cgroups is None:
            return
        for pattern in patterns - self._patterns:
            self._cgroups.follow(pattern)
        for pattern in self._patterns - patterns:
            self._cgroups.unfollow(pattern)
        self._patterns = patterns

    def sources(self) -> tuple[WatchSource, ...]:
        """How changes are noticed on this host."""
        cgroups, sentinel = self._cgroups, self._sentinel
        told = "every change of a program on a hook of ours, and who made it"
        return (
            WatchSource("sentinel", bool(sentinel.sees), sentinel.events, sentinel.lacks or told),
            WatchSource(
                "netlink",
                True,
                self._netlink.events,
                "interfaces: attach by netlink, gone, renamed, moved, back; blind to bpf_link updates",
            ),
            WatchSource(
                "uevent", True, self._uevent.events, "kernel modules, and with them the functions of kprobes"
            ),
            WatchSource(
                "inotify",
                cgroups is not None,
                cgroups.events if cgroups is not None else 0,
                "cgroups that come and go" if cgroups is not None else "no cgroup v2 hierarchy is mounted",
            ),
            WatchSource("pins", self._pins.live, self._pins.events, self._pins.detail),
            WatchSource("sweep", True, self._sweep.done, f"every link, every {self._sweep.interval:g} s"),
        )
