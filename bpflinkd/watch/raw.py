"""A netlink socket on the main loop. pyroute2's own sockets keep events in a queue of their asyncio
loop, where a foreign loop's poll() does not see them; a raw socket with its parsers loses none."""

import errno
import socket
from collections.abc import Callable
from typing import Final

from gi.repository import GLib

_RECEIVE_BUFFER: Final = 4 << 20
_DATAGRAM: Final = 64 << 10
_BATCH: Final = 8
"""Datagrams read before other work of the main loop gets its turn; parsing one takes about 1 ms."""


class RawNetlink:
    """Hands each datagram of the kernel's to `heard`."""

    def __init__(
        self, protocol: int, groups: int, heard: Callable[[bytes], None], lost: Callable[[], None]
    ) -> None:
        """Begin to listen.

        Args:
            groups: a bit for each multicast group.
            lost: called when the kernel dropped messages (ENOBUFS).
        """
        self._heard = heard
        self._lost = lost
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._socket.bind((0, groups))
        self._source = GLib.unix_fd_add_full(
            GLib.PRIORITY_DEFAULT, self._socket.fileno(), GLib.IOCondition.IN, self._readable
        )

    def close(self) -> None:
        """Stop listening."""
        GLib.source_remove(self._source)
        self._socket.close()

    def _readable(self, _fd: int, _condition: GLib.IOCondition) -> bool:
        for _ in range(_BATCH):
            try:
                data, (sender, _groups) = self._socket.recvfrom(_DATAGRAM)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._lost()
                break
            if sender == 0:  # only the kernel; any process may send to a netlink port
                self._heard(data)
        return bool(GLib.SOURCE_CONTINUE)
