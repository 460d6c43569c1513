"""C source for bcc: from bytes to a loaded program with its maps, or to a sentence that says why not.

Clang reads what anybody may write, so it runs in a process of its own (`bpflinkd/compiler.py`), unprivileged
but for the capabilities that loading takes, and its answer is not trusted. The daemon never imports bcc.
"""

import errno
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bpflinkd import compiler
from bpflinkd.core.attach_types import AttachType
from bpflinkd.core.errors import BadProgram, BpflinkdError, NotSupported, VerifierRejected
from bpflinkd.core.model import Confinement
from bpflinkd.core.sources import MAX_SOURCE, Part, StoredSource
from bpflinkd.kernel import answers, files, helper, loading
from bpflinkd.kernel.answers import JOURNAL
from bpflinkd.kernel.helper import COMPILE, Limits, Way
from bpflinkd.kernel.loading import Carry
from bpflinkd.kernel.program import HeldProgram

LIMITS: Final = Limits()
_PROBE_LIMITS: Final = Limits(seconds=10.0)

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_ERROR: Final = re.compile(r"^(\S+:\d+:\d+): (?:fatal )?error: (.*)$", re.MULTILINE)


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
        answer = helper.ask(compiler_socket, COMPILE, {"do": "probe"}, b"", _PROBE_LIMITS)
    except BpflinkdError as error:
        return str(error)
    for fd in answer.fds:
        os.close(fd)
    if not isinstance(answer.said, bytes):
        return f"C source cannot be compiled: the compiler process did not answer; see {JOURNAL}"
    try:
        said = answers.said(answer, COMPILE, _PROBE_LIMITS)
    except BpflinkdError as error:
        return str(error)
    return "" if said["kind"] == "ready" else str(_refusal(said, None, _PROBE_LIMITS))


def _lack(kind: str) -> str:
    if kind == "no-bcc":
        return "C source cannot be compiled: bcc is not there; install the package python3-bpfcc"
    release = os.uname().release
    return (
        f"C source cannot be compiled: the headers of the running kernel ({release}) are not there; "
        f"install the package linux-headers-{release}"
    )


def read_source(fd: int, *, sealed: bool = False, part: Part | None = None) -> bytes:
    """The bytes of the source file that a caller sent. Copied: later writes do not matter.

    Args:
        sealed: it must be a sealed memfd; see `files.read_sealed`.
        part: where it is in the file.
    """
    source = (files.read_sealed if sealed else files.read_file)(fd, "source", MAX_SOURCE, part)
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
    confined: Confinement | None = None,
    carry: Carry | None = None,
    limits: Limits = LIMITS,
    compiler_socket: Path | None = None,
    log_level: int = 0,
) -> HeldProgram:
    """Compile C with bcc and load one function of it, with all maps of the source. Nothing is attached.

    Args:
        function: its name; None where the source holds exactly one.
        attach_type: what it will be attached as; C says nothing of it.
        confined: with what limits, and whether with CAP_PERFMON; None: as root's.
        carry: what the program that it replaces leaves to it.
        compiler_socket: where systemd starts a compiler for each connection; None: start one as a child.
        log_level: as for `loading.load`.

    Raises:
        BadProgram: it does not compile, lacks the function, or takes more time or memory than `limits`.
        VerifierRejected: the kernel's verifier refused it.
        LimitExceeded: its maps are more, or larger, than `confined` lets them be.
        NotSupported: bcc or the kernel's headers are not installed, or nobody listens at the socket.
        Internal: the compiler could not be started, or answered nonsense.
    """
    if compiler_socket is None:
        reason = unsupported()
        if reason:
            raise NotSupported(reason)
    way = helper.way(compiler_socket)
    return run_helper(
        way,
        source,
        function,
        attach_type,
        confined=confined,
        carry=carry,
        limits=limits,
        log_level=log_level,
    )


def run_helper(
    way: Way,
    source: bytes,
    function: str | None,
    attach_type: AttachType,
    *,
    confined: Confinement | None = None,
    carry: Carry | None = None,
    limits: Limits = LIMITS,
    log_level: int = 0,
) -> HeldProgram:
    """Have it compiled by whatever is there; tests give scripts of their own, and drop nothing."""
    if function is not None and not _IDENTIFIER.fullmatch(function):
        raise BadProgram(f"{function[:80]!r} is not the name of a C function")
    request = {
        "do": "compile",
        "function": function,
        "type": int(attach_type.program_type),
        "attach_type": attach_type.number,
        "perfmon": confined is None or confined.kernel_memory,
        "log_level": log_level,
    }
    answer = helper.ask(way, COMPILE, request, source, limits, carry)
    with helper.closed_on_error(answer.fds):
        said = answers.said(answer, COMPILE, limits)
        if said["kind"] != "loaded":
            raise _refusal(said, function, limits)
        kind = attach_type.program_type
        came = answers.received(
            said, answer, COMPILE, function=function, program_type=kind, confined=confined
        )
        held = HeldProgram(
            came.fd,
            StoredSource(sha256=hashlib.sha256(source).hexdigest(), program=came.name),
            declared=attach_type,
            image=source,
            map_fds=came.map_fds,
        )
        held.log = str(said["log"])
        return held


def _refusal(said: Mapping[str, Any], function: str | None, limits: Limits) -> BpflinkdError:
    log = str(said["log"])
    called = repr(answers.readable(str(said.get("function", "")).encode(errors="replace"))[:128])
    match said["kind"]:
        case "compile":
            return _compile_error(log)
        case "maps":
            return BadProgram(f"a map of the source cannot be created: {_last_line(log)}", log=log)
        case "no-function":
            return _no_function(said.get("functions"), function)
        case "verifier":
            return VerifierRejected(
                f"the verifier refused program {called}: {loading.verdict(log)}; its log follows", log=log
            )
        case "load":
            code = said.get("errno")
            if code == errno.EPERM:
                return NotSupported(
                    f"the kernel does not let the compiler process load program {called} (EPERM): it needs "
                    "CAP_BPF and CAP_NET_ADMIN, for a kprobe CAP_PERFMON, and a kernel that is not locked "
                    "down",
                    log=log,
                )
            return BadProgram(f"the kernel does not load program {called}: {answers.reason(code)}", log=log)
        case "no-bcc" | "headers" as kind:
            return NotSupported(_lack(kind), log=log)
        case _:
            return answers.failure(said, COMPILE, limits)


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
    listed = answers.readable(", ".join(names).encode(errors="replace"))
    if not names:
        return BadProgram("the source holds no function that is not static, so there is nothing to attach")
    if function is None:
        return BadProgram(f"the source holds {len(names)} functions; choose one with --program: {listed}")
    return BadProgram(f"the source has no function {function!r}; it has: {listed}")
