"""A bpf_link that we hold by fd."""

import ctypes
import os
from collections.abc import Callable
from ctypes import c_uint32
from struct import Struct
from typing import Final

from bpflinkd.core.errors import KernelRefused
from bpflinkd.core.events import SlotHook
from bpflinkd.core.ids import LinkId, ProgId
from bpflinkd.core.model import LinkFacts, Misses
from bpflinkd.kernel import info, libbpf

_PROGRAM: Final = Struct("=I")
_PROGRAM_AT: Final = 8
"""u32 prog_id in `struct bpf_link_info`."""


class HeldLink:
    """Implements `core.ports.Link`. Owns the fd.

    `unchanged` is what a sweep calls for every link, so it compares the kernel's answer byte by
    byte with the one that was marked good and parses nothing.
    """

    INFO_SIZE = info.LINK_INFO_SIZE
    """Bytes of `struct bpf_link_info` that are asked for."""
    _INFO = libbpf.SameInfo(INFO_SIZE)

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._bytes = bytearray(self.INFO_SIZE)
        self._buffer = (ctypes.c_char * self.INFO_SIZE).from_buffer(self._bytes)
        self._size = c_uint32(self.INFO_SIZE)
        self._good = b""
        try:
            self.id: LinkId = self.facts().id
        except BaseException:
            os.close(fd)
            raise

    def facts(self) -> LinkFacts:
        """What the kernel says now."""
        self._size.value = self.INFO_SIZE
        libbpf.obj_info(self.fd, self._buffer, self._size)
        return info.facts_of(info.parse_link_info(self._bytes))

    def mark_good(self, runs: ProgId | None = None) -> None:
        """Take what `facts` said last as what is expected from now on; `runs` was swapped in since."""
        if runs is not None:
            _PROGRAM.pack_into(self._bytes, _PROGRAM_AT, runs)
        self._good = bytes(self._bytes)

    def unchanged(self) -> bool:
        """Whether the kernel still says what was marked good. For the worker thread only."""
        return self._INFO.same(self.fd, self._good)

    @property
    def misses(self) -> Callable[[], Misses] | None:
        return None

    @property
    def slot_hook(self) -> SlotHook | None:
        return None

    def detach(self) -> None:
        """Leave the hook at once, whoever else holds the link. Off it already is no error."""
        if self.facts().hook is None:
            return
        try:
            libbpf.link_detach(self.fd)
        except OSError as error:
            raise KernelRefused(f"the kernel does not detach the link: {error}") from None

    def close(self) -> None:
        """Give up our reference; safe to call again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
