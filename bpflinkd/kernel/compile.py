"""C source for bcc: from bytes to a loaded program with its maps, or to a sentence that says why not.

Clang reads what anybody may write, so it runs in a process of its own (`bpflinkd/compiler.py`), unprivileged
but for the capabilities that loading takes, and its answer is not trusted. The daemon never imports bcc.
"""

import errno
import functools
import hashlib
import json
import os
import platform
import re
import signal
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

from bpflinkd import compiler
from bpflinkd.core.attach_types import AttachType
from bpflinkd.core.errors import BadProgram, BpflinkdError, Internal, NotSupported, VerifierRejected
from bpflinkd.core.sources import MAX_SOURCE, StoredSource
from bpflinkd.kernel import helper, info, objects
from bpflinkd.kernel.helper import Answer, Ending, Limits, Spawned, Way
from bpflinkd.kernel.program import HeldProgram, require_program_fd

LIMITS: Final = Limits()
_PROBE_LIMITS: Final = Limits(seconds=10.0)
JOURNAL: Final = "journalctl -u 'bpflinkd-compiler@*'"
"""Where there is more of a compiler that is not our child."""

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_ERROR: Final = re.compile(r"^(\S+:\d+:\d+): (?:fatal )?error: (.*)$", re.MULTILINE)
_MEMORY_SIGNS: Final = ("out of memory", "bad_alloc", "Cannot allocate memory")


def unsupported(compiler_socket: Path | None = None) -> str:
    """Why C source cannot be compiled on this host, as a sentence; empty where it can.

    Args:
        compiler_socket: as for `compile_source`. A compiler there is asked, as we may not see what it does:
            ProtectKernelModules= hides the headers from us. That takes as long as Python takes to start.
    """
    if compiler_socket is None:
        lacks = compiler.lacking()
        return _lack(lacks) if lacks else ""
    try:
        answer = helper.ask(compiler_socket, {"do": "probe"}, b"", _PROBE_LIMITS)
    except BpflinkdError as error:
        return str(error)
    for fd in answer.fds:
        os.close(fd)
    if not isinstance(answer.said, bytes):
        return f"C source cannot be compiled: the compiler process did not answer; see {JOURNAL}"
    said = _parsed(answer.said, answer.log)
    return "" if said["kind"] == "ready" else str(_refusal(said, None, _PROBE_LIMITS))


def _lack(kind: str) -> str:
    if kind == "no-bcc":
        return "C source cannot be compiled: bcc is not there; install the package python3-bpfcc"
    release = platform.release()
    return (
        f"C source cannot be compiled: the headers of the running kernel ({release}) are not there; "
        f"install the package linux-headers-{release}"
    )


def read_source(fd: int) -> bytes:
    """The bytes of the source file that a caller sent. Copied: later writes do not matter."""
    source = objects.read_file(fd, "source", MAX_SOURCE)
    check_source(source)
    return source


def check_source(source: bytes) -> None:
    """Refuse what cannot be C. `BadProgram`."""
    if not source:
        raise BadProgram("the source file is empty")
    if b"\0" in source:
        raise BadProgram(
            "the file is an ELF object, not C source; give it as an object"
            if source.startswith(b"\x7fELF")
            else "the source file holds a NUL byte, so it is not C"
        )


def compile_source(
    source: bytes,
    function: str | None,
    attach_type: AttachType,
    *,
    limits: Limits = LIMITS,
    compiler_socket: Path | None = None,
) -> HeldProgram:
    """Compile C with bcc and load one function of it, with all maps of the source. Nothing is attached.

    Args:
        function: its name; None where the source holds exactly one.
        attach_type: what it will be attached as; C says nothing of it.
        compiler_socket: where systemd starts a compiler for each connection; None: start one as a child.

    Raises:
        BadProgram: it does not compile, lacks the function, or takes more time or memory than `limits`.
        VerifierRejected: the kernel's verifier refused it.
        NotSupported: bcc or the kernel's headers are not installed, or nobody listens at the socket.
        Internal: the compiler could not be started, or answered nonsense.
    """
    if compiler_socket is not None:
        return run_helper(compiler_socket, source, function, attach_type, limits=limits)
    reason = unsupported()
    if reason:
        raise NotSupported(reason)
    return run_helper(Spawned(script=_script()), source, function, attach_type, limits=limits)


@functools.cache
def _script() -> bytes:
    return resources.files("bpflinkd").joinpath("compiler.py").read_bytes()


def run_helper(
    way: Way, source: bytes, function: str | None, attach_type: AttachType, *, limits: Limits = LIMITS
) -> HeldProgram:
    """Have it compiled by whatever is there; tests give scripts of their own, and drop nothing."""
    if function is not None and not _IDENTIFIER.fullmatch(function):
        raise BadProgram(f"{function[:80]!r} is not the name of a C function")
    request = {
        "do": "compile",
        "function": function,
        "type": int(attach_type.program_type),
        "attach_type": attach_type.number,
    }
    answer = helper.ask(way, request, source, limits)
    with helper.closed_on_error(answer.fds):
        said = _said(answer, limits)
        if said["kind"] != "loaded":
            raise _refusal(said, function, limits)
        return _held(said, answer, source, function, attach_type)


def _said(answer: Answer, limits: Limits) -> dict[str, Any]:
    """The answer, once there is one that can be read."""
    if isinstance(answer.said, bytes):
        return _parsed(answer.said, answer.log)
    log = _readable(answer.log)
    if answer.said is Ending.LATE:
        raise BadProgram(
            f"the source was still being compiled after {limits.seconds:g} s, so the compiler was "
            "stopped; make it smaller, or compile it to an ELF object yourself",
            log=log,
        )
    if any(sign in log for sign in _MEMORY_SIGNS):
        raise _out_of_memory(log, limits)
    if answer.status is not None:
        raise _death(answer.status, log, limits)
    if answer.said is Ending.UNHEARD:
        raise Internal(f"the compiler process did not start; see {JOURNAL}", log=log)
    raise BadProgram(
        "the compiler ended on this source before it answered: it crashed, or was killed, perhaps for want "
        f"of memory; see {JOURNAL}",
        log=log,
    )


def _death(status: int, log: str, limits: Limits) -> BpflinkdError:
    """Our child ended before it answered."""
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
    said: Mapping[str, Any], answer: Answer, source: bytes, function: str | None, attach_type: AttachType
) -> HeldProgram:
    """The program that came, once all of it is what it has to be."""
    fds, log = answer.fds, answer.log
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
        case "no-bcc" | "headers" as kind:
            return NotSupported(_lack(kind), log=log)
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
