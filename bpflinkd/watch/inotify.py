"""inotify on directories, on the main loop. inotify_simple has the system calls and the format."""

import contextlib
import os
from collections.abc import Callable
from typing import Any, Final

from gi.repository import GLib
from inotify_simple import INotify, flags, parse_events

_MASK: Final = flags.CREATE | flags.DELETE | flags.ONLYDIR | flags.DONT_FOLLOW | flags.MASK_ADD
"""IN_MASK_ADD: without it, to watch again what is watched already loses events that happen meanwhile
(fs/notify/inotify/inotify_user.c inotify_update_existing_watch() clears the mask for a moment)."""
_READ: Final = 4096
"""Bytes of events read at once: about a hundred. One with the longest name takes 272."""
_DRAIN: Final = 1 << 20


class Inotify:
    """Says when there are events of what was made or removed in watched directories."""

    def __init__(self, readable: Callable[[], None], *, also: int = 0) -> None:
        """Begin.

        Args:
            readable: called as long as there is something to read.
            also: kinds of events to tell of beside IN_CREATE and IN_DELETE: `IN_MOVE` and the like.

        Raises:
            OSError: EMFILE where the user has fs.inotify.max_user_instances already.
        """
        self._readable = readable
        self._mask = _MASK | also
        self._fd = INotify(nonblocking=True)
        self._source = 0
        self._listen()

    def add(self, directory: str) -> int:
        """Watch a directory; returns its watch descriptor, the same while it is watched already.

        Descriptors are not given to others again (fs/notify/inotify/inotify_user.c uses
        idr_alloc_cyclic).

        Raises:
            OSError: ENOSPC where the user has fs.inotify.max_user_watches already.
        """
        return int(self._fd.add_watch(directory, self._mask))

    def remove(self, watch: int) -> None:
        """End a watch."""
        with contextlib.suppress(OSError):  # EINVAL: the kernel ended it already
            self._fd.rm_watch(watch)

    def read(self) -> list[Any]:
        """Some of the events; empty where there are none."""
        try:
            return list(parse_events(os.read(self._fd.fileno(), _READ)))
        except BlockingIOError:
            return []

    def rest(self, milliseconds: int) -> None:
        """Say nothing for so long. What happens meanwhile is not lost."""
        GLib.source_remove(self._source)
        self._source = GLib.timeout_add(milliseconds, self._listen)

    def drain(self) -> None:
        """Throw away all events up to now."""
        with contextlib.suppress(BlockingIOError):
            while True:
                os.read(self._fd.fileno(), _DRAIN)

    def close(self) -> None:
        """End all watches."""
        GLib.source_remove(self._source)
        self._fd.close()

    def _listen(self) -> bool:
        self._source = GLib.unix_fd_add_full(
            GLib.PRIORITY_DEFAULT, self._fd.fileno(), GLib.IOCondition.IN, self._wake
        )
        return bool(GLib.SOURCE_REMOVE)

    def _wake(self, _fd: int, _condition: GLib.IOCondition) -> bool:
        self._readable()
        return bool(GLib.SOURCE_CONTINUE)
