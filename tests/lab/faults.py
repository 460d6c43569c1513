"""A process watched at its system calls by strace, and killed at one of them.

strace delivers an injected signal on entering the call, so a call at which SIGKILL comes is not
made: all calls before it have been. Its `when=N` counts for each system call and each thread by
itself (strace(1): "Accounting ... is done per syscall and per tracee"), so a point in the life of a
process is a call's name and how many of that name its thread has made.
"""

import itertools
import os
import re
import select
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.world import end, until

LASTING_CALLS = (
    # The kernel's objects, and their pins.
    *("bpf", "perf_event_open"),
    *("mkdir", "mkdirat", "rmdir", "unlink", "unlinkat"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    # Records.
    *("pwrite64", "pwritev", "pwritev2", "ftruncate", "truncate", "fallocate"),
    *("fsync", "fdatasync", "sync_file_range"),
)
"""Calls whose effect outlives the process that makes them; SQLite does not use write(2)."""
PLAIN_WRITES = ("write", "writev")

_DYING = 1.0
"""Seconds in which a process that was killed is dead."""
_BEGUN = re.compile(r"^(?P<thread>\d+) +(?:\d+\.\d+ +)?(?P<name>\w+)\((?P<rest>.*)$")
_BPF_COMMAND = re.compile(r"BPF_\w+|0x\w+")
_FIRST_FD = re.compile(r"^\d+<(?P<what>[^>]*)>")
_PATH = re.compile(r'"(?P<what>[^"]*)"')


@dataclass(frozen=True)
class Call:
    """One system call of a thread."""

    thread: int
    name: str
    nth: int
    """How many of this name its thread had made with it since the watch began."""
    what: str
    """The bpf command, or the last part of the path that it was about."""

    def __str__(self) -> str:
        return f"{self.name} {self.nth} ({self.what})"


def require_strace() -> None:
    """Skip where there is none."""
    if shutil.which("strace") is None:
        pytest.skip("no strace")


def _options(calls: Sequence[str], log: Path, kill_at: Mapping[str, int]) -> list[str]:
    # Not with --seccomp-bpf: it is faster, but a signal is not delivered where such a filter stops.
    kills = [
        word for name, nth in kill_at.items() for word in ("-e", f"inject={name}:signal=SIGKILL:when={nth}")
    ]
    # A question mark: on some architectures not every call is there.
    known = ",".join(f"?{name}" for name in calls)
    return ["strace", "-f", "-y", "-s", "128", "-o", str(log), "-e", f"trace={known}", *kills]


class Watched:
    """A context in which all threads of a running process are watched, or killed at a call.

    When it ends, `calls` are those that were begun, in order.
    """

    def __init__(
        self,
        pid: int,
        log: Path,
        *,
        calls: Sequence[str] = LASTING_CALLS,
        kill_at: Mapping[str, int],
        fail_at: tuple[str, int, str] | None = None,
    ) -> None:
        """`fail_at`: a call, which of its name in its thread, and the errno it gets instead of being made."""
        fails = []
        if fail_at is not None:
            name, nth, code = fail_at
            fails = ["-e", f"inject={name}:error={code}:when={nth}"]
        self._command = [*_options(calls, log, kill_at), *fails, "-p", str(pid)]
        self._pid = pid
        self._kill_at = kill_at
        self._log = log
        self.calls: tuple[Call, ...] = ()

    def __enter__(self) -> "Watched":
        self._log.unlink(missing_ok=True)
        self._process = os.pidfd_open(self._pid)
        self._strace = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        assert self._strace.stderr
        said = self._strace.stderr.readline()
        if "attached" not in said:
            os.close(self._process)
            end(self._strace)
            raise RuntimeError(f"strace does not attach: {said}")
        return self

    def __exit__(self, *_: object) -> None:
        # Asked to end while the process dies, strace waits for threads that will not come; it ends by itself.
        try:
            if select.select([self._process], [], [], _DYING if self._kill_at else 0)[0]:
                self._strace.wait(10)
        finally:
            os.close(self._process)
            end(self._strace)
        self.calls = without_echo(begun(self._log), self._kill_at)


def without_echo(calls: tuple[Call, ...], kill_at: Mapping[str, int]) -> tuple[Call, ...]:
    """Each call once: now and then strace tells the one at which it killed for a second thread too.

    That thread had made no call before; whatever else a second thread did stays.
    """
    before, last = calls[:-2], calls[-2:]
    for killed, echo in itertools.permutations(last, 2):
        is_same = (killed.name, killed.what) == (echo.name, echo.what)
        is_new = echo.thread not in {call.thread for call in (*before, killed)}
        if is_same and is_new and killed.nth == kill_at.get(killed.name):
            return (*before, killed)
    return calls


def begun(log: Path) -> tuple[Call, ...]:
    """The calls that a log of strace tells of."""
    made: dict[tuple[str, str], int] = {}
    found = []
    for line in log.read_text(errors="replace").splitlines():
        if (call := _BEGUN.match(line)) is not None:
            key = call["thread"], call["name"]
            made[key] = made.get(key, 0) + 1
            found.append(Call(int(key[0]), key[1], made[key], _what(call["name"], call["rest"])))
    return tuple(found)


def _what(name: str, rest: str) -> str:
    if name == "bpf":
        command = _BPF_COMMAND.match(rest)
        return command[0] if command else ""
    about = _FIRST_FD.match(rest) or _PATH.search(rest)
    what = about["what"].rpartition("/")[2] if about else ""
    return "socket" if what.startswith("socket:") else what


def when_quiet(log: Path) -> None:
    """Wait until nothing more is said for a little while."""
    length, same = -1, 0

    def quiet() -> bool:
        nonlocal length, same
        now = log.stat().st_size if log.exists() else 0
        same = same + 1 if now == length else 0
        length = now
        return same >= 10  # each a hundredth of a second after the last

    until(quiet, f"quiet in {log}")
