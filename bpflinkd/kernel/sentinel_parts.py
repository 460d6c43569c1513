"""The sentinel's maps and links: loaded, attached, pinned below `_sentinel`, and opened again from there."""

import ctypes
import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from ctypes import c_uint64
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bpflinkd import programs
from bpflinkd.core.errors import NotSupported
from bpflinkd.core.events import Operation
from bpflinkd.kernel import info, libbpf, libbpf_maps, libbpf_objects, libbpf_said
from bpflinkd.kernel.priority import unpreempted
from bpflinkd.kernel.sentinel_records import (
    CONFIG_SIZE,
    HOOK_SIZE,
    LAYOUT,
    OPERATIONS,
    Config,
    config_of,
)

_RECORDS, _HOOKS, _CONFIG, _LOST = "records", "hooks", "config", "lost"
_SHAPES: Final = {
    _RECORDS: (libbpf_maps.BPF_MAP_TYPE_RINGBUF, 0, 0),
    _HOOKS: (libbpf_maps.BPF_MAP_TYPE_HASH, HOOK_SIZE, 4),
    _LOST: (libbpf_maps.BPF_MAP_TYPE_ARRAY, 4, 8),
    _CONFIG: (libbpf_maps.BPF_MAP_TYPE_ARRAY, 4, CONFIG_SIZE),
}
"""Type, bytes of key and of value of each map that is pinned. The configuration is pinned last: where it is,
all is."""
_COUNTED, _TOLD = 0, 1
"""Entries of the map of lost records."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A sentinel, by the fds that it is made of; they are ours."""

    maps: dict[str, int]
    links: dict[Operation, int]
    programs: dict[Operation, int]

    @property
    def records(self) -> int:
        """The ring buffer."""
        return self.maps[_RECORDS]

    @property
    def hooks(self) -> int:
        """The hash of what is followed."""
        return self.maps[_HOOKS]

    def config(self) -> Config:
        """What the programs go by."""
        raw = ctypes.create_string_buffer(CONFIG_SIZE)
        with unpreempted():
            libbpf_maps.map_lookup(self.maps[_CONFIG], 0, raw)
        return config_of(raw.raw)

    def configure(self, config: Config) -> None:
        """Set what the programs go by."""
        libbpf_maps.map_put(self.maps[_CONFIG], bytes(4), config.pack())

    def lost(self) -> int:
        """Changes that were not recorded and not told yet: there was no room, or the program was running on
        that processor already."""
        return max(0, self._lost() - self._count(_TOLD))

    def tell_lost(self) -> int:
        """The same, once."""
        found = self.lost()
        if found:
            self._set(_TOLD, self._count(_TOLD) + found)
        return found

    def carry_lost(self, count: int) -> None:
        """Begin with this many of another one. Only before anything is attached."""
        self._set(_COUNTED, count)

    def close(self) -> None:
        """Give up our references. What is pinned goes on."""
        for fds in (self.maps, self.links, self.programs):
            for fd in fds.values():
                os.close(fd)
            fds.clear()

    def _lost(self) -> int:
        return self._count(_COUNTED) + sum(map(info.recursion_misses, self.programs.values()))

    def _count(self, entry: int) -> int:
        value = c_uint64()
        with unpreempted():
            libbpf_maps.map_lookup(self.maps[_LOST], entry, ctypes.byref(value))
        return value.value

    def _set(self, entry: int, count: int) -> None:
        libbpf_maps.map_update(self.maps[_LOST], entry, c_uint64(count))


def build() -> int:
    """Which compiled object this is (u64)."""
    return int.from_bytes(hashlib.sha256(programs.image("sentinel")).digest()[:8])


