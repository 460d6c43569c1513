"""bpf(2) by libbpf, and XDP by netlink: links, pins, ids, and what is attached where.

One call, one function, one OSError. No decision is made here.
"""

import ctypes
import os
import struct
from collections.abc import Iterator
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, Final

from bpflinkd.kernel.libbpf_calls import check, declare, unchecked

BPF_F_REPLACE: Final = 1 << 2
BPF_F_KPROBE_MULTI_RETURN: Final = 1
BPF_TRACE_FEXIT: Final = 25
BPF_PERF_EVENT: Final = 41
BPF_TRACE_KPROBE_MULTI: Final = 42
XDP_FLAGS_UPDATE_IF_NOEXIST: Final = 1 << 0
XDP_FLAGS_SKB_MODE: Final = 1 << 1
XDP_FLAGS_DRV_MODE: Final = 1 << 2
XDP_FLAGS_HW_MODE: Final = 1 << 3
_MOST_PROGRAMS: Final = 64
"""On a cgroup at one attach type: BPF_CGROUP_MAX_PROGS."""
BPF_LINK_TYPE_CGROUP: Final = 3
BPF_LINK_TYPE_XDP: Final = 6
BPF_LINK_TYPE_PERF_EVENT: Final = 7
BPF_LINK_TYPE_KPROBE_MULTI: Final = 8


class _LinkCreateOpts(Structure):
    _fields_ = [("sz", c_size_t), ("flags", c_uint32), ("pad", c_uint32)]


class _KprobeOpts(Structure):
    """`struct bpf_link_create_opts` as far as its union's `kprobe_multi`, whose first word, for a
    perf_event link, is the cookie."""

    _fields_ = [
        ("sz", c_size_t),
        ("flags", c_uint32),
        ("iter_info", c_void_p),
        ("iter_info_len", c_uint32),
        ("target_btf_id", c_uint32),
        ("cookie_or_flags", c_uint64),
        ("syms", c_void_p),
        ("addrs", c_void_p),
        ("cookies", c_void_p),
    ]


class _LinkUpdateOpts(Structure):
    _fields_ = [("sz", c_size_t), ("flags", c_uint32), ("old_prog_fd", c_uint32)]


class _XdpAttachOpts(Structure):
    _fields_ = [("sz", c_size_t), ("old_prog_fd", c_int), ("pad", c_uint32)]


class XdpQuery(Structure):
    """`struct bpf_xdp_query_opts`: program ids by mode, 0 where there is none."""

    _fields_ = [
        ("sz", c_size_t),
        ("prog_id", c_uint32),
        ("drv_prog_id", c_uint32),
        ("hw_prog_id", c_uint32),
        ("skb_prog_id", c_uint32),
        ("attach_mode", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 7),
    ]


class _ProgQueryOpts(Structure):
    """`struct bpf_prog_query_opts` up to `prog_attach_flags`."""

    _fields_ = (
        ("sz", c_size_t),
        ("query_flags", c_uint32),
        ("attach_flags", c_uint32),
        ("prog_ids", c_uint64),
        ("prog_cnt", c_uint32),
        ("padding", c_uint32),
    )


_U32P: Final = POINTER(c_uint32)
_link_create = declare("bpf_link_create", c_int, c_int, c_int, c_int, POINTER(_LinkCreateOpts))
_link_update = declare("bpf_link_update", c_int, c_int, c_int, POINTER(_LinkUpdateOpts))
_link_detach = declare("bpf_link_detach", c_int, c_int)
_obj_pin = declare("bpf_obj_pin", c_int, c_int, c_char_p)
_obj_get = declare("bpf_obj_get", c_int, c_char_p)
_obj_info = declare("bpf_obj_get_info_by_fd", c_int, c_int, c_void_p, _U32P)
_map_by_id = declare("bpf_map_get_fd_by_id", c_int, c_uint32)
_prog_by_id = declare("bpf_prog_get_fd_by_id", c_int, c_uint32)
_link_by_id = declare("bpf_link_get_fd_by_id", c_int, c_uint32)
_link_next_id = declare("bpf_link_get_next_id", c_int, c_uint32, _U32P)
_prog_query = declare("bpf_prog_query_opts", c_int, c_int, c_int, POINTER(_ProgQueryOpts))
_info_unchecked = unchecked("bpf_obj_get_info_by_fd")
_query_unchecked = unchecked("bpf_prog_query_opts")
_xdp_query = declare("bpf_xdp_query", c_int, c_int, c_int, POINTER(XdpQuery))
_xdp_attach = declare("bpf_xdp_attach", c_int, c_int, c_int, c_uint32, POINTER(_XdpAttachOpts))
_xdp_detach = declare("bpf_xdp_detach", c_int, c_int, c_uint32, POINTER(_XdpAttachOpts))


