"""C source for bcc: from bytes to a loaded program with its maps, or to a sentence that says why not.

Clang reads what anybody may write, so it runs in a process of its own (`bpflinkd/compiler.py`), as nobody,
with the capabilities that loading takes and no other, and its answer is not trusted. The daemon never
imports bcc.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import importlib.machinery
import json
import math
import os
import platform
import re
import select
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from bpflinkd.core.attach_types import AttachType
from bpflinkd.core.errors import BadProgram, BpflinkdError, Internal, NotSupported, VerifierRejected
from bpflinkd.core.model import StoredSource
from bpflinkd.kernel import info, objects
from bpflinkd.kernel.program import HeldProgram, require_program_fd

MAX_SOURCE: Final = 1 << 20
"""Bytes of the largest C source that we take."""
MAX_LOG: Final = 1 << 18
"""Bytes that we keep of what clang and the verifier say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one compile may use up."""

    seconds: float = 60.0
    """Wall clock; processor time is limited to the same, rounded up."""
    memory: int = 1 << 30
    """Bytes of address space."""


LIMITS: Final = Limits()

_CAPABILITIES: Final = "-all,+bpf,+perfmon,+net_admin"
# Debian's python by its path, not ours: bcc is built for it, and a virtual environment may lie where nobody
# may not read. For the same reason the helper's text comes in a memfd and not from our package's directory.
# -I -S -B: no environment, no site-packages (PyPI has another bcc), no files written.
_LAUNCHER: Final = (
    *("/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *(f"--inh-caps={_CAPABILITIES}", f"--ambient-caps={_CAPABILITIES}", f"--bounding-set={_CAPABILITIES}"),
    *("--no-new-privs", "--pdeathsig", "KILL", "--"),
)
_PYTHON: Final = ("/usr/bin/python3", "-I", "-S", "-B")
_ENVIRONMENT: Final = {"HOME": "/nonexistent", "LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_DIST_PACKAGES: Final = "/usr/lib/python3/dist-packages"

_GRACE: Final = 5.0
"""Seconds between a dying process's closing its socket and having a status: a big one is torn down first."""
_MESSAGE: Final = 65536
_MOST_FDS: Final = 253
"""SCM_MAX_FD: more do not fit one message."""
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_ERROR: Final = re.compile(r"^(\S+:\d+:\d+): (?:fatal )?error: (.*)$", re.MULTILINE)
_MEMORY_SIGNS: Final = ("out of memory", "bad_alloc", "Cannot allocate memory")
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def unsupported() -> str:
    """Why C source cannot be compiled on this host, as a sentence; empty where it can."""
    # The search path is given: what our own interpreter sees is not what the helper's does.
    if importlib.machinery.PathFinder.find_spec("bcc", [_DIST_PACKAGES]) is None:
        return "C source cannot be compiled: bcc is not there; install the package python3-bpfcc"
    release = platform.release()
    # Headers within the kernel (/sys/kernel/kheaders.tar.xz) do not help: Debian's kernels have none, and
    # bcc would unpack them to /tmp with tar, while the helper may neither start programs nor write.
    if not os.path.isdir(f"/lib/modules/{release}/build"):
        return (
            f"C source cannot be compiled: the headers of the running kernel ({release}) are not there; "
            f"install the package linux-headers-{release}"
        )
    return ""


