"""The maps of a program that is loaded confined: which types it may have, and how much memory they take.

Asked twice: by the loader before it creates a map, and by the daemon of the maps that came.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from bpflinkd.core.errors import BadProgram, LimitExceeded
from bpflinkd.core.maps import MapShape


class MapLimits(NamedTuple):
    """What the maps of one program may be; all maps of its object count."""

    maps: int
    memory: int
    """Bytes, all together."""


class _Type(NamedTuple):
    """How a type of map keeps an entry."""

    overhead: int
    """Bytes beside key and value."""
    keyed: bool = False
    """Keys are kept, not only counted off."""
    per_cpu: bool = False
    """There is a value for each possible CPU."""


_PERF_EVENT_ARRAY, _RINGBUF, _USER_RINGBUF = 4, 27, 31
# Bytes are those of 64-bit kernels, rounded up; a test compares them with what this kernel says.
# A hash has an element of 48 bytes and up to two buckets of 16 for an entry. An entry of a CPUMAP has a
# queue of at most 16384 pointers. Of a Bloom filter an entry takes up to 42 bits.
_TYPES: Final = {
    1: _Type(96, keyed=True),  # HASH
    2: _Type(0),  # ARRAY
    3: _Type(8),  # PROG_ARRAY
    _PERF_EVENT_ARRAY: _Type(8),
    5: _Type(96, keyed=True, per_cpu=True),  # PERCPU_HASH
    6: _Type(8, per_cpu=True),  # PERCPU_ARRAY
    7: _Type(128),  # STACK_TRACE
    8: _Type(8),  # CGROUP_ARRAY
    9: _Type(128, keyed=True),  # LRU_HASH
    10: _Type(128, keyed=True, per_cpu=True),  # LRU_PERCPU_HASH
    11: _Type(96, keyed=True),  # LPM_TRIE
    14: _Type(96),  # DEVMAP
    15: _Type(16),  # SOCKMAP
    16: _Type(1 << 18),  # CPUMAP
    17: _Type(16),  # XSKMAP
    18: _Type(96, keyed=True),  # SOCKHASH
    19: _Type(128, keyed=True),  # CGROUP_STORAGE
    20: _Type(8),  # REUSEPORT_SOCKARRAY
    21: _Type(128, keyed=True, per_cpu=True),  # PERCPU_CGROUP_STORAGE
    22: _Type(0),  # QUEUE
    23: _Type(0),  # STACK
    25: _Type(96),  # DEVMAP_HASH
    _RINGBUF: _Type(0),
    30: _Type(8),  # BLOOM_FILTER
    _USER_RINGBUF: _Type(0),
}
"""The types that a confined program may have. Not among them: maps of maps and struct_ops, which lead to what
is not the program's own; storage of sockets, inodes, tasks and cgroups, which grows with these, so that no
limit holds; and types that we do not know."""
_MAP: Final = 4096
"""Bytes of a map without its entries."""
_PAGE: Final = 4096


def estimate(shape: MapShape, cpus: int) -> int:
    """Bytes that a map takes when it is full, rather more than less. Its type must be one of ours."""
    if shape.type in (_RINGBUF, _USER_RINGBUF):
        # Some pages of its own, and two pointers a page: the data is mapped twice.
        data = _power_of_two(max(shape.max_entries, _PAGE))
        return _MAP + 4 * _PAGE + data + data // 128
    kind = _TYPES[shape.type]
    value = _round_up(shape.value_size) * (cpus if kind.per_cpu else 1)
    key = _round_up(shape.key_size) if kind.keyed else 0
    # A hash keeps an element for each CPU in reserve; a perf event array without a size gets one for each.
    entries = max(shape.max_entries, cpus) if shape.type == _PERF_EVENT_ARRAY else shape.max_entries
    entries += cpus if kind.keyed else 0
    return _MAP + entries * (kind.overhead + key + value)


def check(shapes: Iterable[MapShape], limits: MapLimits, cpus: int) -> None:
    """Refuse maps that a confined program may not have.

    Args:
        cpus: how many there may be on this host.

    Raises:
        BadProgram: of a type that no limit holds for, or that leads beyond the program.
        LimitExceeded: too many, or too large together.
    """
    total = 0
    for number, shape in enumerate(shapes, start=1):
        if number > limits.maps:
            raise LimitExceeded(
                f"the program has more than {limits.maps} maps, the most that it is granted, those of its "
                "data sections among them; use fewer, or have max-maps of the grant raised"
            )
        if shape.type not in _TYPES:
            raise BadProgram(
                f"map {shape.name[:80]!r} is of type {shape.type} (enum bpf_map_type), which only root's "
                "programs may have: it leads beyond the program, or no limit on memory holds for it"
            )
        size = estimate(shape, cpus)
        total += size
        if total > limits.memory:
            raise LimitExceeded(
                f"map {shape.name[:80]!r} takes about {size} bytes, which makes {total} for the maps of the "
                f"program; {limits.memory} are granted; make it smaller, or have max-memory of the grant "
                "raised"
            )


def _round_up(size: int) -> int:
    return (size + 7) // 8 * 8


def _power_of_two(size: int) -> int:
    return int(1 << (size - 1).bit_length())
