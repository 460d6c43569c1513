"""Somebody who changes hooks of ours: `python -m bench.stranger INTERFACE PIN PIN`, in its namespace.

Reads commands, a line each, and answers each with the moment on the monotonic clock at which it was done.
`attach N` and `off`: the program of that number, by netlink. `update LINK N`: a BPF_LINK_UPDATE of the
link with this kernel id; `burst LINK COUNT`: so many of them, with both programs in turn, the first of which
is behind it. `detach LINK`: a BPF_LINK_DETACH of it.
"""

import ctypes
import socket
import subprocess
import sys
import time
from pathlib import Path

from bpflinkd.kernel import info, libbpf
from tests.lab import World
from tests.lab.world import end

_LIBRARY = ctypes.CDLL("libbpf.so.1")


def _main(interface: str, *pins: str) -> None:
    ifindex = socket.if_nametoindex(interface)
    programs = [libbpf.obj_get(pin) for pin in pins]
    print("ready", flush=True)
    for line in sys.stdin:
        match line.split():
            case "attach", number:
                # As ip does it: whatever is there is replaced.
                if _LIBRARY.bpf_xdp_attach(ifindex, programs[int(number)], 0, None) != 0:
                    raise OSError(f"program {number} cannot be attached")
            case ("off",):
                _LIBRARY.bpf_xdp_detach(ifindex, 0, None)
            case "update", link_id, number:
                link = libbpf.link_fd_by_id(int(link_id))
                running = libbpf.prog_fd_by_id(info.link_info(link).prog_id)
                libbpf.link_update(link, programs[int(number)], old_prog_fd=running)
            case "burst", link_id, count:
                link = libbpf.link_fd_by_id(int(link_id))
                for number in range(int(count)):
                    libbpf.link_update(link, programs[(number + 1) % 2], old_prog_fd=programs[number % 2])
            case "detach", link_id:
                libbpf.link_detach(libbpf.link_fd_by_id(int(link_id)))
            case words:
                raise ValueError(f"what is {words}?")
        print(time.monotonic(), flush=True)


class Stranger:
    """The other end of it."""

    def __init__(self, world: World, interface: str, pins: tuple[Path, Path]) -> None:
        words = world.inside(sys.executable, "-m", "bench.stranger", interface, *pins)
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        world.at_end(lambda: end(self._process))
        self._answer()

    def do(self, *words: object) -> float:
        """Have something done; when it was."""
        assert self._process.stdin
        print(*words, file=self._process.stdin, flush=True)
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the stranger ended")
        return line.strip()


if __name__ == "__main__":
    _main(*sys.argv[1:])