def read_source(fd: int) -> bytes:
    """The bytes of the source file that a caller sent. Copied: later writes do not matter."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise BadProgram("the source is not a regular file")
    if status.st_size > MAX_SOURCE:
        raise BadProgram(f"the source file has {status.st_size} bytes; at most {MAX_SOURCE} are accepted")
    try:
        source = os.pread(fd, MAX_SOURCE, 0)
    except OSError as error:
        raise BadProgram(f"the source file cannot be read: {os.strerror(error.errno or 0)}") from None
    if not source:
        raise BadProgram("the source file is empty")
    if b"\0" in source:
        raise BadProgram(
            "the file is an ELF object, not C source; give it as an object"
            if source.startswith(b"\x7fELF")
            else "the source file holds a NUL byte, so it is not C"
        )
    return source


def compile_source(
    source: bytes, function: str | None, attach_type: AttachType, *, limits: Limits = LIMITS
) -> HeldProgram:
    """Compile C with bcc and load one function of it, with all maps of the source. Nothing is attached.

    Args:
        function: its name; None where the source holds exactly one.
        attach_type: what it will be attached as; C says nothing of it.

    Raises:
        BadProgram: it does not compile, lacks the function, or takes more time or memory than `limits`.
        VerifierRejected: the kernel's verifier refused it.
        NotSupported: bcc or the kernel's headers are not installed; nothing was started.
        Internal: the helper could not be started, or answered nonsense.
    """
    reason = unsupported()
    if reason:
        raise NotSupported(reason)
    return run_helper(_script(), source, function, attach_type, limits=limits)


@functools.cache
def _script() -> bytes:
    return resources.files("bpflinkd").joinpath("compiler.py").read_bytes()


def run_helper(
    script: bytes,
    source: bytes,
    function: str | None,
    attach_type: AttachType,
    *,
    limits: Limits = LIMITS,
    launcher: tuple[str, ...] = _LAUNCHER,
) -> HeldProgram:
    """Run one helper, whatever `script` makes of it; tests give their own, and drop nothing."""
    if function is not None and not _IDENTIFIER.fullmatch(function):
        raise BadProgram(f"{function[:80]!r} is not the name of a C function")
    request = {
        "function": function,
        "type": int(attach_type.program_type),
        "attach_type": attach_type.number,
    }
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
            helper = _start(words, (script_fd, theirs.fileno()), log_fd)
        try:
            message, fds = _converse(ours, json.dumps(request).encode(), source, limits.seconds)
        finally:
            status = _end(helper, _GRACE if message == b"" else 0.0)
        with _closed_on_error(fds):
            log = os.pread(log_fd, MAX_LOG, 0)
            if message is None:
                raise BadProgram(
                    f"the source was still being compiled after {limits.seconds:g} s, so the compiler was "
                    "stopped; make it smaller, or compile it to an ELF object yourself",
                    log=_readable(log),
                )
            if not message:
                raise _death(status, _readable(log), limits)
            return _held(_parsed(message, log), fds, source, function, attach_type, log, limits)


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
    with _closed_on_error(fds):
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise Internal("the compiler process answered more than fits one message")
    return message, fds


@contextlib.contextmanager
def _closed_on_error(fds: list[int]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def _death(status: int, log: str, limits: Limits) -> BpflinkdError:
    """The helper ended before it answered."""
    if any(sign in log for sign in _MEMORY_SIGNS):
        return _out_of_memory(log, limits)
    if status >= 0:
        last = log.rstrip().rpartition("\n")[2][:300] or "it said nothing"
        return Internal(
            f"the compiler process ended with status {status} before it answered: {last}", log=log
        )
    name = signal.Signals(-status).name
    if -status == signal.SIGXCPU:
        return BadProgram(
            f"compiling the source took more than {limits.seconds:g} s of processor time; make it smaller, "
            "or compile it to an ELF object yourself",
            log=log,
        )
    if -status == signal.SIGKILL:
        # Ours comes only after the grace, which no dying process needs.
        name += ", perhaps for want of memory: see the kernel's log"
    return BadProgram(f"the compiler crashed on this source ({name})", log=log)


def _out_of_memory(log: str, limits: Limits) -> BadProgram:
    return BadProgram(
        f"compiling the source takes more than {limits.memory >> 20} MiB of memory; make it smaller, or "
        "compile it to an ELF object yourself",
        log=log,
    )


def _parsed(message: bytes, log: bytes) -> dict[str, Any]:
    try:
        said = json.loads(message)
        start, end = said["log"]
        return {**said, "kind": str(said["kind"]), "log": _readable(log[int(start) : int(end)])}
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Internal("the compiler process answered what is no answer", log=_readable(log)) from None


def _readable(log: bytes) -> str:
    """What was said, without the rest of the file; nothing in it moves a terminal's cursor."""
    text = log.rstrip(b"\0").decode(errors="replace").replace("/virtual/main.c", "source.c")
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text).rstrip()


