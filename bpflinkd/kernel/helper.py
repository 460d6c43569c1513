"""The compiler process: started as nobody, asked once, and gone. What it answers is judged by `compile`."""

import contextlib
import fcntl
import math
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bpflinkd.core.errors import Internal

MAX_LOG: Final = 1 << 18
"""Bytes that we keep of what clang and the verifier say."""

_CAPABILITIES: Final = "-all,+bpf,+perfmon,+net_admin"
# Debian's python by its path, not ours: bcc is built for it, and a virtual environment may lie where nobody
# may not read. For the same reason the helper's text comes in a memfd and not from our package's directory.
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
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one compile may use up."""

    seconds: float = 60.0
    """Wall clock; processor time is limited to the same, rounded up."""
    memory: int = 1 << 30
    """Bytes of address space."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one helper."""

    message: bytes | None
    """None: it did not come in time; empty: the helper ended without one."""
    fds: list[int]
    """What came with the message; the receiver's to close."""
    status: int
    """How the helper ended, as `Popen.wait` says it."""
    log: bytes
    """MAX_LOG bytes: what was written to its standard error, then zeros."""


def ask(script: bytes, request: bytes, source: bytes, limits: Limits, launcher: tuple[str, ...]) -> Answer:
    """Start a helper, ask, wait, and end it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (
        ours,
        theirs,
        _memfd("bpflinkd-compiler", script, seals=_SEALS | fcntl.F_SEAL_WRITE) as script_fd,
        # Its size is fixed, so that whatever the helper writes is kept without anybody draining it.
        _memfd("bpflinkd-log", b"\0" * MAX_LOG, seals=_SEALS) as log_fd,
    ):
        message: bytes | None = None
        with theirs:  # or its end would never be seen to close
            limits_words = (str(limits.memory), str(math.ceil(limits.seconds)))
            words = (*launcher, *_PYTHON, f"/proc/self/fd/{script_fd}", str(theirs.fileno()), *limits_words)
            process = _start(words, (script_fd, theirs.fileno()), log_fd)
        try:
            message, fds = _converse(ours, request, source, limits.seconds)
        finally:
            status = _end(process, _GRACE if message == b"" else 0.0)
        return Answer(message, fds, status, os.pread(log_fd, MAX_LOG, 0))


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


def _start(words: tuple[str, ...], passed: tuple[int, ...], log_fd: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            pass_fds=passed,
            cwd="/",
            env=_ENVIRONMENT,
            start_new_session=True,
        )
    except OSError as error:
        raise Internal(
            f"the compiler process cannot be started: {error.filename or words[0]}: "
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
    channel: socket.socket, request: bytes, source: bytes, seconds: float
) -> tuple[bytes | None, list[int]]:
    """Ask, and wait for the answer: its bytes and fds. None: it did not come in time; empty: never will."""
    with _memfd("bpflinkd-source", source, seals=_SEALS | fcntl.F_SEAL_WRITE) as source_fd:
        try:
            socket.send_fds(channel, [request], [source_fd])
        except (BrokenPipeError, ConnectionResetError):
            return b"", []
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    if not poll.poll(seconds * 1000):
        return None, []
    try:
        message, fds, flags, _ = socket.recv_fds(channel, _MESSAGE, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return b"", []
    with closed_on_error(fds):
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise Internal("the compiler process answered more than fits one message")
    return message, fds


@contextlib.contextmanager
def closed_on_error(fds: list[int]) -> Iterator[None]:
    """Close descriptors that nobody will own."""
    try:
        yield
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
