"""Copies of what live maps hold, for programs that are tried and must not touch the live ones.

Reading takes no lock for longer than a bucket, and changes nothing of the live map: not even the order in
which an LRU map gives entries up. Source: kernel/bpf/hashtab.c htab_lru_map_lookup_elem_sys().
"""

import ctypes
import errno
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final, NamedTuple, TypeAlias

from bpflinkd.core.errors import LimitExceeded
from bpflinkd.core.testruns import Kept
from bpflinkd.kernel import info, libbpf, libbpf_batches, libbpf_maps
from bpflinkd.kernel.info import MapInfo
from bpflinkd.kernel.libbpf_objects import possible_cpus

MOST_BYTES: Final = 256 << 20
"""Of all live maps' contents together."""
MOST_SECONDS: Final = 20.0
"""For reading them."""
_CHUNK: Final = 1 << 20
"""Bytes that are read at a time."""
_PLAIN: Final = frozenset({1, 2, 9, 11})
"""HASH, ARRAY, LRU_HASH, LPM_TRIE."""
_PER_CPU: Final = frozenset({5, 6, 10})
"""PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH."""
_DEVMAPS: Final = frozenset({14, 25})
"""DEVMAP, DEVMAP_HASH: which interface a packet may be sent to decides on the verdict."""
_CONSTANTS: Final = (".rodata", ".kconfig")

Name: TypeAlias = tuple[str, int]
"""What the kernel calls a map, and which of that name it is, in the order in which the program uses them."""


class _Chunk(NamedTuple):
    """Entries side by side."""

    keys: bytes
    values: bytes
    entries: int


class Contents(NamedTuple):
    """What a live map held."""

    shape: MapInfo
    chunks: tuple[_Chunk, ...]
    lacks: str
    """Why it is not here, as the end of a sentence; empty where it is."""


def read(prog_fd: int) -> dict[Name, Contents]:
    """Read the maps that a running program uses. `LimitExceeded` where they hold too much.

    What somebody changes meanwhile is there as before or as after, an entry each.
    """
    until, left = time.monotonic() + MOST_SECONDS, MOST_BYTES
    found: dict[Name, Contents] = {}
    with opened_maps(prog_fd) as maps:
        for name, (fd, shape) in maps.items():
            lacks, chunks = _why_not(shape), []
            if not lacks:
                try:
                    for chunk in _entries(fd, shape, until):
                        chunks.append(chunk)
                        left -= len(chunk.keys) + len(chunk.values)
                        if left < 0 or time.monotonic() > until:
                            raise _too_much(shape.name)
                except OSError as error:
                    lacks, chunks = f"the kernel does not let it be read: {error.strerror}", []
            found[name] = Contents(shape, tuple(chunks), lacks)
    return found


def fill(
    prog_fd: int, contents: Mapping[Name, Contents], whose: str, *, sections: bool
) -> tuple[list[str], list[Kept]]:
    """Put what live maps held into the fresh maps of a program that nobody else has.

    Args:
        whose: `running` or `new`, for what is told.
        sections: its variables (.data, .bss) too.

    Returns:
        Names of the maps that were filled; and those that were not, with the reason. Constants are in
        neither.
    """
    filled: list[str] = []
    kept: list[Kept] = []
    with opened_maps(prog_fd) as maps:
        for name, (fd, shape) in maps.items():
            if shape.name.endswith(_CONSTANTS):
                continue
            why = _fill_one(fd, shape, contents.get(name), sections=sections)
            if why:
                kept.append(Kept(whose, shape.name, why))
            else:
                filled.append(shape.name)
    return filled, kept