def load() -> Parts:
    """Load all programs that this kernel takes, and attach none yet.

    Raises:
        NotSupported: it takes none of them.
    """
    with libbpf_said.captured() as said:
        try:
            return _load(OPERATIONS)
        except PermissionError:
            raise NotSupported(
                "the kernel does not let us load tracing programs (EPERM): that takes CAP_BPF and "
                "CAP_PERFMON, or CAP_SYS_ADMIN, and a kernel that allows them and is not locked down"
            ) from None
        except OSError:
            # One program that the kernel does not take keeps the others from being loaded.
            able = [operation for operation in OPERATIONS if _loads(operation)]
        if not able:
            raise NotSupported("the kernel takes none of the sentinel's programs", log=said())
        return _load(able)


def _loads(operation: Operation) -> bool:
    try:
        _load([operation]).close()
    except OSError:
        return False
    return True


def _load(wanted: Collection[Operation]) -> Parts:
    """OSError: ESRCH one of the functions is not there; EINVAL, EACCES the verifier refuses a program."""
    handle = libbpf_objects.object_open(programs.image("sentinel"), "bpflinkd")
    try:
        found = {_operation(program): program for program in libbpf_objects.programs(handle)}
        for operation, program in found.items():
            libbpf_objects.program_set_autoload(program, operation in wanted)
        libbpf_objects.object_load(handle)
        maps = {
            libbpf_objects.map_name(each): libbpf_objects.map_fd(each) for each in libbpf_objects.maps(handle)
        }
        return Parts(
            maps={name: os.dup(maps[name]) for name in _SHAPES},
            links={},
            programs={operation: os.dup(libbpf_objects.program_fd(found[operation])) for operation in wanted},
        )
    finally:
        libbpf_objects.object_close(handle)


def _operation(program: int) -> Operation:
    """The C functions are called as the operations."""
    return Operation(libbpf_objects.program_name(program).replace("_", "-"))


def attach(parts: Parts) -> None:
    """Begin to record. A program whose function cannot be traced is left out.

    Raises:
        NotSupported: none of them can.
    """
    why = ""
    for operation, fd in list(parts.programs.items()):
        try:
            parts.links[operation] = libbpf.link_create(fd, 0, libbpf.BPF_TRACE_FEXIT)
        except OSError as error:
            why = str(error)
            os.close(parts.programs.pop(operation))
    if not parts.links:
        raise NotSupported(
            f"the kernel does not let us trace its functions ({why}); see kernel.ftrace_enabled"
        )


def pin(parts: Parts, home: Path) -> None:
    """Make it outlive us. OSError: not on a bpffs, or something is there."""
    home.mkdir(mode=0o700)
    for operation, fd in parts.links.items():
        libbpf.obj_pin(fd, str(home / operation))
    for name in _SHAPES:
        libbpf.obj_pin(parts.maps[name], str(home / name))


def unpin(home: Path) -> None:
    """Remove all pins; nothing there is no error."""
    if home.exists():
        shutil.rmtree(home)


def opened(home: Path) -> Parts | None:
    """What is pinned there; None where that is not a whole sentinel whose records we can read."""
    parts = Parts({}, {}, {})
    try:
        with _closed_on_error(parts):
            _open_into(parts, home)
    except (OSError, ValueError):
        return None
    return parts


def _open_into(parts: Parts, home: Path) -> None:
    """ValueError: it is there, and not as we make it."""
    for name, shape in _SHAPES.items():
        parts.maps[name] = fd = libbpf.obj_get(str(home / name))
        told = info.map_info(fd)
        if (told.type, told.key_size, told.value_size) != shape:
            raise ValueError(name)
    config = parts.config()
    if config.layout != LAYOUT:
        raise ValueError(config.layout)
    for number, operation in enumerate(OPERATIONS):
        if config.operations >> number & 1:
            parts.links[operation] = fd = libbpf.obj_get(str(home / operation))
            parts.programs[operation] = libbpf.prog_fd_by_id(info.link_info(fd).prog_id)


@contextmanager
def _closed_on_error(parts: Parts) -> Iterator[None]:
    try:
        yield
    except BaseException:
        parts.close()
        raise
