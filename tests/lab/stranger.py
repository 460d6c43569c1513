"""Somebody else: a process that changes hooks in the ways that no common tool can.

python -m tests.lab.stranger WAY ARGUMENTS...
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from bpflinkd.kernel import info, libbpf


def _program(path: str) -> int:
    return libbpf.obj_get(path)


def create_xdp(program: str, ifindex: str, link: str) -> None:
    """Attach a program by a bpf_link, and pin it; prints the link's id."""
    _pin(libbpf.link_create(_program(program), int(ifindex), 37, libbpf.XDP_FLAGS_SKB_MODE), link)


def create_cgroup(program: str, cgroup: str, attach_type: str, link: str) -> None:
    """The same on a cgroup's directory."""
    _pin(libbpf.link_create(_program(program), os.open(cgroup, os.O_RDONLY), int(attach_type)), link)


def _pin(fd: int, path: str) -> None:
    libbpf.obj_pin(fd, path)
    print(info.link_info(fd).id)


def update(link: str, new: str, old: str) -> None:
    """Swap the program of a pinned bpf_link."""
    libbpf.link_update(libbpf.obj_get(link), _program(new), old_prog_fd=_program(old))


def swap_often(link: str, one: str, other: str, times: str) -> None:
    """The same, many times, as fast as it goes; the first swap is to `other`."""
    fd, programs = libbpf.obj_get(link), (_program(one), _program(other))
    for number in range(int(times)):
        libbpf.link_update(fd, programs[(number + 1) % 2], old_prog_fd=programs[number % 2])


def detach(link: str) -> None:
    """Detach a pinned bpf_link."""
    libbpf.link_detach(libbpf.obj_get(link))


def fail_to_update(link: str, program: str) -> None:
    """An update that expects another program than the one that runs."""
    try:
        libbpf.link_update(libbpf.obj_get(link), _program(program), old_prog_fd=_program(program))
    except PermissionError:
        return
    sys.exit("the kernel did as it was asked")


_WAYS: dict[str, Callable[..., None]] = {
    way.__name__: way for way in (create_xdp, create_cgroup, update, swap_often, detach, fail_to_update)
}

if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] == "in":
        # In a cgroup of our own, so that it is told where we are.
        (Path(sys.argv[2]) / "cgroup.procs").write_text(str(os.getpid()))
        del sys.argv[1:3]
    _WAYS[sys.argv[1]](*sys.argv[2:])