def link_create(prog_fd: int, target: int, attach_type: int, flags: int = 0) -> int:
    """Attach a program; returns the new bpf_link's fd.

    Args:
        target: a cgroup directory's fd, or an ifindex for XDP.

    Raises:
        OSError: EBUSY the XDP hook is held; EPERM legacy programs on the cgroup forbid it (or no
            capability); EOPNOTSUPP no driver support; EINVAL no such interface, or the program
            does not fit; EBADF `target` is no cgroup v2 directory.
            Source: kernel/bpf/syscall.c link_create(), net/core/dev.c bpf_xdp_link_attach().
    """
    opts = _LinkCreateOpts(sz=ctypes.sizeof(_LinkCreateOpts), flags=flags)
    return check(_link_create(prog_fd, target, attach_type, byref(opts)), "BPF_LINK_CREATE")


def link_create_kprobe(prog_fd: int, perf_fd: int, cookie: int) -> int:
    """Attach a program to a kprobe's perf event; the event's fd may be closed then.

    Raises:
        OSError: EINVAL the program is not a plain kprobe's, or may sleep.
            Source: kernel/events/core.c perf_event_set_bpf_prog().
    """
    opts = _KprobeOpts(sz=ctypes.sizeof(_KprobeOpts), cookie_or_flags=cookie)
    return check(_link_create(prog_fd, perf_fd, BPF_PERF_EVENT, _as_link_opts(opts)), "BPF_LINK_CREATE")


def link_create_kprobe_multi(prog_fd: int, symbols: list[str], cookie: int, *, at_return: bool) -> int:
    """Attach a program to many functions.

    Raises:
        OSError: EOPNOTSUPP no CONFIG_FPROBE; EINVAL expected_attach_type is not that of kprobe.multi;
            ESRCH a function is not known; ENOENT one cannot be traced.
            Source: kernel/trace/bpf_trace.c bpf_kprobe_multi_link_attach().
    """
    count = len(symbols)
    names = (c_char_p * count)(*(symbol.encode() for symbol in symbols))
    cookies = (c_uint64 * count)(*(cookie for _ in symbols))
    opts = _KprobeOpts(
        sz=ctypes.sizeof(_KprobeOpts),
        # u32 flags, u32 count
        cookie_or_flags=(BPF_F_KPROBE_MULTI_RETURN if at_return else 0) | count << 32,
        syms=ctypes.cast(names, c_void_p),
        cookies=ctypes.cast(cookies, c_void_p) if cookie else None,
    )
    return check(_link_create(prog_fd, 0, BPF_TRACE_KPROBE_MULTI, _as_link_opts(opts)), "BPF_LINK_CREATE")


def _as_link_opts(opts: _KprobeOpts) -> Any:
    return ctypes.cast(ctypes.pointer(opts), POINTER(_LinkCreateOpts))


def link_update(link_fd: int, new_prog_fd: int, *, old_prog_fd: int) -> None:
    """Swap the program behind a link if it still is `old_prog_fd`'s.

    Raises:
        OSError: EPERM another program is attached (or no capability); EINVAL the types differ or
            the link cannot be updated; ENOLINK the hook is gone.
            Source: net/core/dev.c bpf_xdp_link_update(), kernel/bpf/cgroup.c cgroup_bpf_replace().
    """
    opts = _LinkUpdateOpts(sz=ctypes.sizeof(_LinkUpdateOpts), flags=BPF_F_REPLACE, old_prog_fd=old_prog_fd)
    check(_link_update(link_fd, new_prog_fd, byref(opts)), "BPF_LINK_UPDATE")


def link_detach(link_fd: int) -> None:
    """Detach a link from its hook at once, though fds and pins of it remain.

    Raises:
        OSError: EOPNOTSUPP this kind of link cannot be detached.
    """
    check(_link_detach(link_fd), "BPF_LINK_DETACH")


def obj_pin(fd: int, path: str) -> None:
    """Pin an object on a bpffs. OSError: EEXIST taken; EPERM not a bpffs, or a dot in the name."""
    check(_obj_pin(fd, os.fsencode(path)), f"BPF_OBJ_PIN {path}")


def obj_get(path: str) -> int:
    """Open a pinned object. OSError: ENOENT; EACCES not a bpffs file or not readable and writable."""
    return check(_obj_get(os.fsencode(path)), f"BPF_OBJ_GET {path}")


def obj_info(fd: int, buffer: Any, length: c_uint32) -> None:
    """Fill a ctypes buffer with `struct bpf_{prog,map,link}_info`; `length` holds its size."""
    check(_obj_info(fd, buffer, length), "BPF_OBJ_GET_INFO_BY_FD")