def _held(
    said: Mapping[str, Any],
    fds: list[int],
    source: bytes,
    function: str | None,
    attach_type: AttachType,
    log: bytes,
    limits: Limits,
) -> HeldProgram:
    """The program that came, once all of it is what it has to be."""
    if said["kind"] != "loaded":
        raise _refusal(said, function, limits)
    name, maps = said.get("function"), said.get("maps")
    names: list[Any] = [name, *maps] if isinstance(maps, list) else [name]
    if (
        not all(isinstance(word, str) and _IDENTIFIER.fullmatch(word) for word in names)
        or len(names) != len(fds)
        or len(set(names[1:])) != len(names) - 1
        or function not in (None, name)
    ):
        raise Internal("the compiler process answered names that do not fit", log=_readable(log))
    try:
        require_program_fd(fds[0], "what the compiler process sent")
    except BadProgram as error:
        raise Internal(str(error), log=_readable(log)) from None
    wrong = next((kind for kind in map(info.kind_of_fd, fds[1:]) if kind != "map"), None)
    if wrong is not None or info.program_info(fds[0]).type != attach_type.program_type:
        raise Internal("the compiler process sent a program or a map of another type", log=_readable(log))
    return HeldProgram(
        fds[0],
        StoredSource(sha256=hashlib.sha256(source).hexdigest(), program=str(name)),
        declared=attach_type,
        image=source,
        map_fds=dict(zip(names[1:], fds[1:], strict=True)),
    )


def _refusal(said: Mapping[str, Any], function: str | None, limits: Limits) -> BpflinkdError:
    log = str(said["log"])
    called = repr(_readable(str(said.get("function", "")).encode(errors="replace"))[:128])
    match said["kind"]:
        case "compile":
            return _compile_error(log)
        case "maps":
            return BadProgram(f"a map of the source cannot be created: {_last_line(log)}", log=log)
        case "no-function":
            return _no_function(said.get("functions"), function)
        case "verifier":
            return VerifierRejected(
                f"the verifier refused program {called}: {objects.verdict(log)}; its log follows", log=log
            )
        case "load":
            code = said.get("errno")
            if code == errno.EPERM:
                return NotSupported(
                    f"the kernel does not let the compiler process load program {called} (EPERM): it needs "
                    "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, and a kernel that is not locked down",
                    log=log,
                )
            reason = os.strerror(code) if isinstance(code, int) else "it gave no reason"
            return BadProgram(f"the kernel does not load program {called}: {reason}", log=log)
        case "headers":
            return NotSupported(
                "C source cannot be compiled: bcc found no kernel headers; install the package "
                f"linux-headers-{platform.release()}",
                log=log,
            )
        case "memory":
            return _out_of_memory(log, limits)
        case _:
            text = _readable(str(said.get("text", "it did not say how")).encode(errors="replace"))[:1000]
            return Internal(f"the compiler process failed: {text}", log=log)


def _compile_error(log: str) -> BadProgram:
    errors = _ERROR.findall(log)
    if not errors:
        return BadProgram(f"the source does not compile: {_last_line(log)}; all of it follows", log=log)
    where, what = errors[0]
    count = "1 error" if len(errors) == 1 else f"{len(errors)} errors, the first"
    return BadProgram(
        f"the source does not compile: {count} at {where}: {what[:300]}; clang's text follows", log=log
    )


def _last_line(log: str) -> str:
    return log.rpartition("\n")[2].strip()[:300] or "bcc gave no reason"


def _no_function(found: object, function: str | None) -> BadProgram:
    names = [str(name)[:128] for name in found] if isinstance(found, list) else []
    listed = _readable(", ".join(names).encode(errors="replace"))
    if not names:
        return BadProgram("the source holds no function that is not static, so there is nothing to attach")
    if function is None:
        return BadProgram(f"the source holds {len(names)} functions; choose one with --program: {listed}")
    return BadProgram(f"the source has no function {function!r}; it has: {listed}")
