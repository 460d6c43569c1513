"""The sentinel's buffer in the main loop: it wakes us, and is read on the worker."""

from collections.abc import Callable

from gi.repository import GLib


class SentinelWatch:
    """Asks for the buffer to be read when there is something in it."""

    def __init__(self, fd: int, read: Callable[[Callable[[], None]], None]) -> None:
        """Begin.

        Args:
            fd: readable while there is something to read; -1 where no sentinel runs.
            read: reads some of it, and calls what it is given when that is done.
        """
        self._fd = fd
        self._read = read
        self._source = 0
        self._closed = fd < 0
        self._listen()

    def close(self) -> None:
        """Stop."""
        self._closed = True
        if self._source:
            GLib.source_remove(self._source)
            self._source = 0

    def _listen(self) -> None:
        if not self._closed:
            self._source = GLib.unix_fd_add_full(
                GLib.PRIORITY_DEFAULT, self._fd, GLib.IOCondition.IN, self._readable
            )

    def _readable(self, _fd: int, _condition: GLib.IOCondition) -> bool:
        # It stays readable until it was read: not another wake-up before that.
        self._source = 0
        self._read(self._listen)
        return bool(GLib.SOURCE_REMOVE)
