"""The directories on the way to followed cgroups: watched, searched, and what is in them.

No order of events can mislead for good: a directory is watched before it is searched, searches and
events take turns in the order in which they were asked for, and so the last event about a name is
heard after every search that may have seen the name before it.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bpflinkd.core.patterns import is_pattern, matches
from bpflinkd.core.walk import Wanted

if TYPE_CHECKING:
    from bpflinkd.watch.inotify import Inotify

_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENAMETOOLONG)


@dataclass(slots=True, eq=False)
class Place:
    """A directory in which something followed may come or go."""

    path: str
    """From the root, which is empty."""
    wanted: list[Wanted]
    """What is wanted below it."""
    children: dict[str, "Place | None"] = field(default_factory=dict)
    """The directories in it that match and are there, as far as searches and events have told."""
    watch: int = -1
    """Its watch descriptor; -1 where it has none."""


class Places:
    """A tree of watched directories. What takes time is done step by step: a step a `yield`."""

    def __init__(
        self,
        root: str,
        wanted: Wanted,
        appeared: Callable[[str, int], None],
        gone: Callable[[str], None],
        blind: Callable[[str, int | None], None],
    ) -> None:
        """Watch nothing yet.

        Args:
            wanted: the followed paths, as they are at any time.
            appeared: called with a path that is there and how many follow it.
            gone: called with a followed path that is there no longer.
            blind: called with a sentence and errno when a directory cannot be watched or read.
        """
        self.top = Place("", [wanted])
        self.inotify: Inotify | None = None
        self.watched: dict[int, Place] = {}
        """By watch descriptor."""
        self._root = root
        self._wanted = wanted
        self._appeared = appeared
        self._gone = gone
        self._blind = blind

    def came(self, place: Place, name: str) -> Iterator[None]:
        """A directory is there."""
        nodes = [node for wanted in place.wanted for node in wanted.below(name)]
        if not nodes or name in place.children:
            return
        place.children[name] = None
        path = f"{place.path}/{name}"
        if followers := sum(node.followers for node in nodes):
            self._appeared(path, followers)
        if any(node.deep for node in nodes):
            yield from self._search(self._enter(place, name))

    def went(self, place: Place, name: str) -> Iterator[None]:
        """A directory is there no longer, nor is what was below it."""
        if name not in place.children:
            return
        child = place.children.pop(name)
        if child is not None:
            yield from self._all_went(child)
            self._unwatch(child)
        if any(node.followers for wanted in place.wanted for node in wanted.below(name)):
            self._gone(f"{place.path}/{name}")

    def _all_went(self, place: Place) -> Iterator[None]:
        for name in tuple(place.children):
            yield from self.went(place, name)
            yield

    def find(self, parts: Sequence[str]) -> Iterator[None]:
        """Tell of what is there of a path that is newly followed."""
        if not parts:  # the root is always there
            self._appeared("/", self._wanted.followers)
            return
        self.top.wanted = [self._wanted]
        if self.top.watch < 0:
            self._watch(self.top)
        yield from self._descend(self.top, self._wanted, parts)

    def known(self, parts: Sequence[str]) -> bool:
        """Whether a path without wildcards is there, as far as has been told."""
        place: Place | None = self.top
        for part in parts:
            if place is None or part not in place.children:
                return False
            place = place.children[part]
        return True

    def _descend(self, place: Place, wanted: Wanted, parts: Sequence[str]) -> Iterator[None]:
        part, rest = parts[0], parts[1:]
        node = wanted.at(part)
        if node is None:
            return  # unfollowed meanwhile
        for name in self._directories(place) if is_pattern(part) else self._existing(place, (part,)):
            yield
            path = f"{place.path}/{name}"
            if is_pattern(part) and not matches(part, name):
                continue
            if name not in place.children:
                yield from self.came(place, name)  # searches for all that is wanted there, this too
            elif rest:
                child = self._enter(place, name)
                if node not in child.wanted:
                    child.wanted.append(node)
                yield from self._descend(child, node, rest)
            elif node.followers:
                self._appeared(path, node.followers)

    def _search(self, place: Place) -> Iterator[None]:
        """Tell of all that is there in and below a directory and not known yet."""
        for name in self._present(place):
            yield
            yield from self.came(place, name)

    def search_again(self, place: Place) -> Iterator[None]:
        """Tell of what came and went in and below a directory while nothing was heard."""
        before = place.watch
        self._watch(place)  # the same descriptor, unless it is another directory by now
        if before >= 0 and place.watch != before:
            yield from self._all_went(place)
        present = set()
        for name in self._present(place):
            present.add(name)
            yield
        for name in [name for name in place.children if name not in present]:
            yield from self.went(place, name)
            yield
        for name in present:
            child = place.children.get(name)
            yield from self.came(place, name) if child is None else self.search_again(child)
            yield

    def _present(self, place: Place) -> Iterator[str]:
        """Names of the directories in a directory, at least of those that matter."""
        if any(wanted.wild for wanted in place.wanted):
            return self._directories(place)
        return self._existing(place, [name for wanted in place.wanted for name in wanted.plain])

    def _existing(self, place: Place, names: Sequence[str]) -> Iterator[str]:
        for name in names:
            try:
                found = os.lstat(f"{self._root}{place.path}/{name}")
            except OSError as error:
                self._unreadable(f"{place.path}/{name}", error)
                continue
            if stat.S_ISDIR(found.st_mode):
                yield name

    def _directories(self, place: Place) -> Iterator[str]:
        try:
            with os.scandir(f"{self._root}{place.path}/") as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):  # kernfs tells it with the name
                        yield entry.name
        except OSError as error:
            self._unreadable(place.path, error)

    def _enter(self, place: Place, name: str) -> Place:
        """Watch a child that is known."""
        child = place.children[name]
        if child is None:
            deep = [node for wanted in place.wanted for node in wanted.below(name) if node.deep]
            child = place.children[name] = Place(f"{place.path}/{name}", deep)
            self._watch(child)
        return child

    def _watch(self, place: Place) -> None:
        watch = -1
        if self.inotify is not None:
            try:
                watch = self.inotify.add(f"{self._root}{place.path}/")
            except OSError as error:
                if error.errno not in _ABSENT or place is self.top:
                    what = place.path or "the root of the cgroup hierarchy"
                    self._blind(f"{what} cannot be watched ({error.strerror})", error.errno)
        if watch != place.watch:
            self._unwatch(place)
            place.watch = watch
            if watch >= 0:
                self.watched[watch] = place

    def _unwatch(self, place: Place) -> None:
        if place.watch >= 0 and self.watched.pop(place.watch, None) is not None:
            assert self.inotify is not None
            self.inotify.remove(place.watch)
        place.watch = -1

    def prune(self) -> Iterator[None]:
        """End the watches on directories in which nothing is wanted any more."""
        yield from self._prune_in(self.top)

    def _prune_in(self, place: Place) -> Iterator[None]:
        place.wanted = [wanted for wanted in place.wanted if wanted.deep]
        for name, child in tuple(place.children.items()):
            yield
            if child is not None:
                yield from self._prune_in(child)
                if not child.wanted:
                    place.children[name] = None
            if not any(True for wanted in place.wanted for _ in wanted.below(name)):
                del place.children[name]
        if not place.wanted:
            self._unwatch(place)

    def _unreadable(self, path: str, error: OSError) -> None:
        if error.errno not in _ABSENT:
            self._blind(f"{path} cannot be read ({error.strerror})", error.errno)
