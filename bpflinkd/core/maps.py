"""Maps that go on being used when a program is replaced: which do, and what stands against it. Pure.

Imported by the process that loads for callers, too, so it imports little itself.
"""

import difflib
import enum
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from bpflinkd.core.errors import BadOption, IncompatibleMaps

_DEVMAP, _DEVMAP_HASH = 14, 25
_PERF_EVENT_ARRAY, _RINGBUF, _USER_RINGBUF = 4, 27, 31
_RDONLY_PROG: Final = 1 << 7
_PAGE: Final = 4096
_TYPES: Final = (
    *("unspec", "hash", "array", "prog_array", "perf_event_array", "percpu_hash", "percpu_array"),
    *("stack_trace", "cgroup_array", "lru_hash", "lru_percpu_hash", "lpm_trie", "array_of_maps"),
    *("hash_of_maps", "devmap", "sockmap", "cpumap", "xskmap", "sockhash", "cgroup_storage"),
    *("reuseport_sockarray", "percpu_cgroup_storage", "queue", "stack", "sk_storage", "devmap_hash"),
    *("struct_ops", "ringbuf", "inode_storage", "task_storage", "bloom_filter", "user_ringbuf"),
    *("cgrp_storage", "arena"),
)
"""`enum bpf_map_type`, as bpftool writes them."""
_SECTION: Final = re.compile(r"(?:^|\.)(rodata|kconfig|data|bss)(?:\.|$)")
_MOST_LISTED: Final = 20
_KNOWN_TO_KERNEL: Final = 15
"""Characters of a map's name."""


class MapShape(NamedTuple):
    """What a map is created with, in bytes and entries; see BPF_MAP_CREATE."""

    name: str
    type: int
    """`enum bpf_map_type`."""
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0
    """BPF_F_*."""


class MapChoice(enum.StrEnum):
    """What a caller wants of one map."""

    KEEP = enum.auto()
    """Go on with the one that the running program uses."""
    FRESH = enum.auto()
    """Begin with an empty one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapWishes:
    """What a caller wants of the maps of a replace."""

    fresh: bool = False
    """Every map begins empty, unless `choices` keeps it."""
    choices: tuple[tuple[str, MapChoice], ...] = ()
    """By name."""


AS_USUAL: Final = MapWishes()


def type_name(number: int) -> str:
    """A type of map in words."""
    return _TYPES[number] if 0 < number < len(_TYPES) else f"type {number}"


def section(name: str) -> str:
    """The data section that a map is of, as `.bss`; empty for a map of its own.

    libbpf calls them OBJECT.bss; a custom section .data.limits is a map of that name.
    """
    found = _SECTION.search(name) if "." in name else None
    return f".{found[1]}" if found else ""


def differences(running: MapShape, new: MapShape) -> Sequence[str]:
    """In what two maps of one name differ, each in words; empty where one can be used for the other."""
    if running.type != new.type:
        return [f"type {type_name(running.type)}, now {type_name(new.type)}"]
    pairs = {
        "key size": (running.key_size, new.key_size),
        "value size": (running.value_size, new.value_size),
        "max_entries": (running.max_entries, _entries(new, running)),
    }
    found = [f"{what} {before}, now {after}" for what, (before, after) in pairs.items() if before != after]
    # The kernel adds this one by itself. Source: kernel/bpf/devmap.c dev_map_init_map().
    ours = _RDONLY_PROG if running.type in (_DEVMAP, _DEVMAP_HASH) else 0
    if (running.flags | ours) != (new.flags | ours):
        found.append(f"flags {running.flags:#x}, now {new.flags:#x}")
    return found


def _entries(new: MapShape, running: MapShape) -> int:
    """How many entries a map will have that is yet to be created, where the loader fills in the number."""
    if new.type == _PERF_EVENT_ARRAY and new.max_entries == 0:
        return running.max_entries  # one for each processor: libbpf map_set_def_max_entries()
    if new.type in (_RINGBUF, _USER_RINGBUF):
        size = max(new.max_entries, _PAGE)
        return 1 << (size - 1).bit_length()  # libbpf adjust_ringbuf_sz()
    return new.max_entries


class Fates(NamedTuple):
    """What becomes of the maps of a new program."""

    kept: dict[str, str]
    """Those that are the running program's: the new names, and the running ones."""
    wrong: dict[str, str]
    """Those that are to be and cannot: in what each is another, in words."""

    @property
    def refusal(self) -> IncompatibleMaps | None:
        """Why not all can be kept."""
        if not self.wrong:
            return None
        shown = "; ".join(list(self.wrong.values())[:_MOST_LISTED])
        more, first = len(self.wrong) - _MOST_LISTED, next(iter(self.wrong))
        return IncompatibleMaps(
            f"what the running program keeps in maps cannot be carried over: {shown}"
            + (f"; and {more} more" if more > 0 else "")
            + f". To begin with an empty one: --map {first}=fresh, for all of them --fresh-maps"
        )


def carried(running: Iterable[MapShape], new: Iterable[MapShape], wishes: MapWishes) -> dict[str, str]:
    """`Fates.kept`, where nothing is wrong. `IncompatibleMaps`, `BadOption`."""
    found = fates(running, new, wishes)
    if (refusal := found.refusal) is not None:
        raise refusal
    return found.kept


def fates(running: Iterable[MapShape], new: Iterable[MapShape], wishes: MapWishes) -> Fates:
    """Which maps of a new program are those that the running one uses.

    Maps of the same name, unless the caller wants them fresh. The constants of a program (.rodata) are always
    its own; its variables (.data, .bss) too, unless the caller says that they are to be kept.

    Raises:
        BadOption: a choice is about no map, or about one that is never kept.
    """
    before, after = {shape.name: shape for shape in running}, {shape.name: shape for shape in new}
    chosen = _by_map(wishes, after)
    kept: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for name, shape in after.items():
        usual = MapChoice.FRESH if wishes.fresh or section(name) else MapChoice.KEEP
        choice = chosen.get(name, usual)
        # Of a program that another loaded the kernel tells the beginnings of names only.
        cut = name[:_KNOWN_TO_KERNEL]
        called = name if name in before or len(cut) < _KNOWN_TO_KERNEL else cut
        known = before.get(called)
        if choice is MapChoice.FRESH or (known is None and name not in chosen):
            continue
        found = ["the running program has no such map"] if known is None else differences(known, shape)
        if found:
            wrong[name] = f"map {name!r}: {', '.join(found)}"
        else:
            kept[name] = called
    return Fates(kept, wrong)


def _by_map(wishes: MapWishes, after: Collection[str]) -> Mapping[str, MapChoice]:
    """The choices by the maps' own names; `.bss` means the one that the object has."""
    found: dict[str, MapChoice] = {}
    for word, choice in wishes.choices:
        name = word if word in after else next((n for n in after if word and section(n) == word), "")
        if not name:
            close = difflib.get_close_matches(word[:80], [each[:80] for each in after], n=1)
            have = ", ".join(sorted(each[:80] for each in after)[:_MOST_LISTED]) or "none"
            hint = f"did you mean {close[0]!r}?" if close else f"it has: {have}"
            raise BadOption(f"the new program has no map {word[:80]!r}; {hint}")
        if choice is MapChoice.KEEP and section(name) in (".rodata", ".kconfig"):
            raise BadOption(f"map {name!r} holds constants, which are always the new program's; leave it out")
        found[name] = choice
    return found
