"""The process of a caller, from /proc: believed only where it surely is the one that made the connection."""

import os
import re
import select
import time
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from bpflinkd.core import units

_LONGEST_EXE: Final = 255
_DELETED: Final = " (deleted)"
_UIDS: Final = re.compile(rb"^Uid:\t(\d+)\t(\d+)\t(\d+)\t(\d+)$", re.MULTILINE)
_GIDS: Final = re.compile(rb"^Gid:\t(\d+)\t(\d+)\t(\d+)\t(\d+)$", re.MULTILINE)
_GROUPS: Final = re.compile(rb"^Groups:\t([\d ]*)$", re.MULTILINE)
_PID: Final = re.compile(rb"^Pid:\t(\d+)$", re.MULTILINE)
_START_TIME: Final = 19
"""Fields after the name of the process in /proc/PID/stat; field 22 of proc(5)."""

Ticks: TypeAlias = int
"""Of 1/SC_CLK_TCK s since the machine booted, sleep included: as start times of processes are given."""


class Process(NamedTuple):
    """What /proc says of the caller's process."""

    unit: str
    exe: str
    gids: frozenset[int]


def of_pidfd(pidfd: int, uid: int, started_by: Ticks) -> Process | None:
    """The process that a pidfd of the bus stands for; None where it cannot be believed."""
    try:
        info = Path(f"/proc/self/fdinfo/{pidfd}").read_bytes()
    except OSError:
        return None
    found = _PID.search(info)  # -1: it has ended; 0: it is not in our pid namespace
    return _read(int(found[1]), pidfd, uid, started_by) if found is not None and int(found[1]) else None


def of_pid(pid: int, uid: int, started_by: Ticks) -> Process | None:
    """The process that has a pid now; None where it cannot be the one that had it when the bus looked."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        return _read(pid, pidfd, uid, started_by)
    finally:
        os.close(pidfd)


def _read(pid: int, pidfd: int, uid: int, started_by: Ticks) -> Process | None:
    """Read a process, and believe it if it has that user only, is that old, and has not ended meanwhile."""
    place = Path("/proc", str(pid))
    try:
        status = (place / "status").read_bytes()
        stat = (place / "stat").read_bytes()
        cgroups = (place / "cgroup").read_bytes()
    except OSError:
        return None
    exe = _exe(place)
    if _has_ended(pidfd):
        return None  # then what was read may be of another process
    # The name of a process may hold spaces and parentheses.
    started = int(stat.rpartition(b")")[2].split()[_START_TIME])
    if _numbers(_UIDS, status) != {uid} or started > started_by:
        return None
    gids = _numbers(_GIDS, status)
    if len(gids) > 1:
        gids = set()  # a set-group-ID program: not what the connection was made with
    groups = {int(gid) for group in _GROUPS.findall(status) for gid in group.split()}
    return Process(units.of_process(cgroups), exe, frozenset(gids | groups))


def _numbers(line: re.Pattern[bytes], status: bytes) -> set[int]:
    found = line.search(status)
    return set(map(int, found.groups())) if found is not None else set()


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _exe(place: Path) -> str:
    """For display: a file's name, with any bytes its owner likes."""
    try:
        path = os.fsencode(os.readlink(place / "exe")).decode(errors="replace")
    except OSError:
        return ""  # a kernel thread, or it has ended
    end = _DELETED if path.endswith(_DELETED) else ""
    shown = "".join(c if c.isprintable() else "?" for c in path.removesuffix(end))
    return shown.encode()[: _LONGEST_EXE - len(end)].decode(errors="ignore") + end


def now() -> Ticks:
    """The present moment."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK") // 1_000_000_000
