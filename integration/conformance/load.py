"""Makes events that programs count: `python -m integration.conformance.load KIND PLACE`.

Goes on until its standard input ends, at most a minute; then prints how many events there were.
"""

import ctypes
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.lab.traffic import FRAME

_LONGEST = 60.0
_BURST = 64
# Calls that nothing else on a machine makes: x86-64 numbers.
_SCHED_GET_PRIORITY_MAX, _SCHED_GET_PRIORITY_MIN, _SCHED_RR_GET_INTERVAL = 146, 147, 148
_libc = ctypes.CDLL(None)


def frames(interface: str) -> Callable[[], int]:
    """A frame for the other end of a veth pair."""
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    out.bind((interface, 0))

    def once() -> int:
        out.send(FRAME)
        return 1

    return once


def datagrams(cgroup: str) -> Callable[[], int]:
    """A datagram to nobody on loopback, from within a cgroup."""
    Path(cgroup, "cgroup.procs").write_text(str(os.getpid()))
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def once() -> int:
        out.sendto(b"x", ("127.0.0.1", 9))
        return 1

    return once


def one_call(_place: str) -> Callable[[], int]:
    """One hit of sched_rr_get_interval."""

    def once() -> int:
        _libc.syscall(_SCHED_RR_GET_INTERVAL, 0, 0)
        return 1

    return once


def two_calls(_place: str) -> Callable[[], int]:
    """A hit each of two functions with names that begin alike."""

    def once() -> int:
        _libc.syscall(_SCHED_GET_PRIORITY_MAX, 0)
        _libc.syscall(_SCHED_GET_PRIORITY_MIN, 0)
        return 2

    return once


def main(kind: str, place: str) -> int:
    """Make events; returns how many."""
    makers = {"xdp": frames, "cgroup": datagrams, "call": one_call, "calls": two_calls}
    once = makers[kind](place)
    print("going", flush=True)
    made, deadline = 0, time.monotonic() + _LONGEST
    while True:
        for _ in range(_BURST):
            made += once()
        if select.select([sys.stdin], [], [], 0)[0] or time.monotonic() > deadline:
            return made


if __name__ == "__main__":
    print(main(*sys.argv[1:3]))
