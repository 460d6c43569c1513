"""perf_event_open(2) for kprobes: glibc and libbpf export no function for it."""

import ctypes
import os
import platform
import struct
from pathlib import Path
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_PMU: Final = Path("/sys/bus/event_source/devices/kprobe")
_SYSCALL: Final = {
    "x86_64": 298,
    "aarch64": 241,
    "riscv64": 241,
    "loongarch64": 241,
    "ppc64le": 319,
    "s390x": 331,
}
_FLAG_FD_CLOEXEC: Final = 8
_ATTR_SIZE: Final = 72
"""PERF_ATTR_SIZE_VER1: as far as config2, the offset."""


def has_kprobes() -> bool:
    """Whether this kernel has CONFIG_KPROBE_EVENTS and perf events."""
    return (_PMU / "type").exists()


def open_kprobe(symbol: str, offset: int, *, at_return: bool) -> int:
    """A perf event on a kernel function; a kprobe exists from here on, and runs what is attached to it.

    Raises:
        OSError: ENOENT no such function; EADDRNOTAVAIL several have the name; EILSEQ the offset is not
            at an instruction; EINVAL probes are forbidden there; EPERM or EACCES not allowed.
            Source: kernel/trace/trace_kprobe.c create_local_trace_kprobe(), kernel/kprobes.c
            check_kprobe_address_safe().
    """
    pmu = int((_PMU / "type").read_text())
    bit = int((_PMU / "format/retprobe").read_text().strip().removeprefix("config:"))
    name = ctypes.create_string_buffer(symbol.encode())
    # struct perf_event_attr: type, size, config, ..., config1 the name, config2 the offset
    attr = struct.pack(
        "=IIQQQQQIIQQ",
        pmu,
        _ATTR_SIZE,
        (1 << bit) if at_return else 0,
        0,
        0,
        0,
        0,
        0,
        0,
        ctypes.addressof(name),
        offset,
    )
    number = _SYSCALL[platform.machine()]
    every_process, a_processor, no_group = -1, 0, -1
    fd = _libc.syscall(
        ctypes.c_long(number), attr, every_process, a_processor, no_group, ctypes.c_ulong(_FLAG_FD_CLOEXEC)
    )
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"perf_event_open: {os.strerror(code)}")
    return int(fd)
