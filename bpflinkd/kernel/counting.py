"""The kernel's count of runs of BPF programs: whether it counts, and what it counted."""

import ctypes
import os
import struct
from ctypes import c_int, c_uint32
from pathlib import Path
from typing import Final

from bpflinkd.core.runs import RunCounts
from bpflinkd.kernel import libbpf
from bpflinkd.kernel.dispatched import DispatchedLink
from bpflinkd.kernel.libbpf_calls import check, declare
from bpflinkd.kernel.link import HeldLink
from bpflinkd.kernel.program import HeldProgram

_RUN_TIME: Final = 0
"""BPF_STATS_RUN_TIME, the one kind of statistics there is."""
_SYSCTL: Final = Path("/proc/sys/kernel/bpf_stats_enabled")
_INFO_SIZE: Final = 208
"""Bytes of `struct bpf_prog_info` up to its `recursion_misses`."""
_IDLE: Final = "nobody has the kernel count runs now: what it counted stands still"
_enable_stats: Final = declare("bpf_enable_stats", c_int, c_int)


def enable_stats() -> int:
    """Have the kernel count runs of all programs of the host, until the fd that this returns is closed.

    Raises:
        OSError: EPERM no CAP_SYS_ADMIN; EINVAL the kernel is older than 5.8; EBUSY too many have it do so.
            Source: kernel/bpf/syscall.c bpf_enable_stats().
    """
    return check(_enable_stats(_RUN_TIME), "BPF_ENABLE_STATS")


def counted(prog_fd: int) -> RunCounts:
    """What was counted for one program: u32 id at byte 4, u64 run_time_ns and run_cnt at 192.

    Raises:
        OSError: EINVAL the fd is no program's.
    """
    buffer = ctypes.create_string_buffer(_INFO_SIZE)
    libbpf.obj_info(prog_fd, buffer, c_uint32(_INFO_SIZE))
    (prog_id,) = struct.unpack_from("=I", buffer, 4)
    nanoseconds, runs = struct.unpack_from("=QQ", buffer, 192)
    return RunCounts(program=prog_id, runs=runs, nanoseconds=nanoseconds)


def run_counts(link: HeldLink | None, program: HeldProgram | None) -> RunCounts | None:
    """What was counted for a link. None where there is nothing to ask.

    The kernel counts where it calls a program, not where one tail-calls another: a kprobe's runs are its
    dispatcher's. Source: include/linux/filter.h __bpf_prog_run().
    """
    if isinstance(link, DispatchedLink):
        fd = link.misses.program_fd
    elif program is not None:
        fd = program.fd
    else:
        return None
    try:
        return counted(fd)
    except OSError:
        return None


class Counting:
    """Whether the kernel counts on our behalf."""

    def __init__(self) -> None:
        self._fd = -1
        self._refusal = ""

    def set(self, *, wanted: bool) -> None:
        """Begin or end; what is so already stays so. That the kernel refuses is told by `reason`."""
        if wanted and self._fd < 0:
            try:
                self._fd = enable_stats()
                self._refusal = ""
            except OSError as error:
                self._refusal = f"the kernel does not let us have runs counted: {error.strerror}"
        elif not wanted and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def reason(self) -> str:
        """Why the kernel does not count; empty where it does, for us or by sysctl."""
        return "" if self._fd >= 0 or _by_sysctl() else self._refusal or _IDLE


def _by_sysctl() -> bool:
    """Whether somebody has it count for good: `sysctl kernel.bpf_stats_enabled=1`."""
    try:
        return _SYSCTL.read_text().strip() not in ("", "0")
    except OSError:
        return False
