"""ELF objects by libbpf: their programs and maps, before and after they are loaded.

One call, one function, one OSError. No decision is made here. Handles are opaque ints and belong to the
object: closing it ends them.
"""

import ctypes
import errno
from collections.abc import Iterator
from ctypes import POINTER, Structure, byref, c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Final

from bpflinkd.kernel.libbpf_calls import check, declare

BPF_F_SLEEPABLE: Final = 1 << 4


class _ObjectOpenOpts(Structure):
    _fields_ = [("sz", c_size_t), ("object_name", c_char_p)]


_open_mem = declare("bpf_object__open_mem", c_void_p, c_char_p, c_size_t, POINTER(_ObjectOpenOpts))
_object_load = declare("bpf_object__load", c_int, c_void_p)
object_close = declare("bpf_object__close", None, c_void_p)
_next_program = declare("bpf_object__next_program", c_void_p, c_void_p, c_void_p)
_next_map = declare("bpf_object__next_map", c_void_p, c_void_p, c_void_p)
_program_name = declare("bpf_program__name", c_char_p, c_void_p)
_program_section = declare("bpf_program__section_name", c_char_p, c_void_p)
program_type = declare("bpf_program__type", c_int, c_void_p)
_program_set_type = declare("bpf_program__set_type", c_int, c_void_p, c_int)
program_attach_type = declare("bpf_program__expected_attach_type", c_int, c_void_p)
_program_set_attach = declare("bpf_program__set_expected_attach_type", c_int, c_void_p, c_int)
_program_set_autoload = declare("bpf_program__set_autoload", c_int, c_void_p, c_bool)
_program_set_log_level = declare("bpf_program__set_log_level", c_int, c_void_p, c_uint32)
_program_set_ifindex = declare("bpf_program__set_ifindex", None, c_void_p, c_uint32)
program_fd = declare("bpf_program__fd", c_int, c_void_p)
_program_flags = declare("bpf_program__flags", c_uint32, c_void_p)
_program_insns = declare("bpf_program__insns", POINTER(c_uint64), c_void_p)
_program_insn_count = declare("bpf_program__insn_cnt", c_size_t, c_void_p)
_map_type = declare("bpf_map__type", c_int, c_void_p)
_map_key_size = declare("bpf_map__key_size", c_uint32, c_void_p)
_map_value_size = declare("bpf_map__value_size", c_uint32, c_void_p)
_map_max_entries = declare("bpf_map__max_entries", c_uint32, c_void_p)
_map_flags = declare("bpf_map__map_flags", c_uint32, c_void_p)
_map_reuse_fd = declare("bpf_map__reuse_fd", c_int, c_void_p, c_int)
_map_initial_value = declare("bpf_map__initial_value", c_void_p, c_void_p, POINTER(c_size_t))
_object_btf = declare("bpf_object__btf", c_void_p, c_void_p)
_btf_raw_data = declare("btf__raw_data", c_void_p, c_void_p, POINTER(c_uint32))
_map_pin_path = declare("bpf_map__pin_path", c_char_p, c_void_p)
_num_possible_cpus = declare("libbpf_num_possible_cpus", c_int)
_map_set_initial_value = declare("bpf_map__set_initial_value", c_int, c_void_p, c_char_p, c_size_t)
_map_name = declare("bpf_map__name", c_char_p, c_void_p)
map_fd = declare("bpf_map__fd", c_int, c_void_p)
_map_set_ifindex = declare("bpf_map__set_ifindex", c_int, c_void_p, c_uint32)
_map_set_pin_path = declare("bpf_map__set_pin_path", c_int, c_void_p, c_char_p)


def object_open(data: bytes, name: str) -> int:
    """Parse an ELF object in memory; nothing is loaded yet."""
    opts = _ObjectOpenOpts(sz=ctypes.sizeof(_ObjectOpenOpts), object_name=name.encode())
    ctypes.set_errno(0)
    handle = _open_mem(data, len(data), byref(opts))
    if not handle:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf_object__open_mem: error {code}")
    return int(handle)


def object_load(handle: int) -> None:
    """Create the maps and load the programs that are to be loaded."""
    check(_object_load(handle), "bpf_object__load")


def programs(handle: int) -> Iterator[int]:
    """Every program of an object."""
    current = _next_program(handle, None)
    while current:
        yield current
        current = _next_program(handle, current)