def _fill_one(fd: int, shape: MapInfo, live: Contents | None, *, sections: bool) -> str:
    """Why it stays as it is, as the end of a sentence; empty where it was filled."""
    if "." in shape.name and not sections:
        return "variables begin as the file of the new program says"
    if live is None:
        return _why_not(shape) or "the running program has no map of this name"
    if live.lacks:
        return live.lacks
    if _measures(shape) != _measures(live.shape):
        return "its type or sizes are not those of the running program's"
    try:
        for chunk in live.chunks:
            if shape.type in _DEVMAPS:
                _put_devices(fd, shape, chunk)
            else:
                libbpf_batches.update_batch(fd, chunk.keys, chunk.values, chunk.entries)
    except OSError as error:
        return f"the kernel does not take what the live one holds: {error.strerror}"
    return ""


def _measures(shape: MapInfo) -> tuple[int, ...]:
    return shape.type, shape.key_size, shape.value_size, shape.max_entries


def _why_not(shape: MapInfo) -> str:
    if shape.type in _PLAIN | _PER_CPU | _DEVMAPS:
        return ""
    kind = libbpf_batches.map_type_name(shape.type)
    return f"what a map of type {kind} holds cannot be copied, so it begins empty"


@contextmanager
def opened_maps(prog_fd: int) -> Iterator[dict[Name, tuple[int, MapInfo]]]:
    """The maps that a program uses, with descriptors of them."""
    found: dict[Name, tuple[int, MapInfo]] = {}
    seen: Counter[str] = Counter()
    with ExitStack() as opened:
        for map_id in info.map_ids(prog_fd):
            fd = libbpf.map_fd_by_id(map_id)
            opened.callback(os.close, fd)
            shape = info.map_info(fd)
            found[shape.name, seen[shape.name]] = fd, shape
            seen[shape.name] += 1
        yield found


def _too_much(name: str) -> LimitExceeded:
    return LimitExceeded(
        f"what the live maps hold is too much to be copied: at map {name!r} it was more than "
        f"{MOST_BYTES >> 20} MiB or took more than {MOST_SECONDS:g} s"
    )


def _value_size(shape: MapInfo) -> int:
    return (shape.value_size + 7) // 8 * 8 * possible_cpus() if shape.type in _PER_CPU else shape.value_size


def _entries(fd: int, shape: MapInfo, until: float) -> Iterator[_Chunk]:
    if shape.type in _DEVMAPS:
        yield from _devices(fd, shape)
        return
    size = _value_size(shape)
    most = max(1, min(shape.max_entries, _CHUNK // (shape.key_size + size)))
    place: Any | None = None
    # Of a map that others fill meanwhile no more is read than it can hold at a time.
    left = shape.max_entries
    while left > 0 and time.monotonic() < until:
        keys = ctypes.create_string_buffer(most * shape.key_size)
        values = ctypes.create_string_buffer(most * size)
        next_place = ctypes.create_string_buffer(max(4, shape.key_size))
        try:
            count, more = libbpf_batches.lookup_batch(fd, place, next_place, keys, values, most)
        except OSError as error:
            if error.errno != errno.ENOSPC or most > shape.max_entries:
                raise
            most *= 2  # more entries than that are in one bucket
            continue
        if count:
            yield _Chunk(keys.raw[: count * shape.key_size], values.raw[: count * size], count)
        if not more:
            return
        left, place = left - count, next_place


def _devices(fd: int, shape: MapInfo) -> Iterator[_Chunk]:
    keys, values = bytearray(), bytearray()
    value = ctypes.create_string_buffer(shape.value_size)
    for number, key in enumerate(libbpf_maps.map_keys(fd, shape.key_size)):
        if number >= shape.max_entries:
            break
        if libbpf_batches.lookup(fd, key, value):
            keys += key
            values += value.raw
    if keys:
        yield _Chunk(bytes(keys), bytes(values), len(keys) // shape.key_size)


def _put_devices(fd: int, shape: MapInfo, chunk: _Chunk) -> None:
    """The interfaces, without the programs that would run there: these are others' and live."""
    for at in range(chunk.entries):
        key = chunk.keys[at * shape.key_size :][: shape.key_size]
        value = chunk.values[at * shape.value_size :][:4]
        libbpf_maps.map_put(fd, key, value.ljust(shape.value_size, b"\0"))
