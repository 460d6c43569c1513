"""Makes events that programs count: `python -m integration.conformance.load KIND PLACE [gently]`.

Goes on until its standard input ends, at most a minute; then prints how many events there were.
"""

import ctypes
import fnmatch
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.lab.traffic import frames

_LONGEST = 60.0
_BURST = 64
_PAUSE = 0.05
# Calls that nothing else on a machine makes, by the functions that they reach: x86-64 numbers.
_CALLS = {
    "__x64_sys_sched_getparam": 143,
    "__x64_sys_sched_get_priority_max": 146,
    "__x64_sys_sched_get_priority_min": 147,
    "__x64_sys_sched_rr_get_interval": 148,
    "__x64_sys_timer_gettime": 224,
    "__x64_sys_timer_getoverrun": 225,
}
_libc = ctypes.CDLL(None)


def datagrams(cgroup: str) -> Callable[[], int]:
    """A datagram to nobody on loopback, from within a cgroup."""
    Path(cgroup, "cgroup.procs").write_text(str(os.getpid()))
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def once() -> int:
        out.sendto(b"x", ("127.0.0.1", 9))
        return 1

    return once


def calls(function: str) -> Callable[[], int]:
    """The system calls of a function's name, or of a pattern of such names."""
    numbers = [number for name, number in _CALLS.items() if fnmatch.fnmatch(name, function)]

    def once() -> int:
        for number in numbers:
            _libc.syscall(number, 0, 0)
        return len(numbers)

    return once


MAKERS: Mapping[str, Callable[[str], Callable[[], int]]] = {
    "xdp": frames,
    "cgroup": datagrams,
    "calls": calls,
}
"""By KIND: gives for a PLACE what makes events, and tells how many each time."""


def main(kind: str, place: str, pace: str = "") -> int:
    """Make events; returns how many."""
    once = MAKERS[kind](place)
    print("going", flush=True)
    made, deadline = 0, time.monotonic() + _LONGEST
    while True:
        for _ in range(_BURST):
            made += once()
        if pace:
            time.sleep(_PAUSE)
        if select.select([sys.stdin], [], [], 0)[0] or time.monotonic() > deadline:
            return made


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