def maps(handle: int) -> Iterator[int]:
    """Every map of an object, those of its data sections too."""
    current = _next_map(handle, None)
    while current:
        yield current
        current = _next_map(handle, current)


def program_name(program: int) -> str:
    """The function's name, not cut to the kernel's 15 characters."""
    return str(_program_name(program).decode(errors="replace"))


def program_section(program: int) -> str:
    """The ELF section that the program lies in."""
    return str(_program_section(program).decode(errors="replace"))


def program_set_type(program: int, number: int) -> None:
    """Set `enum bpf_prog_type` before loading."""
    check(_program_set_type(program, number), "bpf_program__set_type")


def program_set_attach_type(program: int, number: int) -> None:
    """Set expected_attach_type before loading."""
    check(_program_set_attach(program, number), "bpf_program__set_expected_attach_type")


def program_set_autoload(program: int, wanted: bool) -> None:
    """Choose whether loading the object loads this program."""
    check(_program_set_autoload(program, wanted), "bpf_program__set_autoload")


def program_set_log_level(program: int, level: int) -> None:
    """Choose what the verifier writes down, also of a program that it takes: bits of BPF_LOG_*."""
    check(_program_set_log_level(program, level), "bpf_program__set_log_level")


def program_may_sleep(program: int) -> bool:
    """Whether it will be loaded with BPF_F_SLEEPABLE."""
    return bool(_program_flags(program) & BPF_F_SLEEPABLE)


def program_instructions(program: int) -> list[int]:
    """`struct bpf_insn`, each as the u64 that it is in memory. Once it is loaded, with those of its
    subprograms, as the kernel got them."""
    return list(_program_insns(program)[: _program_insn_count(program)])


def map_set_initial_value(handle: int, value: bytes) -> None:
    """Set the contents of a data section's map before loading; exactly its size."""
    check(_map_set_initial_value(handle, value, len(value)), "bpf_map__set_initial_value")


def program_set_ifindex(program: int, ifindex: int) -> None:
    """Load the program onto this device: offload."""
    _program_set_ifindex(program, ifindex)


def map_name(handle: int) -> str:
    """The map's name as in the source."""
    return str(_map_name(handle).decode(errors="replace"))


def map_numbers(handle: int) -> tuple[int, int, int, int]:
    """What the map will be created with: `enum bpf_map_type`, bytes of key and value, most entries."""
    return _map_type(handle), _map_key_size(handle), _map_value_size(handle), _map_max_entries(handle)


def map_flags(handle: int) -> int:
    """BPF_F_* that the map will be created with."""
    return int(_map_flags(handle))


def map_reuse_fd(handle: int, fd: int) -> None:
    """Let the object use a map that is there already, instead of creating one. The fd stays the caller's."""
    check(_map_reuse_fd(handle, fd), "bpf_map__reuse_fd")


def map_write_initial_value(handle: int, offset: int, value: bytes) -> None:
    """Set a part of the contents of a data section's map before loading. OSError: it has no such part."""
    size = c_size_t()
    address = _map_initial_value(handle, byref(size))
    if not address or offset + len(value) > size.value:
        raise OSError(errno.EINVAL, "bpf_map__initial_value: no such part")
    ctypes.memmove(address + offset, value, len(value))


def object_btf(handle: int) -> bytes:
    """The BTF of an opened object, with offsets in its data sections filled in; empty where it has none."""
    btf = _object_btf(handle)
    if not btf:
        return b""
    size = c_uint32()
    address = _btf_raw_data(btf, byref(size))
    return ctypes.string_at(address, size.value) if address else b""


def map_has_pin_path(handle: int) -> bool:
    """Whether the object names a path to pin the map to, or to take it from."""
    return _map_pin_path(handle) is not None


def possible_cpus() -> int:
    """How many CPUs this host may ever have: maps of per-CPU types have a value for each."""
    return check(_num_possible_cpus(), "libbpf_num_possible_cpus")


def map_set_ifindex(handle: int, ifindex: int) -> None:
    """Create the map on this device: offload."""
    check(_map_set_ifindex(handle, ifindex), "bpf_map__set_ifindex")


def map_forget_pin_path(handle: int) -> None:
    """Never pin to, or reuse, a path that the object names."""
    check(_map_set_pin_path(handle, None), "bpf_map__set_pin_path")
