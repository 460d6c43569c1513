"""ELF objects: from bytes to a loaded program with its maps, or to a sentence that says why not."""

import errno
import hashlib
import os
import re
import stat
import struct
from typing import Final

from bpflinkd import programs
from bpflinkd.core import attach_types
from bpflinkd.core.attach_types import AttachType, ProgramType
from bpflinkd.core.errors import (
    BadProgram,
    BpflinkdError,
    NotSupported,
    VerifierRejected,
    WrongProgramType,
)
from bpflinkd.core.sources import BUILTINS, MAX_OBJECT, Builtin, Source, StoredObject
from bpflinkd.kernel import libbpf
from bpflinkd.kernel.program import HeldProgram

_EM_BPF: Final = 247
_MACHINES: Final = {3: "x86", 40: "ARM", 62: "x86-64", 183: "AArch64", 243: "RISC-V"}
# Sections of programs that are of a kprobe's type and go elsewhere, or run differently.
_NOT_KPROBES: Final = frozenset(
    {"uprobe", "uretprobe", "usdt", "uprobe.s", "uretprobe.s", "usdt.s", "uprobe.multi", "uretprobe.multi"}
    | {"uprobe.multi.s", "uretprobe.multi.s", "uprobe.session", "uprobe.session.s", "kprobe.session"}
)
_CALL_MASK: Final = 0xFFFF_FFFF_0000_F0FF
"""Of a little-endian `struct bpf_insn`: code, source register and imm."""
_CALL_OVERRIDE_RETURN: Final = 0x3A_0000_0085
"""BPF_JMP | BPF_CALL of a helper, number 58."""
_LOG: Final = re.compile(r"-- BEGIN PROG LOAD LOG --\n(.*?)-- END PROG LOAD LOG --", re.DOTALL)


def read_file(fd: int, what: str = "object", most: int = MAX_OBJECT) -> bytes:
    """The bytes of the file that a caller sent. Copied: later writes do not matter."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise BadProgram(f"the {what} is not a regular file")
    if status.st_size > most:
        raise BadProgram(f"the {what} file has {status.st_size} bytes; at most {most} are accepted")
    try:
        return os.pread(fd, most, 0)
    except OSError as error:
        raise BadProgram(f"the {what} file cannot be read: {os.strerror(error.errno or 0)}") from None


def load(
    data: bytes,
    program: str | None,
    attach_type: AttachType | None,
    *,
    given: bool = False,
    ifindex: int = 0,
) -> HeldProgram:
    """Load one program of an ELF object, with all maps of the object.

    Args:
        program: its name; None where the object holds exactly one.
        attach_type: what it will be attached as, where that is known. A program whose section
            says nothing is loaded as this.
        given: the caller chose `attach_type`, so it overrides what the section says.
        ifindex: load it onto this device (offload); 0 for the host.
    """
    _check_header(data)
    with libbpf.captured() as said:
        try:
            handle = libbpf.object_open(data, "bpflinkd")
        except OSError as error:
            raise BadProgram(
                f"the file is not a BPF object that libbpf can read: {_gist(said()) or error}"
            ) from None
        try:
            return _load_opened(handle, data, program, attach_type, given, ifindex, said)
        finally:
            libbpf.object_close(handle)


def load_builtin(source: Builtin, attach_type: AttachType) -> HeldProgram:
    """Load the built-in `pass` for an attach type."""
    if source.name not in BUILTINS:
        raise BadProgram(
            f"there is no built-in program {source.name[:80]!r}; there is: {', '.join(BUILTINS)}"
        )
    data = programs.image(source.name)
    with libbpf.captured() as said:
        handle = libbpf.object_open(data, "bpflinkd")
        try:
            wanted = f"pass/{attach_type.program_type.name.lower()}"
            chosen = next(p for p in libbpf.programs(handle) if libbpf.program_section(p) == wanted)
            _prepare(handle, chosen, 0)
            libbpf.program_set_type(chosen, attach_type.program_type)
            libbpf.program_set_attach_type(chosen, attach_type.number)
            _load_prepared(handle, "pass", said)
            return HeldProgram(os.dup(libbpf.program_fd(chosen)), source, declared=attach_type)
        finally:
            libbpf.object_close(handle)


def _check_header(data: bytes) -> None:
    """The first 20 bytes of an ELF file, so that the commonest mistakes get a plain answer."""
    if not data:
        raise BadProgram("the object file is empty")
    if data[:4] != b"\x7fELF":
        raise BadProgram(
            "the file is not an ELF object; compile the source with: clang -O2 -g -target bpf -c"
        )
    if len(data) < 64:
        raise BadProgram("the object file is truncated: it ends within the ELF header")
    order = "<" if data[5] == 1 else ">"
    (machine,) = struct.unpack_from(f"{order}H", data, 18)
    if machine not in (0, _EM_BPF):
        name = _MACHINES.get(machine, f"machine {machine}")
        raise BadProgram(
            f"the object is compiled for {name}, not for BPF; compile it with: clang -target bpf"
        )


def _load_opened(
    handle: int,
    data: bytes,
    name: str | None,
    attach_type: AttachType | None,
    given: bool,
    ifindex: int,
    said: libbpf.Said,
) -> HeldProgram:
    chosen = _choose(handle, name)
    full_name = libbpf.program_name(chosen)
    section = libbpf.program_section(chosen)
    declared = _settle_type(chosen, full_name, section, attach_type, given)
    _prepare(handle, chosen, ifindex)
    _load_prepared(handle, full_name, said)
    digest = hashlib.sha256(data).hexdigest()
    source: Source = StoredObject(sha256=digest, program=full_name)
    map_fds: dict[str, int] = {}
    fd = os.dup(libbpf.program_fd(chosen))
    try:
        for handle_of_map in libbpf.maps(handle):
            map_fds[libbpf.map_name(handle_of_map)] = os.dup(libbpf.map_fd(handle_of_map))
        return HeldProgram(fd, source, declared=declared, image=data, map_fds=map_fds)
    except BaseException:
        for opened in (fd, *map_fds.values()):
            os.close(opened)
        raise


def _choose(handle: int, name: str | None) -> int:
    found = {libbpf.program_name(p): p for p in libbpf.programs(handle)}
    if not found:
        raise BadProgram("the object holds no program")
    listed = ", ".join(found)
    if name is None:
        if len(found) > 1:
            raise BadProgram(f"the object holds {len(found)} programs; choose one with --program: {listed}")
        return next(iter(found.values()))
    if name not in found:
        raise BadProgram(f"the object has no program {name[:80]!r}; it has: {listed}")
    return found[name]


def _settle_type(
    program: int, name: str, section: str, attach_type: AttachType | None, given: bool
) -> AttachType | None:
    """Set type and expected_attach_type before loading; returns what the program then declares."""
    declared = attach_types.by_section(section)
    known_type = libbpf.program_type(program)
    if attach_type in attach_types.KPROBES and known_type in (0, ProgramType.KPROBE):
        return _settle_kprobe(program, name, section, attach_type)
    if declared is not None and (attach_type is None or not given):
        # libbpf of Debian 12 does not know the *_unix sections yet: say it in its place.
        libbpf.program_set_type(program, declared.program_type)
        libbpf.program_set_attach_type(program, declared.number)
        return declared
    if attach_type is not None and known_type in (0, attach_type.program_type):
        expected = libbpf.program_attach_type(program)
        elsewhere = attach_types.by_number(expected) is None and expected != 0
        if not elsewhere or given:
            libbpf.program_set_type(program, attach_type.program_type)
            libbpf.program_set_attach_type(program, attach_type.number)
            return attach_type
        raise WrongProgramType(
            f"program {name!r} is in section {section!r}, so it cannot be attached as {attach_type}"
        )
    if known_type == 0:
        raise BadProgram(
            f"program {name!r} is in section {section!r}, which does not tell its type; "
            "give --attach-type, or compile it in a section such as xdp or cgroup_skb/egress"
        )
    return None


def _settle_kprobe(program: int, name: str, section: str, attach_type: AttachType) -> AttachType:
    """A kprobe's target says where it goes: one function or many, entry or return, are one program type."""
    kind = section.removeprefix("?").partition("/")[0]
    if kind in _NOT_KPROBES:
        raise WrongProgramType(
            f"program {name!r} is in section {section!r}, so it is no kprobe's; compile it in section kprobe"
        )
    if libbpf.program_may_sleep(program):
        raise WrongProgramType(
            f"program {name!r} may sleep (section {section!r}); where a kprobe hits it may not"
        )
    if any(insn & _CALL_MASK == _CALL_OVERRIDE_RETURN for insn in libbpf.program_instructions(program)):
        raise WrongProgramType(
            f"program {name!r} calls bpf_override_return, and the kernel never lets such a program be "
            "dispatched; without that call it can be attached and swapped"
        )
    libbpf.program_set_type(program, attach_type.program_type)
    libbpf.program_set_attach_type(program, attach_type.number)
    return attach_type


