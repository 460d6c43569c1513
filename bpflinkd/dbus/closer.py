"""Closing descriptors that a caller sent, without waiting for the caller.

To close a file is to flush it, and a file system in user space answers a flush when it likes: never, where
its owner is an attacker. Source: fs/fuse/file.c fuse_flush(), which waits also through a signal. And the last
one to close frees what the kernel held: gigabytes of a memfd take a second. So a close may not happen on a
thread that anybody waits for, GIO's included.
"""

import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterable
from queue import SimpleQueue
from typing import Final

log = logging.getLogger(__name__)

STUCK: Final = 3.0
"""Seconds after which a close counts as one that may never end."""
_OF_THE_KERNEL: Final = ("anon_inode:", "pipe:", "socket:")
"""Files that belong to no file system, as the links in /proc/PID/fd begin."""


class Closer:
    """Two threads: one for what the kernel closes by itself, one for what a file system has a say in."""

    def __init__(self) -> None:
        self._kernel = _Lane("closer-kernel")
        self._files = _Lane("closer-files")

    def close(self, fds: Iterable[int]) -> None:
        """Close descriptors, soon. From any thread; never waits."""
        for fd in fds:
            (self._kernel if kernel_answers(fd) else self._files).queue.put(fd)

    @property
    def stuck(self) -> bool:
        """Whether a file system has kept us waiting for too long."""
        since = self._files.since
        return since is not None and time.monotonic() - since > STUCK


class _Lane:
    """A thread that closes one after another."""

    def __init__(self, name: str) -> None:
        self.queue: SimpleQueue[int] = SimpleQueue()
        self.since: float | None = None
        """When the close that is under way began."""
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        while True:
            fd = self.queue.get()
            self.since = time.monotonic()
            try:
                os.close(fd)
            except OSError as error:  # what a file system says of the flush; it is closed all the same
                log.debug("a caller's descriptor was closed with: %s", error)
            self.since = None


def kernel_answers(fd: int) -> bool:
    """Whether no file system in user space has a say when it is closed. Asks none.

    Memfds are told by their seals: mm/memfd.c memfd_file_seals_ptr() knows tmpfs and hugetlbfs only.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return os.readlink(f"/proc/self/fd/{fd}").startswith(_OF_THE_KERNEL)
    return True
