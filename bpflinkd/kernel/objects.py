"""ELF objects and the programs that ship with us: from bytes to a held program."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bpflinkd import programs
from bpflinkd.core import attach_types
from bpflinkd.core.attach_types import AttachType
from bpflinkd.core.errors import BadProgram
from bpflinkd.core.model import Confinement
from bpflinkd.core.sources import BUILTINS, MAX_OBJECT, Builtin, Constants, Part, StoredObject
from bpflinkd.kernel import answers, files, helper, libbpf_objects, libbpf_said, loading
from bpflinkd.kernel.helper import LOAD, Limits, Way
from bpflinkd.kernel.loading import Carry
from bpflinkd.kernel.program import HeldProgram

_LONGEST_NAME: Final = 80


def read_object(fd: int, *, sealed: bool = False, part: Part | None = None) -> bytes:
    """The bytes of the object file that a caller sent. Copied: later writes do not matter. `BadProgram`.

    Args:
        sealed: it must be a sealed memfd; see `files.read_sealed`.
        part: where it is in the file.
    """
    return (files.read_sealed if sealed else files.read_file)(fd, "object", MAX_OBJECT, part)


def load(
    data: bytes,
    program: str | None,
    attach_type: AttachType | None,
    *,
    given: bool = False,
    ifindex: int = 0,
    constants: Constants = (),
    carry: Carry | None = None,
    log_level: int = 0,
) -> HeldProgram:
    """Load one program of an ELF object of root's here, with all maps of the object.

    Arguments and errors are those of `loading.load`.
    """
    loaded = loading.load(
        data,
        program,
        attach_type,
        given=given,
        ifindex=ifindex,
        constants=dict(constants),
        carry=carry,
        log_level=log_level,
    )
    with helper.closed_on_error([loaded.fd, *loaded.map_fds.values()]):
        held = _held(loaded.fd, loaded.name, data, loaded.declared, loaded.map_fds, constants)
        held.log = loaded.log
        return held


def load_confined(
    data: bytes,
    program: str | None,
    attach_type: AttachType | None,
    confined: Confinement,
    *,
    given: bool = False,
    constants: Constants = (),
    carry: Carry | None = None,
    limits: Limits,
    compiler_socket: Path | None = None,
    log_level: int = 0,
) -> HeldProgram:
    """The same of somebody else's object: it is read and loaded by a process that can do little else.

    Args:
        confined: with what limits on its maps, and whether with CAP_PERFMON.
        limits: what the process may use up.
        compiler_socket: where systemd starts one for each connection; None: start one as a child.

    Raises:
        LimitExceeded: its maps are more, or larger, than `confined` lets them be.
        Internal: the process could not be started, or answered nonsense.
        BpflinkdError: as `loading.load`; a process that crashes on the object is `BadProgram`.
    """
    way = helper.way(compiler_socket)
    return run_helper(
        way,
        data,
        program,
        attach_type,
        confined,
        given=given,
        constants=constants,
        carry=carry,
        limits=limits,
        log_level=log_level,
    )


def run_helper(
    way: Way,
    data: bytes,
    program: str | None,
    attach_type: AttachType | None,
    confined: Confinement,
    *,
    given: bool,
    constants: Constants = (),
    carry: Carry | None = None,
    limits: Limits,
    log_level: int = 0,
) -> HeldProgram:
    """Have it loaded by whatever is there; tests give scripts of their own, and drop nothing."""
    if program is not None and len(program) > _LONGEST_NAME:
        raise BadProgram(
            f"the program's name begins with {program[:80]!r} and has {len(program)} characters; at most "
            f"{_LONGEST_NAME} are accepted"
        )
    request = {
        "do": "load",
        "program": program,
        "type": attach_type and int(attach_type.program_type),
        "attach_type": attach_type and attach_type.number,
        "given": given,
        "perfmon": confined.kernel_memory,
        "maps": confined.maps,
        "map_memory": confined.memory,
        "constants": dict(constants),
        "log_level": log_level,
    }
    answer = helper.ask(way, LOAD, request, data, limits, carry)
    with helper.closed_on_error(answer.fds):
        said = answers.said(answer, LOAD, limits)
        if said["kind"] != "loaded":
            raise answers.failure(said, LOAD, limits)
        came = answers.received(
            said,
            answer,
            LOAD,
            function=program,
            program_type=attach_type.program_type if attach_type else None,
            confined=confined,
        )
        held = _held(came.fd, came.name, data, None, came.map_fds, constants)
        held.log = str(said["log"])
        # The loader's word for what the program is to be attached as; `fits` asks the kernel.
        told = said.get("declared")
        held.declared = next(
            (a for a in attach_types.of_program_type(held.info.type) if a.number == told), None
        )
        return held


def _held(
    fd: int,
    name: str,
    data: bytes,
    declared: AttachType | None,
    map_fds: Mapping[str, int],
    constants: Constants,
) -> HeldProgram:
    source = StoredObject(sha256=hashlib.sha256(data).hexdigest(), program=name, constants=constants)
    return HeldProgram(fd, source, declared=declared, image=data, map_fds=map_fds)


def load_builtin(source: Builtin, attach_type: AttachType) -> HeldProgram:
    """Load the built-in `pass` for an attach type."""
    if source.name not in BUILTINS:
        raise BadProgram(
            f"there is no built-in program {source.name[:80]!r}; there is: {', '.join(BUILTINS)}"
        )
    data = programs.image(source.name)
    with libbpf_said.captured() as said:
        handle = libbpf_objects.object_open(data, "bpflinkd")
        try:
            wanted = f"pass/{attach_type.program_type.name.lower()}"
            chosen = next(
                p for p in libbpf_objects.programs(handle) if libbpf_objects.program_section(p) == wanted
            )
            loading.prepare(handle, chosen, 0)
            libbpf_objects.program_set_type(chosen, attach_type.program_type)
            libbpf_objects.program_set_attach_type(chosen, attach_type.number)
            loading.load_prepared(handle, "pass", said)
            return HeldProgram(os.dup(libbpf_objects.program_fd(chosen)), source, declared=attach_type)
        finally:
            libbpf_objects.object_close(handle)
