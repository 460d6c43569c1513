"""What is in maps, by libbpf: entries by the map's fd, and the records of ring buffers.

One call, one function, one OSError. No decision is made here.
"""

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from ctypes import byref, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, Final

from bpflinkd.kernel.libbpf_calls import check, declare

BPF_MAP_TYPE_HASH: Final = 1
BPF_MAP_TYPE_ARRAY: Final = 2
BPF_MAP_TYPE_PROG_ARRAY: Final = 3
BPF_MAP_TYPE_PERCPU_ARRAY: Final = 6
BPF_MAP_TYPE_RINGBUF: Final = 27

RING_CALLBACK: Final = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)
"""`ring_buffer_sample_fn`: context, address and size of a record."""

_map_lookup = declare("bpf_map_lookup_elem", c_int, c_int, c_void_p, c_void_p)
_map_update = declare("bpf_map_update_elem", c_int, c_int, c_void_p, c_void_p, c_uint64)
_map_delete = declare("bpf_map_delete_elem", c_int, c_int, c_void_p)
_map_next_key = declare("bpf_map_get_next_key", c_int, c_int, c_void_p, c_void_p)
_ring_new = declare("ring_buffer__new", c_void_p, c_int, RING_CALLBACK, c_void_p, c_void_p)
_ring_add = declare("ring_buffer__add", c_int, c_void_p, c_int, RING_CALLBACK, c_void_p)
_ring_consume = declare("ring_buffer__consume", c_int, c_void_p)
ring_fd = declare("ring_buffer__epoll_fd", c_int, c_void_p)
ring_close = declare("ring_buffer__free", None, c_void_p)


def map_lookup(map_fd: int, key: int, value: Any) -> None:
    """Read the value of a u32 key into a ctypes buffer. OSError: ENOENT nothing is there."""
    check(_map_lookup(map_fd, byref(c_uint32(key)), value), "BPF_MAP_LOOKUP_ELEM")


def map_update(map_fd: int, key: int, value: Any) -> None:
    """Set the value of a u32 key. OSError: EINVAL a slot does not take this program."""
    check(_map_update(map_fd, byref(c_uint32(key)), byref(value), 0), "BPF_MAP_UPDATE_ELEM")


def map_delete(map_fd: int, key: int) -> None:
    """Empty a u32 key's entry. OSError: ENOENT it is empty."""
    check(_map_delete(map_fd, byref(c_uint32(key))), "BPF_MAP_DELETE_ELEM")


def map_put(map_fd: int, key: bytes, value: bytes) -> None:
    """Set the value of a key; both have exactly the map's sizes. OSError: E2BIG the map is full."""
    check(_map_update(map_fd, key, value, 0), "BPF_MAP_UPDATE_ELEM")


def map_remove(map_fd: int, key: bytes) -> None:
    """Remove a key of exactly the map's size. OSError: ENOENT it is not there."""
    check(_map_delete(map_fd, key), "BPF_MAP_DELETE_ELEM")


def map_keys(map_fd: int, size: int) -> Iterator[bytes]:
    """Every key of a map that nobody changes meanwhile; `size` is that of the map's keys, in bytes."""
    key = ctypes.create_string_buffer(size)
    result = _map_next_key(map_fd, None, key)
    while result == 0:
        yield key.raw
        result = _map_next_key(map_fd, key, key)
    if result != -errno.ENOENT:
        check(result, "BPF_MAP_GET_NEXT_KEY")


def ring_open(map_fds: Sequence[int], callback: Any) -> int:
    """Map ring buffers for reading, in this order; returns a handle, to be closed by `ring_close`.

    Args:
        callback: a `RING_CALLBACK`, called by `ring_consume` with each record; it must live as long as the
            handle.

    Raises:
        OSError: EINVAL a map is no ring buffer.
    """
    ctypes.set_errno(0)
    handle = _ring_new(map_fds[0], callback, None, None)
    if not handle:
        code = ctypes.get_errno()
        raise OSError(code, f"ring_buffer__new: {os.strerror(code)}")
    try:
        for fd in map_fds[1:]:
            check(_ring_add(handle, fd, callback, None), "ring_buffer__add")
    except OSError:
        ring_close(handle)
        raise
    return int(handle)


def ring_consume(handle: int) -> None:
    """Hand the records that are there to the callback, until it returns less than 0.

    That record counts as read like those before it. Source: libbpf 1.1.2, ringbuf_process_ring().
    """
    _ring_consume(handle)
