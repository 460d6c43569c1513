"""The dispatcher of a kprobe link: a program of ours that tail-calls slot 0 of a PROG_ARRAY.

The kernel cannot update a perf_event or kprobe_multi link, but a map update is one atomic exchange of
a pointer. A dispatcher carries, read-only, where it was attached, so that its link tells all we need
when it is opened again from its pin.
"""

import contextlib
import ctypes
import errno
import os
import struct
import weakref
from ctypes import c_uint32, c_uint64
from dataclasses import dataclass
from typing import Final

from bpflinkd import programs
from bpflinkd.core.attach_types import AttachType
from bpflinkd.core.errors import KernelRefused, NotSupported
from bpflinkd.core.ids import NO_PROGRAM, ProgId
from bpflinkd.core.model import Misses
from bpflinkd.core.targets import KprobeHook, KprobeMultiHook
from bpflinkd.kernel import info, libbpf, libbpf_maps, libbpf_objects, libbpf_said
from bpflinkd.kernel.priority import unpreempted

_NAME: Final = "bpflinkd"
_SLOT: Final = 0
_PLACE: Final = struct.Struct("=QQ64s")
"""`place` in programs/dispatcher.bpf.c: loading of the module, number of functions, module's name."""
_MAP_TYPES: Final = {
    libbpf_maps.BPF_MAP_TYPE_ARRAY,
    libbpf_maps.BPF_MAP_TYPE_PROG_ARRAY,
    libbpf_maps.BPF_MAP_TYPE_PERCPU_ARRAY,
}
_POSSIBLE_CPUS: Final = "/sys/devices/system/cpu/possible"


class Slot:
    """Entry 0 of a PROG_ARRAY. Owns the fd: while it, or a pin, is there, the program stays in."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def program(self) -> ProgId:
        """The program that is in it; `NO_PROGRAM` where it is empty."""
        found = c_uint32()
        try:
            with unpreempted():
                libbpf_maps.map_lookup(self.fd, _SLOT, ctypes.byref(found))
        except FileNotFoundError:
            return NO_PROGRAM
        return ProgId(found.value)

    def put(self, prog_fd: int) -> None:
        """Exchange the program. OSError: EINVAL the kernel does not let this one be dispatched."""
        libbpf_maps.map_update(self.fd, _SLOT, c_uint32(prog_fd))

    def empty(self) -> None:
        """Take the program out; every hit is a miss then. Empty already is no error."""
        with contextlib.suppress(FileNotFoundError):
            libbpf_maps.map_delete(self.fd, _SLOT)

    def close(self) -> None:
        """Give up our reference; safe to call again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class MissCounter:
    """The dispatcher's count of hits that found the slot empty, and the kernel's of those that it
    suppressed. Any thread may call it at any time: its fds are closed when nobody refers to it any more, not
    when the link ends."""

    def __init__(self, program_fd: int, missed_fd: int) -> None:
        """Takes both fds: the dispatcher's, and that of its map `missed`."""
        self.program_fd, self._missed = program_fd, missed_fd
        self._values = c_uint64 * _possible_cpus()
        weakref.finalize(self, _close, program_fd, missed_fd)

    def __call__(self) -> Misses:
        """Sums over all processors since the link was made."""
        values = self._values()
        with unpreempted():
            libbpf_maps.map_lookup(self._missed, 0, values)
        return Misses(empty=sum(values), suppressed=info.recursion_misses(self.program_fd))


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def _possible_cpus() -> int:
    """How many values a per-CPU map has: `0-3` means 4."""
    with open(_POSSIBLE_CPUS) as file:
        return 1 + max(int(word) for part in file.read().strip().split(",") for word in part.split("-"))


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """A loaded dispatcher. Whoever gets it owns `fd` and the slot."""

    fd: int
    slot: Slot
    misses: MissCounter

    def close(self) -> None:
        """Give up our references."""
        os.close(self.fd)
        self.slot.close()


def load(attach_type: AttachType, hook: KprobeHook | KprobeMultiHook) -> Dispatcher:
    """Load a dispatcher with an empty slot of its own. `NotSupported`, `KernelRefused`."""
    with libbpf_said.captured() as said:
        handle = libbpf_objects.object_open(programs.image("dispatcher"), _NAME)
        try:
            (program,) = libbpf_objects.programs(handle)
            libbpf_objects.program_set_attach_type(program, attach_type.number)
            maps = {libbpf_objects.map_name(found): found for found in libbpf_objects.maps(handle)}
            libbpf_objects.map_set_initial_value(maps[f"{_NAME}.rodata"], _place_of(hook))
            try:
                libbpf_objects.object_load(handle)
            except PermissionError:
                raise NotSupported(
                    "the kernel does not let us load kprobe programs (EPERM): bpflinkd needs CAP_BPF and "
                    "CAP_PERFMON, or CAP_SYS_ADMIN, and a kernel that is not locked down"
                ) from None
            except OSError as error:
                raise KernelRefused(
                    f"the dispatcher cannot be loaded: {error.strerror}", log=said()
                ) from None
            return Dispatcher(
                fd=os.dup(libbpf_objects.program_fd(program)),
                slot=Slot(os.dup(libbpf_objects.map_fd(maps["slot"]))),
                misses=MissCounter(
                    os.dup(libbpf_objects.program_fd(program)), os.dup(libbpf_objects.map_fd(maps["missed"]))
                ),
            )
        finally:
            libbpf_objects.object_close(handle)


def opened(prog_id: int) -> tuple[Slot, MissCounter, KprobeHook | KprobeMultiHook]:
    """The slot, counter and hook of a dispatcher that is loaded already. OSError: it is none of ours."""
    fds: dict[int, int] = {}
    prog_fd = libbpf.prog_fd_by_id(prog_id)
    try:
        for map_id in info.map_ids(prog_fd):
            fd = libbpf.map_fd_by_id(map_id)
            fds[info.map_type(fd)] = fd
        if fds.keys() != _MAP_TYPES:
            raise OSError(errno.EINVAL, f"program id {prog_id} is not a dispatcher of ours")
        place = ctypes.create_string_buffer(_PLACE.size)
        libbpf_maps.map_lookup(fds[libbpf_maps.BPF_MAP_TYPE_ARRAY], 0, place)
    except OSError:
        _close(prog_fd, *fds.values())
        raise
    os.close(fds[libbpf_maps.BPF_MAP_TYPE_ARRAY])
    slot = Slot(fds[libbpf_maps.BPF_MAP_TYPE_PROG_ARRAY])
    misses = MissCounter(prog_fd, fds[libbpf_maps.BPF_MAP_TYPE_PERCPU_ARRAY])
    return slot, misses, _hook_of(place.raw)


def _place_of(hook: KprobeHook | KprobeMultiHook) -> bytes:
    if isinstance(hook, KprobeMultiHook):
        return _PLACE.pack(0, hook.functions, b"")
    return _PLACE.pack(hook.load, 0, hook.module.encode())


def _hook_of(place: bytes) -> KprobeHook | KprobeMultiHook:
    load_number, functions, module = _PLACE.unpack(place)
    if functions:
        return KprobeMultiHook(functions)
    return KprobeHook(module.rstrip(b"\0").decode(), load_number)
