"""Imports bpflinkd and forks daemons from itself: SOCKET PROGRAM. See `tests.lab.warm`.

Run by the interpreter of the program, which knows nothing of the tests.
"""

import ctypes
import importlib
import json
import os
import runpy
import signal
import socket
import sys
from typing import Any, NoReturn

_CLONE_NEWNET = 0x40000000
_LONGEST = 1 << 20


def main() -> None:
    """Serve until the socket is closed."""
    number, program = int(sys.argv[1]), sys.argv[2]
    # As for any program: the directory that it is in.
    sys.path.insert(0, os.path.dirname(program))
    importlib.import_module("bpflinkd.__main__")
    # Ctrl-C is for the tests, which end us by closing the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _only_imported(number)
    with socket.socket(fileno=number) as lab:
        lab.send(b"{}")
        while True:
            said, fds, _, _ = socket.recv_fds(lab, _LONGEST, 3)
            if not said:
                return
            asked = json.loads(said)
            answer = {"code": _ended(asked["ended"])} if "ended" in asked else {"pid": _fork(lab, asked, fds)}
            lab.send(json.dumps(answer | {"number": asked["number"]}).encode())


def _only_imported(socket_fd: int) -> None:
    """What is shared by all daemons must be modules and nothing else."""
    threads = os.listdir("/proc/self/task")
    fds = {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, socket_fd}
    still_open = [fd for fd in fds if os.path.exists(f"/proc/self/fd/{fd}")]  # but for that of the listing
    if len(threads) != 1 or still_open:
        raise SystemExit(f"importing bpflinkd has begun {len(threads) - 1} threads and opened {still_open}")


def _ended(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _fork(lab: socket.socket, wanted: dict[str, Any], fds: list[int]) -> int:
    pid = os.fork()
    if pid == 0:
        _become(lab, wanted, fds)
    for fd in fds:
        os.close(fd)
    return pid


def _become(lab: socket.socket, wanted: dict[str, Any], fds: list[int]) -> NoReturn:
    """Be the daemon."""
    lab.close()
    for standard, given in enumerate(fds):
        os.dup2(given, standard)
        os.close(given)
    _enter(wanted["netns"])
    os.chdir(wanted["directory"])
    os.environ.clear()
    os.environ.update(wanted["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = wanted["words"]
    # The kernel names a process after what it executes.
    with open("/proc/self/comm", "w", encoding="ascii") as name:
        name.write(os.path.basename(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


def _enter(netns: str) -> None:
    with open(netns, "rb") as place:
        if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {netns}")


if __name__ == "__main__":
    main()
