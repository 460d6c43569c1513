"""A bpf_link without a daemon: the floor of a replace.

`python -m bench.barelink IFACE PROGRAM_PIN LINK_PIN` makes an XDP link in the network namespace that
it runs in, which is where the interface's number means something, and pins it.
"""

import itertools
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from bpflinkd.core.attach_types import XDP
from bpflinkd.kernel import libbpf
from tests.lab import World
from tests.lab.world import run


def make(world: World, interface: str, program: Path) -> int:
    """Attach a pinned program to an interface of the world; returns the link's fd."""
    pin = program.with_name(f"link_{interface}")
    run(*world.inside(sys.executable, "-m", "bench.barelink", interface, program, pin))
    return libbpf.obj_get(str(pin))


def updater(link_fd: int, programs: tuple[Path, Path]) -> Callable[[], None]:
    """A function that swaps a link to the other of two pinned programs; it runs the first."""
    first, second = (libbpf.obj_get(str(pin)) for pin in programs)
    turns = itertools.cycle(((second, first), (first, second)))

    def update() -> None:
        new, old = next(turns)
        libbpf.link_update(link_fd, new, old_prog_fd=old)

    return update


def _main(interface: str, program: str, pin: str) -> None:
    ifindex = socket.if_nametoindex(interface)
    libbpf.obj_pin(libbpf.link_create(libbpf.obj_get(program), ifindex, XDP.number), pin)


if __name__ == "__main__":
    _main(*sys.argv[1:])
