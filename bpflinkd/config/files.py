"""Files by path, read anew only where they have changed."""

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeAlias, TypeVar

from bpflinkd.config.trust import Trust, Unfit

_Made = TypeVar("_Made")
_Key: TypeAlias = tuple[int, ...]
_TICK: Final = 50_000_000
"""Nanoseconds. Two changes within a tick of the kernel's clock (10 ms at most) have one ctime."""


@dataclass(frozen=True, slots=True)
class _Entry(Generic[_Made]):
    key: _Key | None
    """None where the file may have changed since without a trace."""
    made: _Made


class Files(Generic[_Made]):
    """Files of one kind, and what was made of each."""

    def __init__(self, what: str, most: int, make: Callable[[bytes, _Made | None], _Made]) -> None:
        """For files of a kind, for messages, of so many bytes at most.

        `make` gets the bytes and what was made of the file before. It may raise `Unfit`.
        """
        self._what = what
        self._most = most
        self._make = make
        self._before: dict[str, _Entry[_Made]] = {}
        self._now: dict[str, _Entry[_Made] | Unfit] = {}

    def begin(self) -> None:
        """Look at each file again, once. Forgets those that were not asked for since the last time."""
        self._before = {path: entry for path, entry in self._now.items() if not isinstance(entry, Unfit)}
        self._now = {}

    def read(self, path: str, trust: Trust) -> _Made:
        """What is made of the file, or `Unfit`. The same answer until `begin`."""
        if path not in self._now:
            try:
                self._now[path] = self._look(path, trust)
            except Unfit as error:
                self._now[path] = error
            except OSError as error:
                why = f"the {self._what} {path} cannot be read: {error.strerror}"
                self._now[path] = Unfit(why)
        found = self._now[path]
        if isinstance(found, Unfit):
            raise found
        return found.made

    def _look(self, path: str, trust: Trust) -> _Entry[_Made]:
        if "\0" in path:
            raise Unfit(f"the path of the {self._what} holds a NUL character")
        real, status = trust.file(path)
        before = self._before.get(path)
        if before is not None and before.key == _key(status):
            return before
        self._check(path, status)
        # Nobody but those trusted could put another file there meanwhile.
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            began = time.time_ns()
            status = os.fstat(descriptor)
            self._check(path, status)
            data = file.read(self._most + 1)
            if len(data) > self._most:
                raise self._too_large(path, len(data))
        settled = began - status.st_ctime_ns > _TICK and len(data) == status.st_size
        made = self._make(data, before.made if before is not None else None)
        return _Entry(_key(status) if settled else None, made)

    def _check(self, path: str, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            found = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise Unfit(f"the {self._what} {path} is {found}")
        if status.st_size > self._most:
            raise self._too_large(path, status.st_size)

    def _too_large(self, path: str, size: int) -> Unfit:
        return Unfit(f"the {self._what} {path} has {size} bytes; at most {self._most} are accepted")


def _key(status: os.stat_result) -> _Key:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
