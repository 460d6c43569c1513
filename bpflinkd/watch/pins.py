"""Pins that somebody made, removed or moved, told by inotify on the directories of our links.

Measured on the bpffs of 6.18: BPF_OBJ_PIN, mkdir, symlink and link tell IN_CREATE, unlink and rmdir
IN_DELETE, rename IN_MOVED_FROM and IN_MOVED_TO; a watched directory that goes tells IN_IGNORED. An unmount
tells IN_UNMOUNT, but after `umount --lazy` only when nobody has anything open there, and the daemon has: the
sweep notices it.
"""

import errno
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gi.repository import GLib
from inotify_simple import flags

from bpflinkd.core import names
from bpflinkd.core.events import PinsTouched, Tiding
from bpflinkd.watch.inotify import Inotify
from bpflinkd.watch.turns import Turns

log = logging.getLogger(__name__)

_ALSO: Final = flags.MOVED_FROM | flags.MOVED_TO | flags.MOVE_SELF
_MAPS: Final = "maps"
_NOTHING_THERE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_PAUSE_MS: Final = 10
"""Milliseconds between two rounds of telling, and until somebody busy is looked at again."""
_ROUND: Final = 20
"""Links that are told of in one round. A look takes the worker about 0.2 ms: whoever touches all pins all the
time costs it less than half of its time."""
_SYSCTLS: Final = {
    errno.ENOSPC: "; raise the sysctl fs.inotify.max_user_watches",
    errno.EMFILE: "; raise the sysctl fs.inotify.max_user_instances",
}


@dataclass(slots=True)
class _Home:
    """The directory of one link."""

    link: str
    """Name of the link."""
    watch: int = -1
    """Its watch descriptor; -1 where it has none."""
    maps: int = -1
    """The same of the directory of its maps."""


