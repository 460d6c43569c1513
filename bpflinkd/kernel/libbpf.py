"""libbpf by ctypes: one call, one function, one OSError. No decision is made here.

Signatures are those of libbpf 1.0 and later (src/bpf.h, src/libbpf.h); every option struct begins
with its own size, so that older and newer libraries read the part that they know.
"""

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from ctypes import (
    POINTER,
    Structure,
    byref,
    c_bool,
    c_char_p,
    c_int,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any, Final, TypeAlias

_lib: Final = ctypes.CDLL("libbpf.so.1", use_errno=True)
_libc: Final = ctypes.CDLL(None, use_errno=True)

BPF_F_REPLACE: Final = 1 << 2
BPF_F_SLEEPABLE: Final = 1 << 4
BPF_F_KPROBE_MULTI_RETURN: Final = 1
BPF_MAP_TYPE_ARRAY: Final = 2
BPF_MAP_TYPE_PROG_ARRAY: Final = 3
BPF_MAP_TYPE_PERCPU_ARRAY: Final = 6
BPF_PERF_EVENT: Final = 41
BPF_TRACE_KPROBE_MULTI: Final = 42
XDP_FLAGS_UPDATE_IF_NOEXIST: Final = 1 << 0
XDP_FLAGS_SKB_MODE: Final = 1 << 1
XDP_FLAGS_DRV_MODE: Final = 1 << 2
XDP_FLAGS_HW_MODE: Final = 1 << 3
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


class _ObjectOpenOpts(Structure):
    _fields_ = [("sz", c_size_t), ("object_name", c_char_p)]


def _declare(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_lib, name)
    function.restype = result
    function.argtypes = list(arguments)
    return function


_U32P: Final = POINTER(c_uint32)
_link_create = _declare("bpf_link_create", c_int, c_int, c_int, c_int, POINTER(_LinkCreateOpts))
_link_update = _declare("bpf_link_update", c_int, c_int, c_int, POINTER(_LinkUpdateOpts))
_link_detach = _declare("bpf_link_detach", c_int, c_int)
_obj_pin = _declare("bpf_obj_pin", c_int, c_int, c_char_p)
_obj_get = _declare("bpf_obj_get", c_int, c_char_p)
_obj_info = _declare("bpf_obj_get_info_by_fd", c_int, c_int, c_void_p, _U32P)
_map_by_id = _declare("bpf_map_get_fd_by_id", c_int, c_uint32)
_map_lookup = _declare("bpf_map_lookup_elem", c_int, c_int, c_void_p, c_void_p)
_map_update = _declare("bpf_map_update_elem", c_int, c_int, c_void_p, c_void_p, c_uint64)
_map_delete = _declare("bpf_map_delete_elem", c_int, c_int, c_void_p)
_prog_by_id = _declare("bpf_prog_get_fd_by_id", c_int, c_uint32)
_link_by_id = _declare("bpf_link_get_fd_by_id", c_int, c_uint32)
_link_next_id = _declare("bpf_link_get_next_id", c_int, c_uint32, _U32P)
_prog_query = _declare("bpf_prog_query", c_int, c_int, c_int, c_uint32, _U32P, _U32P, _U32P)
_xdp_query = _declare("bpf_xdp_query", c_int, c_int, c_int, POINTER(XdpQuery))
_xdp_attach = _declare("bpf_xdp_attach", c_int, c_int, c_int, c_uint32, POINTER(_XdpAttachOpts))
_xdp_detach = _declare("bpf_xdp_detach", c_int, c_int, c_uint32, POINTER(_XdpAttachOpts))
_open_mem = _declare("bpf_object__open_mem", c_void_p, c_char_p, c_size_t, POINTER(_ObjectOpenOpts))
_object_load = _declare("bpf_object__load", c_int, c_void_p)
object_close = _declare("bpf_object__close", None, c_void_p)
_next_program = _declare("bpf_object__next_program", c_void_p, c_void_p, c_void_p)
_next_map = _declare("bpf_object__next_map", c_void_p, c_void_p, c_void_p)
_program_name = _declare("bpf_program__name", c_char_p, c_void_p)
_program_section = _declare("bpf_program__section_name", c_char_p, c_void_p)
program_type = _declare("bpf_program__type", c_int, c_void_p)
_program_set_type = _declare("bpf_program__set_type", c_int, c_void_p, c_int)
program_attach_type = _declare("bpf_program__expected_attach_type", c_int, c_void_p)
_program_set_attach = _declare("bpf_program__set_expected_attach_type", c_int, c_void_p, c_int)
_program_set_autoload = _declare("bpf_program__set_autoload", c_int, c_void_p, c_bool)
_program_set_ifindex = _declare("bpf_program__set_ifindex", None, c_void_p, c_uint32)
program_fd = _declare("bpf_program__fd", c_int, c_void_p)
_program_flags = _declare("bpf_program__flags", c_uint32, c_void_p)
_program_insns = _declare("bpf_program__insns", POINTER(c_uint64), c_void_p)
_program_insn_count = _declare("bpf_program__insn_cnt", c_size_t, c_void_p)
_map_type = _declare("bpf_map__type", c_int, c_void_p)
_map_key_size = _declare("bpf_map__key_size", c_uint32, c_void_p)
_map_value_size = _declare("bpf_map__value_size", c_uint32, c_void_p)
_map_max_entries = _declare("bpf_map__max_entries", c_uint32, c_void_p)
_map_pin_path = _declare("bpf_map__pin_path", c_char_p, c_void_p)
_num_possible_cpus = _declare("libbpf_num_possible_cpus", c_int)
_map_set_initial_value = _declare("bpf_map__set_initial_value", c_int, c_void_p, c_char_p, c_size_t)
_map_name = _declare("bpf_map__name", c_char_p, c_void_p)
map_fd = _declare("bpf_map__fd", c_int, c_void_p)
_map_set_ifindex = _declare("bpf_map__set_ifindex", c_int, c_void_p, c_uint32)
_map_set_pin_path = _declare("bpf_map__set_pin_path", c_int, c_void_p, c_char_p)


def _check(result: int, what: str) -> int:
    """libbpf 1.x returns -errno, or -1 with errno set."""
    if result < 0:
        code = ctypes.get_errno() if result == -1 else -result
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


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
    return _check(_link_create(prog_fd, target, attach_type, byref(opts)), "BPF_LINK_CREATE")


def link_create_kprobe(prog_fd: int, perf_fd: int, cookie: int) -> int:
    """Attach a program to a kprobe's perf event; the event's fd may be closed then.

    Raises:
        OSError: EINVAL the program is not a plain kprobe's, or may sleep.
            Source: kernel/events/core.c perf_event_set_bpf_prog().
    """
    opts = _KprobeOpts(sz=ctypes.sizeof(_KprobeOpts), cookie_or_flags=cookie)
    return _check(_link_create(prog_fd, perf_fd, BPF_PERF_EVENT, _as_link_opts(opts)), "BPF_LINK_CREATE")


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
    return _check(_link_create(prog_fd, 0, BPF_TRACE_KPROBE_MULTI, _as_link_opts(opts)), "BPF_LINK_CREATE")


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
    _check(_link_update(link_fd, new_prog_fd, byref(opts)), "BPF_LINK_UPDATE")


def link_detach(link_fd: int) -> None:
    """Detach a link from its hook at once, though fds and pins of it remain.

    Raises:
        OSError: EOPNOTSUPP this kind of link cannot be detached.
    """
    _check(_link_detach(link_fd), "BPF_LINK_DETACH")


def obj_pin(fd: int, path: str) -> None:
    """Pin an object on a bpffs. OSError: EEXIST taken; EPERM not a bpffs, or a dot in the name."""
    _check(_obj_pin(fd, os.fsencode(path)), f"BPF_OBJ_PIN {path}")


def obj_get(path: str) -> int:
    """Open a pinned object. OSError: ENOENT; EACCES not a bpffs file or not readable and writable."""
    return _check(_obj_get(os.fsencode(path)), f"BPF_OBJ_GET {path}")


def obj_info(fd: int, buffer: Any, length: c_uint32) -> None:
    """Fill a ctypes buffer with `struct bpf_{prog,map,link}_info`; `length` holds its size."""
    _check(_obj_info(fd, buffer, length), "BPF_OBJ_GET_INFO_BY_FD")


obj_info_raw: Final = _obj_info
"""The call itself, for the sweep: an int result, negative on failure."""


def prog_fd_by_id(prog_id: int) -> int:
    """Open a program by kernel id. OSError: ENOENT no such program; EPERM no CAP_SYS_ADMIN."""
    return _check(_prog_by_id(prog_id), f"BPF_PROG_GET_FD_BY_ID {prog_id}")


def map_fd_by_id(map_id: int) -> int:
    """Open a map by kernel id. OSError: ENOENT no such map; EPERM no CAP_SYS_ADMIN."""
    return _check(_map_by_id(map_id), f"BPF_MAP_GET_FD_BY_ID {map_id}")


def map_lookup(map_fd_: int, key: int, value: Any) -> None:
    """Read the value of a u32 key into a ctypes buffer. OSError: ENOENT nothing is there."""
    _check(_map_lookup(map_fd_, byref(c_uint32(key)), value), "BPF_MAP_LOOKUP_ELEM")


def map_update(map_fd_: int, key: int, value: Any) -> None:
    """Set the value of a u32 key. OSError: EINVAL a slot does not take this program."""
    _check(_map_update(map_fd_, byref(c_uint32(key)), byref(value), 0), "BPF_MAP_UPDATE_ELEM")


def map_delete(map_fd_: int, key: int) -> None:
    """Empty a u32 key's entry. OSError: ENOENT it is empty."""
    _check(_map_delete(map_fd_, byref(c_uint32(key))), "BPF_MAP_DELETE_ELEM")


def link_fd_by_id(link_id: int) -> int:
    """Open a link by kernel id. OSError: ENOENT; EAGAIN it is not settled yet."""
    return _check(_link_by_id(link_id), f"BPF_LINK_GET_FD_BY_ID {link_id}")


def link_ids() -> Iterator[int]:
    """Kernel ids of all bpf_links of the host, in order."""
    current = c_uint32(0)
    while _link_next_id(current.value, byref(current)) == 0:
        yield current.value


def prog_query(cgroup_fd: int, attach_type: int) -> list[int]:
    """Ids of the programs attached to a cgroup at one attach type.

    Raises:
        OSError: EINVAL the kernel does not know the attach type.
    """
    count = c_uint32(64)  # a cgroup takes at most 64 programs a type: BPF_CGROUP_MAX_PROGS
    ids = (c_uint32 * 64)()
    flags = c_uint32(0)
    result = _prog_query(cgroup_fd, attach_type, 0, byref(flags), ids, byref(count))
    _check(result, "BPF_PROG_QUERY")
    return list(ids[: count.value])


def xdp_query(ifindex: int) -> XdpQuery:
    """Which XDP programs an interface has. OSError: ENODEV or ENXIO no such interface."""
    opts = XdpQuery(sz=ctypes.sizeof(XdpQuery))
    _check(_xdp_query(ifindex, 0, byref(opts)), f"XDP query of ifindex {ifindex}")
    return opts


def xdp_attach(ifindex: int, prog_fd: int, flags: int) -> None:
    """Attach an XDP program by netlink where none is. OSError: EBUSY or EEXIST one is."""
    _check(
        _xdp_attach(ifindex, prog_fd, flags | XDP_FLAGS_UPDATE_IF_NOEXIST, None),
        f"XDP attach to ifindex {ifindex}",
    )


def xdp_detach(ifindex: int, flags: int, *, old_prog_fd: int) -> None:
    """Remove a netlink-attached XDP program if it still is `old_prog_fd`'s. OSError: EEXIST else."""
    opts = _XdpAttachOpts(sz=ctypes.sizeof(_XdpAttachOpts), old_prog_fd=old_prog_fd)
    _check(_xdp_detach(ifindex, flags, byref(opts)), f"XDP detach from ifindex {ifindex}")


# ELF objects. Handles are opaque ints and belong to the object: closing it ends them.


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
    _check(_object_load(handle), "bpf_object__load")


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
    _check(_program_set_type(program, number), "bpf_program__set_type")


def program_set_attach_type(program: int, number: int) -> None:
    """Set expected_attach_type before loading."""
    _check(_program_set_attach(program, number), "bpf_program__set_expected_attach_type")


def program_set_autoload(program: int, wanted: bool) -> None:
    """Choose whether loading the object loads this program."""
    _check(_program_set_autoload(program, wanted), "bpf_program__set_autoload")


def program_may_sleep(program: int) -> bool:
    """Whether it will be loaded with BPF_F_SLEEPABLE."""
    return bool(_program_flags(program) & BPF_F_SLEEPABLE)


def program_instructions(program: int) -> list[int]:
    """`struct bpf_insn`, each as the u64 that it is in memory. Once it is loaded, with those of its
    subprograms, as the kernel got them."""
    return list(_program_insns(program)[: _program_insn_count(program)])


def map_set_initial_value(handle: int, value: bytes) -> None:
    """Set the contents of a data section's map before loading; exactly its size."""
    _check(_map_set_initial_value(handle, value, len(value)), "bpf_map__set_initial_value")


def program_set_ifindex(program: int, ifindex: int) -> None:
    """Load the program onto this device: offload."""
    _program_set_ifindex(program, ifindex)


def map_name(handle: int) -> str:
    """The map's name as in the source."""
    return str(_map_name(handle).decode(errors="replace"))


def map_numbers(handle: int) -> tuple[int, int, int, int]:
    """What the map will be created with: `enum bpf_map_type`, bytes of key and value, most entries."""
    return _map_type(handle), _map_key_size(handle), _map_value_size(handle), _map_max_entries(handle)


def map_has_pin_path(handle: int) -> bool:
    """Whether the object names a path to pin the map to, or to take it from."""
    return _map_pin_path(handle) is not None


def possible_cpus() -> int:
    """How many CPUs this host may ever have: maps of per-CPU types have a value for each."""
    return _check(_num_possible_cpus(), "libbpf_num_possible_cpus")


def map_set_ifindex(handle: int, ifindex: int) -> None:
    """Create the map on this device: offload."""
    _check(_map_set_ifindex(handle, ifindex), "bpf_map__set_ifindex")


def map_forget_pin_path(handle: int) -> None:
    """Never pin to, or reuse, a path that the object names."""
    _check(_map_set_pin_path(handle, None), "bpf_map__set_pin_path")


# What libbpf prints: captured while an object is handled, else dropped.

_PRINT: Final = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_VA_LIST_SIZE: Final = 32  # x86-64 has 24 bytes, aarch64 32; both are passed by address
_DEBUG: Final = 2
Said: TypeAlias = Callable[[], str]
"""What libbpf has printed so far."""
_sinks: list[list[str]] = []


def _print(level: int, text: bytes, arguments: int) -> int:
    if level >= _DEBUG or not _sinks:
        return 0
    # A va_list can be walked once: keep a copy for the second vsnprintf.
    copy = ctypes.create_string_buffer(ctypes.string_at(arguments, _VA_LIST_SIZE), _VA_LIST_SIZE)
    size = _libc.vsnprintf(None, c_size_t(0), text, c_void_p(arguments))
    if size < 0:
        return 0
    line = ctypes.create_string_buffer(size + 1)
    _libc.vsnprintf(line, c_size_t(size + 1), text, copy)
    _sinks[-1].append(line.value.decode(errors="replace"))
    return 0


_print_callback: Final = _PRINT(_print)
_lib.libbpf_set_print.restype = c_void_p
_lib.libbpf_set_print(_print_callback)


@contextlib.contextmanager
def captured() -> Iterator[Said]:
    """Collect what libbpf says within the block; call the result for the text so far."""
    lines: list[str] = []
    _sinks.append(lines)
    try:
        yield lambda: "".join(lines)
    finally:
        _sinks.remove(lines)
