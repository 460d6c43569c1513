"""Cgroups that come and go, told by inotify on the directories above them.

Measured on cgroup v2 of 6.18 (kernfs): mkdir and rmdir, also those made in another cgroup namespace,
tell the parent directory's watch (IN_CREATE and IN_DELETE with IN_ISDIR), and a cgroup cannot be
renamed. A removed directory's own watch hears nothing, neither IN_DELETE_SELF nor IN_IGNORED, and is
kept until inotify_rm_watch(). So every directory on the way to a followed path is watched, and the
parent's word ends the watch on a child.
"""

import errno
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from gi.repository import GLib
from inotify_simple import flags

from bpflinkd.core.events import CgroupAppeared, CgroupGone, Tiding
from bpflinkd.core.patterns import is_pattern
from bpflinkd.core.walk import Wanted, parts_of
from bpflinkd.watch.inotify import Inotify
from bpflinkd.watch.places import Places
from bpflinkd.watch.turns import Turns

log = logging.getLogger(__name__)

_RETRY: Final = 30
"""Seconds until what could not be watched is tried again."""
_SYSCTLS: Final = {
    errno.ENOSPC: "; raise the sysctl fs.inotify.max_user_watches",
    errno.EMFILE: "; raise the sysctl fs.inotify.max_user_instances",
}


def _joined(parts: Sequence[str]) -> str:
    return "/" + "/".join(parts)


class CgroupWatch:
    """Reports cgroups that match followed paths, as they appear and are removed."""

    def __init__(self, root: Path, tell: Callable[[Tiding], None], lost: Callable[[], None]) -> None:
        """Be ready to follow.

        Args:
            root: where the cgroup v2 hierarchy is mounted.
            tell: called with each change, from the main loop and never from within `follow`.
            lost: called when changes may have gone unseen: look at everything again.
        """
        self._tell = tell
        self._lost = lost
        self._wanted = Wanted()
        self._places = Places(str(root), self._wanted, self._appeared, self._gone, self._blind)
        self._knowing: Counter[str] = Counter()  # followers who know of a path that it is there
        self._pruning = False
        self._turns = Turns(self._events)
        self._retry = 0
        self.events = 0
        self.losses = 0
        self._open()

    @property
    def watches(self) -> int:
        """How many directories are watched."""
        return len(self._places.watched)

    def follow(self, path: str, there: bool | None = None) -> None:
        """Tell of a path from now on; once more where it is followed already.

        What is there now is told as having appeared.

        Args:
            path: from the root; each part may hold wildcards of the shell.
            there: for a path without any: True if its follower knows that it is there. Then only
                the opposite is told.
        """
        parts = parts_of(path)
        self._wanted.add(parts)
        if there is not True or is_pattern(path):
            self._turns.do(self._places.find(parts))
        else:
            self._knowing[_joined(parts)] += 1
            self._turns.do(self._confirm(parts))

    def unfollow(self, path: str) -> None:
        """End one `follow` of this path."""
        parts = parts_of(path)
        self._informed(parts)  # it may be the one who knows: rather tell the others once too often
        if self._wanted.remove(parts) and not self._pruning:
            self._pruning = True
            self._turns.do(self._prune())

    def close(self) -> None:
        """Stop."""
        self._turns.close()
        if self._retry:
            GLib.source_remove(self._retry)
        if self._places.inotify is not None:
            self._places.inotify.close()

    # Events

    def _events(self) -> Iterator[None] | None:
        events = self._places.inotify.read() if self._places.inotify is not None else ()
        return self._hear(events) if events else None

    def _hear(self, events: Iterable[Any]) -> Iterator[None]:
        for descriptor, mask, _, name in events:
            if mask & flags.Q_OVERFLOW:
                self._overflowed()
                return  # the rest is older than the search that follows
            place = self._places.watched.get(descriptor)
            if place is None:
                continue  # of a watch that was ended meanwhile
            if mask & flags.IGNORED:  # the kernel ended it: an unmount, or a kernel that tells of rmdir so
                del self._places.watched[descriptor]
                place.watch = -1
                if place is self._places.top:
                    self._blind("the cgroup hierarchy is no longer there")
            elif mask & flags.ISDIR:
                self.events += 1
                told = self._places.came if mask & flags.CREATE else self._places.went
                yield from told(place, name)
            yield

    def _overflowed(self) -> None:
        assert self._places.inotify is not None
        self._lose("inotify events of cgroups were lost")
        # What is queued still is older than what the search will see, and the events that would set
        # it right may be among the lost.
        self._places.inotify.drain()
        self._turns.do(self._places.search_again(self._places.top))

    def _appeared(self, path: str, followers: int) -> None:
        if followers > self._knowing[path]:
            self._tell(CgroupAppeared(path=path))

    def _gone(self, path: str) -> None:
        self._tell(CgroupGone(path=path))

    # Followers

    def _confirm(self, parts: Sequence[str]) -> Iterator[None]:
        """Tell of a path that is newly followed if, against what its follower knows, it is not there."""
        if parts:
            yield from self._places.find(parts)
            if not self._places.known(parts):
                self._gone(_joined(parts))
        self._informed(parts)

    def _informed(self, parts: Sequence[str]) -> None:
        """One follower fewer knows what need not be told."""
        path = _joined(parts)
        if path in self._knowing:
            self._knowing[path] -= 1
            self._knowing += Counter()  # drops zeros

    def _prune(self) -> Iterator[None]:
        self._pruning = False
        yield from self._places.prune()

    # Failures

    def _open(self) -> None:
        try:
            self._places.inotify = Inotify(self._turns.go_on)
        except OSError as error:
            self._blind(f"inotify cannot be used ({error.strerror})", error.errno)

    def _blind(self, why: str, number: int | None = None) -> None:
        """Something cannot be watched: say so once, go on with the rest, and try again later."""
        if not self._retry:
            self._retry = GLib.timeout_add_seconds(_RETRY, self._try_again)
            self._lose(f"cgroups are watched in part only: {why}{_SYSCTLS.get(number or 0, '')}")

    def _try_again(self) -> bool:
        self._retry = 0
        if self._places.inotify is None:
            self._open()
        if self._places.top.wanted:
            self._turns.do(self._places.search_again(self._places.top))
        return bool(GLib.SOURCE_REMOVE)

    def _lose(self, why: str) -> None:
        self.losses += 1
        log.warning("%s; looking at every link", why)
        self._lost()