class SameInfo:
    """Asks whether objects are as they were, all in one place and with nothing parsed. For one thread.

    A sweep does it for each link: in a thousand places it takes half as long again.
    """

    def __init__(self, size: int) -> None:
        """`size`: bytes of the info that are asked for."""
        self._bytes = bytearray(size)
        self._buffer = (ctypes.c_char * size).from_buffer(self._bytes)
        self._place = byref(self._buffer)
        # On return what the kernel knows of it, which it does as well the next time.
        self._size = byref(c_uint32(size))

    def same(self, fd: int, before: bytes) -> bool:
        """Whether the kernel gives the same bytes as before."""
        return _info_unchecked(fd, self._place, self._size) == 0 and self._bytes == before


def prog_fd_by_id(prog_id: int) -> int:
    """Open a program by kernel id. OSError: ENOENT no such program; EPERM no CAP_SYS_ADMIN."""
    return check(_prog_by_id(prog_id), f"BPF_PROG_GET_FD_BY_ID {prog_id}")


def map_fd_by_id(map_id: int) -> int:
    """Open a map by kernel id. OSError: ENOENT no such map; EPERM no CAP_SYS_ADMIN."""
    return check(_map_by_id(map_id), f"BPF_MAP_GET_FD_BY_ID {map_id}")


def link_fd_by_id(link_id: int) -> int:
    """Open a link by kernel id. OSError: ENOENT; EAGAIN it is not settled yet."""
    return check(_link_by_id(link_id), f"BPF_LINK_GET_FD_BY_ID {link_id}")


def link_ids() -> Iterator[int]:
    """Kernel ids of all bpf_links of the host, in order."""
    current = c_uint32(0)
    while _link_next_id(current.value, byref(current)) == 0:
        yield current.value


class ProgQuery:
    """Asks which programs are attached to a cgroup at one attach type. Holds what the kernel answered."""

    def __init__(self, cgroup_fd: int, attach_type: int) -> None:
        self._bytes = bytearray(ctypes.sizeof(_ProgQueryOpts) + 4 * _MOST_PROGRAMS)
        self._opts = _ProgQueryOpts.from_buffer(self._bytes)
        self._opts.sz = ctypes.sizeof(_ProgQueryOpts)
        self._opts.prog_ids = ctypes.addressof(self._opts) + self._opts.sz
        self._arguments = (cgroup_fd, attach_type, byref(self._opts))
        self._answer = b""

    def ask(self) -> list[int]:
        """Their ids.

        Raises:
            OSError: EINVAL the kernel does not know the attach type.
        """
        self._opts.prog_cnt = _MOST_PROGRAMS
        check(_prog_query(*self._arguments), "BPF_PROG_QUERY")
        self._answer = bytes(self._bytes)
        return list(struct.unpack_from(f"={self._opts.prog_cnt}I", self._answer, self._opts.sz))

    def same(self) -> bool:
        """Whether the answer is what it was when we asked last."""
        # The count is the last one still: that there are more by now is an error (ENOSPC).
        return _query_unchecked(*self._arguments) == 0 and self._bytes == self._answer


def prog_query(cgroup_fd: int, attach_type: int) -> list[int]:
    """Ids of the programs attached to a cgroup at one attach type. OSError: as `ProgQuery.ask`."""
    return ProgQuery(cgroup_fd, attach_type).ask()


def xdp_query(ifindex: int) -> XdpQuery:
    """Which XDP programs an interface has. OSError: ENODEV or ENXIO no such interface."""
    opts = XdpQuery(sz=ctypes.sizeof(XdpQuery))
    check(_xdp_query(ifindex, 0, byref(opts)), f"XDP query of ifindex {ifindex}")
    return opts


def xdp_attach(ifindex: int, prog_fd: int, flags: int) -> None:
    """Attach an XDP program by netlink where none is. OSError: EBUSY or EEXIST one is."""
    check(
        _xdp_attach(ifindex, prog_fd, flags | XDP_FLAGS_UPDATE_IF_NOEXIST, None),
        f"XDP attach to ifindex {ifindex}",
    )


def xdp_detach(ifindex: int, flags: int, *, old_prog_fd: int) -> None:
    """Remove a netlink-attached XDP program if it still is `old_prog_fd`'s. OSError: EEXIST else."""
    opts = _XdpAttachOpts(sz=ctypes.sizeof(_XdpAttachOpts), old_prog_fd=old_prog_fd)
    check(_xdp_detach(ifindex, flags, byref(opts)), f"XDP detach from ifindex {ifindex}")