class PinsWatch:
    """Tells of links whose pins were touched, ourselves included: only a look can tell who did it."""

    def __init__(
        self,
        root: Path,
        tell: Callable[[Tiding], None],
        lost: Callable[[], None],
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """Be ready to follow.

        Args:
            root: the directory of our pins.
            tell: called with a link that was touched, from the main loop and never from within `follow`.
            lost: called when something may have gone unseen: have `sweep` called soon.
            busy: whether those who are told have other work. They may be moving pins themselves, by the
                thousand, and are not to be slowed down by what they do not come to yet.
        """
        self._busy = busy
        self._root = str(root)
        self._tell = tell
        self._lost = lost
        self._homes: dict[str, _Home] = {}  # by encoded name of the link
        self._watched: dict[int, str] = {}  # encoded names by watch descriptor
        self._touched: dict[str, None] = {}  # encoded names of those to be told of, in order
        self._unheard: dict[str, None] = {}  # of those that may have been touched unheard
        self._root_watch = -1
        self._seen: tuple[int, ...] = ()
        self._telling = 0
        self._inotify: Inotify | None = None
        self._why = ""
        self._turns = Turns(self._events)
        self.events = 0
        self._watch_root()

    @property
    def live(self) -> bool:
        """Whether every change is heard of at once."""
        return self._root_watch >= 0 and not self._unheard

    @property
    def detail(self) -> str:
        """What is watched, or why it cannot be, for `status`."""
        if self.live:
            return f"our pins in {self._root}: made, removed, moved"
        return f"each sweep looks at pins: {self._why or f'{self._root} is not there'}"

    def follow(self, link: str) -> None:
        """Tell of a link's pins from now on; once at first, for what happened since they were made."""
        encoded = names.encode(link)
        self._homes[encoded] = _Home(link)
        self._watch(encoded)
        self._touch(encoded)

    def unfollow(self, link: str) -> None:
        """Tell of them no longer."""
        encoded = names.encode(link)
        home = self._homes.pop(encoded)
        self._end(encoded, home.watch)
        self._end(encoded, home.maps)
        self._unheard.pop(encoded, None)
        self._touched.pop(encoded, None)

    def sweep(self) -> None:
        """Tell of all links that may have been touched unheard, and try to watch them again."""
        if self._root_watch < 0 or self._identity() != self._seen:
            self._watch_root()
        if self._unheard:
            self._turns.do(self._catch_up(tuple(self._unheard)))

    def close(self) -> None:
        """Stop."""
        self._turns.close()
        if self._telling:
            GLib.source_remove(self._telling)
        if self._inotify is not None:
            self._inotify.close()

    # Events

    def _events(self) -> Iterator[None] | None:
        if self._inotify is None:
            return None
        if self._busy():
            self._inotify.rest(_PAUSE_MS)
            return None
        events = self._inotify.read()
        return self._hear(events) if events else None

    def _hear(self, events: Iterable[Any]) -> Iterator[None]:
        for descriptor, mask, _, name in events:
            self.events += 1
            if mask & flags.Q_OVERFLOW:
                self._overflowed()
                return
            if descriptor == self._root_watch:
                self._hear_root(mask, name)
            elif (encoded := self._watched.get(descriptor)) is not None:
                if mask & flags.IGNORED:  # the directory is gone
                    self._watched.pop(descriptor)
                elif mask & flags.ISDIR and name == _MAPS:
                    self._watch(encoded)
                self._touch(encoded)
            yield

    def _hear_root(self, mask: int, name: str) -> None:
        if mask & (flags.IGNORED | flags.MOVE_SELF | flags.UNMOUNT):
            assert self._inotify is not None
            self._inotify.remove(self._root_watch)
            self._root_watch, self._seen = -1, ()
            self._lose(f"the directory {self._root} was removed, moved or unmounted")
        elif mask & flags.ISDIR and name in self._homes:
            self._watch(name)
            self._touch(name)

    def _overflowed(self) -> None:
        assert self._inotify is not None
        # What is queued still is older than the look at everything that follows.
        self._inotify.drain()
        self._lose("inotify events of pins were lost")

    def _lose(self, why: str) -> None:
        log.warning("%s; looking at the pins of every link", why)
        self._unheard = dict.fromkeys(self._homes)
        self._lost()

    # Telling

    def _touch(self, encoded: str) -> None:
        """Tell of a link when this turn of the main loop is over, however often it is touched until then."""
        self._touched[encoded] = None
        if not self._telling:
            self._telling = GLib.idle_add(self._tell_some, priority=GLib.PRIORITY_DEFAULT)

    def _tell_some(self) -> bool:
        self._telling = 0
        for encoded in tuple(itertools.islice(self._touched, _ROUND)):
            del self._touched[encoded]
            self._telling = self._telling or GLib.timeout_add(_PAUSE_MS, self._tell_some)
            self._tell(PinsTouched(link=self._homes[encoded].link))
        return bool(GLib.SOURCE_REMOVE)

    # Watching

    def _identity(self) -> tuple[int, ...]:
        """Which directory the root is, or, where it is not there, which one it would be in."""
        for place in (self._root, os.path.dirname(self._root)):
            try:
                seen = os.stat(place)
            except OSError:
                continue
            return seen.st_dev, seen.st_ino
        return ()

    def _watch_root(self) -> None:
        """Watch the root that is there now. All links may have been touched until then."""
        before, watch = self._seen, -1
        self._seen = self._identity()
        try:
            watch = self._add(self._root)
            missing = watch < 0 and self._seen == before  # still, and that has been told
        except OSError as error:
            self._blind(error)
            missing = False
        if self._inotify is not None and self._root_watch not in (-1, watch):
            self._inotify.remove(self._root_watch)
        self._root_watch = watch
        if not missing:
            self._unheard = dict.fromkeys(self._homes)

    def _catch_up(self, unheard: Iterable[str]) -> Iterator[None]:
        for encoded in unheard:
            if encoded in self._homes:
                self._unheard.pop(encoded, None)
                self._watch(encoded)
                self._touch(encoded)
                yield
        if self.live:
            self._why = ""

    def _watch(self, encoded: str) -> None:
        """Watch the directories of a link that are there. Of others the one above tells when they are."""
        home, path = self._homes[encoded], f"{self._root}/{encoded}"
        try:
            home.watch = self._renew(encoded, home.watch, path)
            home.maps = self._renew(encoded, home.maps, f"{path}/{_MAPS}")
        except OSError as error:
            self._unheard[encoded] = None
            self._blind(error)

    def _renew(self, encoded: str, before: int, path: str) -> int:
        watch = self._add(path)
        if watch != before:
            self._end(encoded, before)
        if watch >= 0:
            self._watched[watch] = encoded
        return watch

    def _add(self, path: str) -> int:
        """Watch a directory; -1 where there is none. OSError."""
        if self._inotify is None:
            self._inotify = Inotify(self._turns.go_on, also=_ALSO)
        try:
            return self._inotify.add(path)
        except OSError as error:
            if error.errno in _NOTHING_THERE:
                return -1
            raise

    def _blind(self, error: OSError) -> None:
        """Something cannot be watched: say so once, and leave it to the sweep."""
        if not self._why:
            self._why = f"inotify cannot be used ({error.strerror}){_SYSCTLS.get(error.errno or 0, '')}"
            log.warning("pins are watched in part only: %s; each sweep looks at the others", self._why)

    def _end(self, encoded: str, watch: int) -> None:
        if self._watched.get(watch) == encoded:
            del self._watched[watch]
            assert self._inotify is not None
            self._inotify.remove(watch)
