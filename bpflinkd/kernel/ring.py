"""BPF ring buffers, read without ever waiting."""

import ctypes
import errno
from collections.abc import Sequence

from bpflinkd.kernel import libbpf_maps


class Ring:
    """One or more ring buffers, the first read first. The fds stay the caller's; close them after it."""

    def __init__(self, map_fds: Sequence[int]) -> None:
        """OSError: EINVAL one of them is no ring buffer."""
        self._taken: list[bytes] = []
        self._most = 0
        # libbpf keeps its address: it must live as long as the ring.
        self._callback = libbpf_maps.RING_CALLBACK(self._take)
        self._handle = libbpf_maps.ring_open(map_fds, self._callback)
        self.fd = libbpf_maps.ring_fd(self._handle)
        """Readable while there are records."""

    def read(self, most: int) -> list[bytes]:
        """Take at most `most` records out, the oldest first; what is left stays for the next time."""
        self._taken, self._most = [], most
        if most > 0:
            libbpf_maps.ring_consume(self._handle)
        return self._taken

    def close(self) -> None:
        """Stop reading; what was not read stays in the maps."""
        libbpf_maps.ring_close(self._handle)

    def _take(self, _context: int | None, data: int, size: int) -> int:
        """The record counts as read whatever we return; less than 0 makes it the last one for now."""
        self._taken.append(ctypes.string_at(data, size))
        return -errno.ECANCELED if len(self._taken) >= self._most else 0
