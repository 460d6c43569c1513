"""Daemons from a process that has imported the program already: most of a start is importing.

One such process a test run, of the program under test and its interpreter, waits with one thread, no
descriptors but its own and nothing made but modules; `warm_server.py` is its code. A daemon is forked
from it, and is in all that a test or the daemon can see what `Daemon.command` would have started: the
arguments, directory, environment, network namespace, standard streams, session, signals, limits and
name. tests/kernel/test_warm.py compares the two.

It is used within `tests.lab.daemon.warm_starts`: by tests, not by the demo and the benchmarks. Where the
start itself is tested, or what differs (memory, the command line in /proc, the parent), a daemon is started
cold all the same: `World.daemon(..., warm=False)`.
"""

import itertools
import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

_SERVER: Final = Path(__file__).with_name("warm_server.py")
_LONGEST: Final = 1 << 20
_SECONDS_TO_IMPORT: Final = 100
_AGAIN: Final = 0.001
"""Seconds until a process that has ended is asked for again: a tracer is told before its parent is."""


class Process:
    """A forked daemon, with what the lab uses of `subprocess.Popen`."""

    def __init__(self, server: "Server", pid: int) -> None:
        """The server keeps it, dead or alive, until it is asked how it ended: the pid stays its own."""
        self._server = server
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = os.pidfd_open(pid)
        self._one_at_a_time = threading.Lock()

    def poll(self) -> int | None:
        """The exit code, or minus the signal; None while it runs."""
        if self.returncode is None and self._has_ended(0):
            self._reap()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same, when it has ended.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if deadline is None else deadline - time.monotonic()
            if timeout is not None and left is not None and left <= 0:
                raise subprocess.TimeoutExpired(["bpflinkd"], timeout)
            if self._has_ended(left) and not self._reap():
                time.sleep(_AGAIN)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it is known to have ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _has_ended(self, seconds: float | None) -> bool:
        """Whether it does so within the time; poll(2), as select(2) knows a thousand descriptors only."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(None if seconds is None else seconds * 1000))

    def _reap(self) -> bool:
        with self._one_at_a_time:
            if self.returncode is None:
                self.returncode = self._server.ended(self.pid)
                if self.returncode is not None:
                    os.close(self._pidfd)
            return self.returncode is not None


class Server:
    """The process that daemons are forked from."""

    def __init__(self, program: Path) -> None:
        """Nothing is started before the first daemon is."""
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._one_at_a_time = threading.Lock()
        self._numbers = itertools.count()

    def _begin(self) -> None:
        """Start it, with the Python beside the program."""
        self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        python, number = self._program.resolve().with_name("python"), theirs.fileno()
        with theirs:
            self._process = subprocess.Popen(
                [python, "-P", _SERVER, str(number), self._program],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._end.settimeout(_SECONDS_TO_IMPORT)
        self._receive()

    def start(self, words: Sequence[str], netns: Path, stderr: int) -> Process:
        """Fork a daemon.

        Args:
            words: its command line, of which the first is the program.
            netns: its network namespace.
            stderr: descriptor for what it says; the other streams are those of this process.
        """
        wanted = {
            "words": list(words),
            "netns": str(netns),
            "directory": os.getcwd(),
            "environment": dict(os.environ),
        }
        return Process(self, int(self._ask(wanted, [0, 1, stderr])["pid"]))

    def ended(self, pid: int) -> int | None:
        """How a daemon ended, and forget it; None where that is not known yet."""
        code = self._ask({"ended": pid})["code"]
        return None if code is None else int(code)

    def close(self) -> None:
        """End it. Daemons that run stay, as those do whose parent ends."""
        if self._process is not None:
            self._end.close()
            self._process.wait(20)
            self._process = None

    def _ask(self, question: dict[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        with self._one_at_a_time:
            if self._process is None:
                self._begin()
            number = next(self._numbers)
            sent = json.dumps(question | {"number": number}).encode()
            assert len(sent) < _LONGEST
            socket.send_fds(self._end, [sent], fds)
            while True:
                said = self._receive()
                # A test that ran out of time may have left an answer.
                if said["number"] == number:
                    return said

    def _receive(self) -> dict[str, Any]:
        said = self._end.recv(_LONGEST)
        if not said:
            assert self._process
            raise RuntimeError(f"what daemons are forked from ended with {self._process.wait(20)}")
        return dict(json.loads(said))