def _prepare(handle: int, chosen: int, ifindex: int) -> None:
    for program in libbpf.programs(handle):
        libbpf.program_set_autoload(program, program == chosen)
    for bpf_map in libbpf.maps(handle):
        # Maps live under the link; a path that the object names is not ours to touch.
        libbpf.map_forget_pin_path(bpf_map)
        if ifindex:
            libbpf.map_set_ifindex(bpf_map, ifindex)
    if ifindex:
        libbpf.program_set_ifindex(chosen, ifindex)


def _load_prepared(handle: int, name: str, said: libbpf.Said) -> None:
    try:
        libbpf.object_load(handle)
    except OSError as error:
        raise _load_error(name, error, said()) from None


def _load_error(name: str, error: OSError, text: str) -> BpflinkdError:
    logs = _LOG.findall(text)
    if logs:
        log = logs[-1].rstrip()
        return VerifierRejected(
            f"the verifier refused program {name!r}: {verdict(log)}; its log follows", log=log
        )
    if error.errno == errno.EPERM:
        return NotSupported(
            f"the kernel does not let us load program {name!r} (EPERM): bpflinkd needs CAP_BPF and "
            "CAP_NET_ADMIN, or CAP_SYS_ADMIN"
        )
    if error.errno in (errno.EOPNOTSUPP, errno.ENOTSUP):
        return NotSupported(f"this kernel or device cannot load program {name!r}: {_gist(text)}")
    return BadProgram(
        f"program {name!r} cannot be loaded: {_gist(text) or os.strerror(error.errno or 0)}",
        log=text.rstrip(),
    )


def verdict(log: str) -> str:
    """The verifier's last word: the last line that is not statistics."""
    lines = [
        line.strip()
        for line in log.splitlines()
        if line.strip() and not re.match(r"(processed|verification time|stack depth) ", line)
    ]
    return lines[-1][:300] if lines else "it gave no reason"


def _gist(text: str) -> str:
    """The first line of what libbpf said, without its prefixes."""
    for line in text.splitlines():
        clean = line.strip().removeprefix("libbpf: ")
        if clean:
            return clean[:300]
    return ""
