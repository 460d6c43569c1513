"""The process that compiles and loads for callers: come by, asked once, and gone.

What it answers is judged by `answers`.

There are two ways to one, and one conversation with it (`bpflinkd/compiler.py` describes it). As a service
the daemon connects to a socket, and systemd starts a unit of its own for the connection. A daemon started by
hand starts a child that is nobody.
"""

import contextlib
import enum
import fcntl
import json
import math
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from bpflinkd.core.errors import Internal, LimitExceeded, NotSupported
from bpflinkd.kernel import archive
from bpflinkd.kernel.loading import Carry

MAX_LOG: Final = 1 << 18
"""Bytes that we keep of what clang and the verifier say."""

_CAPABILITIES: Final = "-all,+bpf,+perfmon,+net_admin"
# Debian's python by its path, not ours: bcc is built for it, and a virtual environment may lie where nobody
# may not read. For the same reason its modules come in a memfd and not from our package's directory.
# -I -S -B: no environment, no site-packages (PyPI has another bcc), no files written.
LAUNCHER: Final = (
    *("/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *(f"--inh-caps={_CAPABILITIES}", f"--ambient-caps={_CAPABILITIES}", f"--bounding-set={_CAPABILITIES}"),
    *("--no-new-privs", "--pdeathsig", "KILL", "--"),
)
_PYTHON: Final = ("/usr/bin/python3", "-I", "-S", "-B")
_ENVIRONMENT: Final = {"HOME": "/nonexistent", "LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

_GRACE: Final = 5.0
"""Seconds between a dying process's closing its socket and having a status: a big one is torn down first."""
_MESSAGE: Final = 65536
_MOST_FDS: Final = 253
"""SCM_MAX_FD: more do not fit one message."""
_MOST_MAPS: Final = _MOST_FDS - 2
"""Beside the subject and the log."""
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one compile or load may use up."""

    seconds: float = 60.0
    """Wall clock; processor time is limited to the same, rounded up."""
    memory: int = 1 << 30
    """Bytes of address space."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a process is asked to do, in the words of our sentences."""

    process: str
    subject: str
    doing: str
    done: str
    cannot: str
    """What cannot be done where no process can be had."""
    advice: str
    """What to do about a subject that takes too much."""


COMPILE: Final = Work(
    process="compiler",
    subject="source",
    doing="compiling",
    done="compiled",
    cannot="C source cannot be compiled",
    advice="make it smaller, or compile it to an ELF object yourself",
)
LOAD: Final = Work(
    process="loader",
    subject="object",
    doing="loading",
    done="loaded",
    cannot="the object cannot be loaded unprivileged",
    advice="make it smaller",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawned:
    """A process that is our child, and ends with us."""

    script: bytes
    """Text of Python, or a zip archive that holds `__main__.py`."""
    launcher: tuple[str, ...] = LAUNCHER
    """What comes before python: it takes away what the process must not have."""


Way: TypeAlias = Spawned | Path
"""A child, or the socket at which a process waits for us."""


def way(compiler_socket: Path | None) -> Way:
    """How to come by a process: at the socket, where there is one, or as a child."""
    return compiler_socket or Spawned(script=archive.script())


class Ending(enum.Enum):
    """Why there is no answer."""

    LATE = enum.auto()
    """It had not come in time."""
    DIED = enum.auto()
    """The process took up the request, and ended."""
    UNHEARD = enum.auto()
    """Nobody took up the request: the process did not start, or ended at its start."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one process."""

    said: bytes | Ending
    fds: list[int]
    """What came with the message; the receiver's to close."""
    status: int | None
    """How it ended, as `Popen.wait` says it; None for one that is not our child, of which we are not told."""
    log: bytes
    """MAX_LOG bytes: what was written to its standard error, then zeros."""


def ask(
    way: Way,
    work: Work,
    request: Mapping[str, Any],
    subject: bytes,
    limits: Limits,
    carry: Carry | None = None,
) -> Answer:
    """Come by a process, ask, wait, and be rid of it.

    Args:
        subject: the source or the object.
        carry: what the program that is to be replaced leaves to the new one; its maps are sent along.

    Raises:
        NotSupported: nobody listens at the socket.
        Internal: the child cannot be started; the answer is too long.
    """
    told = {**request, "memory": limits.memory, "seconds": math.ceil(limits.seconds)}
    maps: list[int] = []
    if carry is not None and (carry.wishes.choices or not carry.wishes.fresh):
        told["carry"] = {
            "running": [each.shape for each in carry.running],
            "fresh": carry.wishes.fresh,
            "choices": carry.wishes.choices,
        }
        maps = [each.fd for each in carry.running]
        if len(maps) > _MOST_MAPS:
            raise LimitExceeded(
                f"the running program has {len(maps)} maps; of more than {_MOST_MAPS} none can be carried "
                "over to one that a process of its own loads; begin with empty ones: --fresh-maps"
            )
    with (
        _memfd(f"bpflinkd-{work.subject}", subject, seals=_SEALS | fcntl.F_SEAL_WRITE) as subject_fd,
        # Its size is fixed, so that whatever the process writes is kept without anybody draining it.
        _memfd("bpflinkd-log", b"\0" * MAX_LOG, seals=_SEALS) as log_fd,
    ):
        message, sent = json.dumps(told).encode(), [subject_fd, log_fd, *maps]
        status = None
        if isinstance(way, Spawned):
            said, fds, status = _ask_child(way, work, message, sent, limits.seconds)
        else:
            with _connected(way, work) as channel:
                said, fds = _converse(channel, work, message, sent, limits.seconds)
            # Closing the socket ends a process that is still at work.
        return Answer(said, fds, status, os.pread(log_fd, MAX_LOG, 0))


def _connected(place: Path, work: Work) -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        channel.connect(str(place))
    except OSError as error:
        channel.close()
        raise NotSupported(
            f"{work.cannot}: nobody listens at {place} ({os.strerror(error.errno or 0)}); "
            "start the compiler's socket with 'systemctl start bpflinkd-compiler.socket'"
        ) from None
    return channel


def _ask_child(
    way: Spawned, work: Work, message: bytes, sent: list[int], seconds: float
) -> tuple[bytes | Ending, list[int], int]:
    """Start one, ask, and end it: what it said, what came along, and its status."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (
        ours,
        theirs,
        _memfd(f"bpflinkd-{work.process}", way.script, seals=_SEALS | fcntl.F_SEAL_WRITE) as script_fd,
    ):
        said: bytes | Ending = Ending.LATE
        with theirs:  # or its end would never be seen to close
            words = (*way.launcher, *_PYTHON, f"/proc/self/fd/{script_fd}")
            # The log also from the beginning: for what the launcher says.
            process = _start(words, work, script_fd, theirs.fileno(), sent[1])
        try:
            said, fds = _converse(ours, work, message, sent, seconds)
        finally:
            status = _end(process, _GRACE if said in (Ending.DIED, Ending.UNHEARD) else 0.0)
        return said, fds, status


@contextlib.contextmanager
def _memfd(name: str, data: bytes, *, seals: int) -> Iterator[int]:
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(data)
        os.lseek(fd, 0, os.SEEK_SET)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        yield fd
    finally:
        os.close(fd)


def _start(
    words: tuple[str, ...], work: Work, script_fd: int, channel_fd: int, log_fd: int
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            words,
            stdin=channel_fd,
            stdout=log_fd,
            stderr=log_fd,
            pass_fds=(script_fd,),
            cwd="/",
            env=_ENVIRONMENT,
            start_new_session=True,
        )
    except OSError as error:
        raise Internal(
            f"the {work.process} process cannot be started: {error.filename or words[0]}: "
            f"{os.strerror(error.errno or 0)}"
        ) from None


def _end(helper: subprocess.Popen[bytes], grace: float) -> int:
    """Kill what is left of the helper and reap it; its status. It gets `grace` seconds to end by itself."""
    if grace:
        # By a pidfd, as it must not be reaped yet: until then nobody else can have the group's id.
        pidfd = os.pidfd_open(helper.pid)
        try:
            ending = select.poll()
            ending.register(pidfd, select.POLLIN)
            ending.poll(grace * 1000)
        finally:
            os.close(pidfd)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(helper.pid, signal.SIGKILL)
    return helper.wait()


def _converse(
    channel: socket.socket, work: Work, message: bytes, sent: list[int], seconds: float
) -> tuple[bytes | Ending, list[int]]:
    """Ask, and wait for the answer: its bytes and fds."""
    try:
        socket.send_fds(channel, [message], sent)
        poll = select.poll()
        poll.register(channel, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return Ending.LATE, []
        answer, fds, flags, _ = socket.recv_fds(channel, _MESSAGE, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
    except (BrokenPipeError, ConnectionResetError):
        # Reset: closed with our message unread (net/unix/af_unix.c, unix_release_sock()).
        return Ending.UNHEARD, []
    with closed_on_error(fds):
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise Internal(f"the {work.process} process answered more than fits one message")
    return answer or Ending.DIED, fds


@contextlib.contextmanager
def closed_on_error(fds: list[int]) -> Iterator[None]:
    """Close descriptors that nobody will own."""
    try:
        yield
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
