"""Many entries of a map at a time, by libbpf. One call, one function, one OSError.

Buffers are the caller's: a key and a value take the map's sizes, and a value of a per-CPU type has a part for
each possible CPU, rounded up to 8 bytes.
"""

import errno
from ctypes import byref, c_char_p, c_int, c_uint32, c_void_p
from typing import Any, Final

from bpflinkd.kernel.libbpf_calls import check, declare

_lookup_batch = declare(
    "bpf_map_lookup_batch", c_int, c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p
)
_update_batch = declare("bpf_map_update_batch", c_int, c_int, c_void_p, c_void_p, c_void_p, c_void_p)
_lookup = declare("bpf_map_lookup_elem", c_int, c_int, c_void_p, c_void_p)
_type_name = declare("libbpf_bpf_map_type_str", c_char_p, c_int)

_NOT_BATCHED: Final = 524
"""ENOTSUPP of the kernel's own, which is not the C library's."""


def lookup_batch(
    map_fd: int, place: Any | None, next_place: Any, keys: Any, values: Any, most: int
) -> tuple[int, bool]:
    """Read entries; returns how many, and whether there may be more.

    Args:
        place: what the call before left in `next_place`; None to begin.
        most: entries that `keys` and `values` have room for.

    Raises:
        OSError: ENOSPC more than `most` entries lie together, give more room; EOPNOTSUPP such maps are
            not read this way; EPERM, or they are not read at all. Source: kernel/bpf/syscall.c
            generic_map_lookup_batch(), kernel/bpf/hashtab.c __htab_map_lookup_and_delete_batch().
    """
    count = c_uint32(most)
    result = _lookup_batch(map_fd, place, next_place, keys, values, byref(count), None)
    if result == -errno.ENOENT:
        return count.value, False
    if result == -_NOT_BATCHED:
        result = -errno.EOPNOTSUPP
    check(result, "BPF_MAP_LOOKUP_BATCH")
    return count.value, True


def update_batch(map_fd: int, keys: Any, values: Any, count: int) -> None:
    """Set so many entries. OSError: E2BIG the map is full; EPERM it takes none."""
    check(_update_batch(map_fd, keys, values, byref(c_uint32(count)), None), "BPF_MAP_UPDATE_BATCH")


def lookup(map_fd: int, key: bytes, value: Any) -> bool:
    """Read the value of a key into a buffer; False where there is none."""
    result = _lookup(map_fd, key, value)
    if result == -errno.ENOENT:
        return False
    check(result, "BPF_MAP_LOOKUP_ELEM")
    return True


def map_type_name(number: int) -> str:
    """`enum bpf_map_type` in words: `hash`."""
    name = _type_name(number)
    return str(name.decode()) if name else f"type {number}"
