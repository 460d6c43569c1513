"""ELF objects: from bytes to fds of a loaded program and its maps, or to a sentence that says why not.

Runs in the daemon for root's objects, and for those of others in a process that may do no harm
(`bpflinkd/compiler.py`). That one imports this module at each start, so it imports little itself.
"""

import errno
import os
import re
import struct
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from bpflinkd.core import attach_types, maps
from bpflinkd.core.attach_types import AttachType, ProgramType
from bpflinkd.core.errors import (
    BadOption,
    BadProgram,
    BpflinkdError,
    NotSupported,
    VerifierRejected,
    WrongProgramType,
)
from bpflinkd.core.maps import MapShape, MapWishes
from bpflinkd.kernel import btf, libbpf_objects, libbpf_said
from bpflinkd.kernel import confined as confining
from bpflinkd.kernel.confined import Confined

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
_MOST_LISTED: Final = 20
_STATS: Final = 4
"""BPF_LOG_STATS."""
_BEGIN, _END = "-- BEGIN PROG LOAD LOG --\n", "-- END PROG LOAD LOG --"
MOST_LOG: Final = 1 << 17
"""Characters that are kept of the log on a program that is loaded."""
_LOG: Final = re.compile(r"-- BEGIN PROG LOAD LOG --\n(.*?)-- END PROG LOAD LOG --", re.DOTALL)


class Loaded(NamedTuple):
    """A loaded program and its maps. The fds are the receiver's to close."""

    name: str
    """Its function's, not cut to the kernel's 15 characters."""
    fd: int
    declared: AttachType | None
    """What it was loaded to be attached as; None where there is no saying."""
    map_fds: dict[str, int]
    """All maps of the object by name, those of its data sections too."""
    log: str = ""
    """What the verifier wrote on the way, where it was asked to."""


class RunningMap(NamedTuple):
    """A map that the running program uses."""

    shape: MapShape
    fd: int


class Carry(NamedTuple):
    """What the running program leaves to the one that replaces it."""

    running: tuple[RunningMap, ...]
    wishes: MapWishes

    def kept(self, new: Iterable[MapShape]) -> dict[str, int]:
        """The fds of the maps that a new program goes on using, by name. `IncompatibleMaps`, `BadOption`."""
        fds = {each.shape.name: each.fd for each in self.running}
        names = maps.carried([each.shape for each in self.running], new, self.wishes)
        return {name: fds[running] for name, running in names.items()}


def load(
    data: bytes,
    program: str | None,
    attach_type: AttachType | None,
    *,
    given: bool = False,
    ifindex: int = 0,
    confined: Confined | None = None,
    constants: Mapping[str, str] | None = None,
    carry: Carry | None = None,
    log_level: int = 0,
) -> Loaded:
    """Load one program of an ELF object, with all maps of the object. Nothing is pinned or attached.

    Args:
        program: its name; None where the object holds exactly one.
        attach_type: what it will be attached as, where that is known. A program whose section
            says nothing is loaded as this.
        given: the caller chose `attach_type`, so it overrides what the section says.
        ifindex: load it onto this device (offload); 0 for the host.
        confined: what it may be; None for whatever the kernel takes.
        constants: values of global constants, by name, as text.
        carry: what the program that it replaces leaves to it.
        log_level: what the verifier writes where it takes the program: 0 nothing, 1 its numbers, 2 also
            each instruction with what is known there. It refuses a program that it would write too much on.

    Raises:
        BadOption: there is no such constant or map, or the value does not fit.
        IncompatibleMaps: a map that is to be carried over does not fit.
        BadProgram: the object cannot be read, or holds what it may not.
        WrongProgramType: its section says that it goes elsewhere.
        VerifierRejected: the kernel's verifier refused it.
        NotSupported: the kernel does not let us.
        LimitExceeded: it has more or larger maps than `confined` says.
    """
    _check_header(data)
    with libbpf_said.captured() as said:
        try:
            handle = libbpf_objects.object_open(data, "bpflinkd")
        except OSError as error:
            raise BadProgram(
                f"the file is not a BPF object that libbpf can read: {_gist(said()) or error}"
            ) from None
        try:
            chosen = _choose(handle, program)
            name, section = libbpf_objects.program_name(chosen), libbpf_objects.program_section(chosen)
            declared = _settle_type(chosen, name, section, attach_type, given)
            if confined is not None:
                confining.check_opened(handle, chosen, attach_type, confined)
            prepare(handle, chosen, ifindex)
            _set_constants(handle, constants or {})
            if carry is not None:
                _carry_over(handle, carry)
            if log_level:
                libbpf_objects.program_set_log_level(chosen, log_level | _STATS)
            load_prepared(handle, name, said)
            if confined is not None and not confined.kernel_memory:
                # Only now calls are filled in and subprograms there. The program runs nowhere yet.
                confining.check_instructions(name, libbpf_objects.program_instructions(chosen))
            return _received(handle, chosen, name, declared)._replace(
                log=_log_of(said()) if log_level else ""
            )
        finally:
            libbpf_objects.object_close(handle)


def _set_constants(handle: int, values: Mapping[str, str]) -> None:
    if not values:
        return
    known = btf.constants(libbpf_objects.object_btf(handle))
    for name, text in values.items():
        constant = btf.find(known, name)
        value = btf.encode(name, constant, text)
        home = next(
            (m for m in libbpf_objects.maps(handle) if libbpf_objects.map_name(m).endswith(constant.section)),
            None,
        )
        try:
            if home is None:
                raise OSError
            libbpf_objects.map_write_initial_value(home, constant.offset, value)
        except OSError:
            raise BadOption(f"the constant {name!r} lies where the object has no data; set another") from None


def _carry_over(handle: int, carry: Carry) -> None:
    handles = {libbpf_objects.map_name(each): each for each in libbpf_objects.maps(handle)}
    shapes = [
        MapShape(name, *libbpf_objects.map_numbers(each), libbpf_objects.map_flags(each))
        for name, each in handles.items()
    ]
    for name, fd in carry.kept(shapes).items():
        libbpf_objects.map_reuse_fd(handles[name], fd)


def _received(handle: int, chosen: int, name: str, declared: AttachType | None) -> Loaded:
    map_fds: dict[str, int] = {}
    fd = os.dup(libbpf_objects.program_fd(chosen))
    try:
        for handle_of_map in libbpf_objects.maps(handle):
            map_name = libbpf_objects.map_name(handle_of_map)
            if map_name in map_fds:
                raise BadProgram(f"the object has two maps of the name {map_name[:80]!r}; rename one")
            map_fds[map_name] = os.dup(libbpf_objects.map_fd(handle_of_map))
        return Loaded(name, fd, declared, map_fds)
    except BaseException:
        for opened in (fd, *map_fds.values()):
            os.close(opened)
        raise


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


def _choose(handle: int, name: str | None) -> int:
    found = {libbpf_objects.program_name(p): p for p in libbpf_objects.programs(handle)}
    if not found:
        raise BadProgram("the object holds no program")
    if name is None:
        if len(found) > 1:
            raise BadProgram(
                f"the object holds {len(found)} programs; choose one with --program: {_listed(found)}"
            )
        return next(iter(found.values()))
    if name not in found:
        raise BadProgram(f"the object has no program {name[:80]!r}; it has: {_listed(found)}")
    return found[name]


def _listed(names: Iterable[str]) -> str:
    """The first of them: a hostile object has 100,000."""
    known = [name[:80] for name in names]
    more = len(known) - _MOST_LISTED
    return ", ".join(known[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _settle_type(
    program: int, name: str, section: str, attach_type: AttachType | None, given: bool
) -> AttachType | None:
    """Set type and expected_attach_type before loading; returns what the program then declares."""
    declared = attach_types.by_section(section)
    known_type = libbpf_objects.program_type(program)
    if attach_type in attach_types.KPROBES and known_type in (0, ProgramType.KPROBE):
        return _settle_kprobe(program, name, section, attach_type)
    if declared is not None and (attach_type is None or not given):
        # libbpf of Debian 12 does not know the *_unix sections yet: say it in its place.
        libbpf_objects.program_set_type(program, declared.program_type)
        libbpf_objects.program_set_attach_type(program, declared.number)
        return declared
    if attach_type is not None and known_type in (0, attach_type.program_type):
        expected = libbpf_objects.program_attach_type(program)
        elsewhere = attach_types.by_number(expected) is None and expected != 0
        if not elsewhere or given:
            libbpf_objects.program_set_type(program, attach_type.program_type)
            libbpf_objects.program_set_attach_type(program, attach_type.number)
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
    if libbpf_objects.program_may_sleep(program):
        raise WrongProgramType(
            f"program {name!r} may sleep (section {section!r}); where a kprobe hits it may not"
        )
    if any(
        insn & _CALL_MASK == _CALL_OVERRIDE_RETURN for insn in libbpf_objects.program_instructions(program)
    ):
        raise WrongProgramType(
            f"program {name!r} calls bpf_override_return, and the kernel never lets such a program be "
            "dispatched; without that call it can be attached and swapped"
        )
    libbpf_objects.program_set_type(program, attach_type.program_type)
    libbpf_objects.program_set_attach_type(program, attach_type.number)
    return attach_type


def prepare(handle: int, chosen: int, ifindex: int) -> None:
    """Choose what loading an opened object does: one program, all maps, no pins."""
    for program in libbpf_objects.programs(handle):
        libbpf_objects.program_set_autoload(program, program == chosen)
    for bpf_map in libbpf_objects.maps(handle):
        # Maps live under the link; a path that the object names is not ours to touch.
        libbpf_objects.map_forget_pin_path(bpf_map)
        if ifindex:
            libbpf_objects.map_set_ifindex(bpf_map, ifindex)
    if ifindex:
        libbpf_objects.program_set_ifindex(chosen, ifindex)


def load_prepared(handle: int, name: str, said: libbpf_said.Said) -> None:
    """Load an object. `VerifierRejected`, `NotSupported`, `BadProgram`."""
    try:
        libbpf_objects.object_load(handle)
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
            f"the kernel does not let us load program {name!r} (EPERM): it takes CAP_BPF and CAP_NET_ADMIN, "
            "for a kprobe CAP_PERFMON, or CAP_SYS_ADMIN, and a kernel that is not locked down"
        )
    if error.errno in (errno.EOPNOTSUPP, errno.ENOTSUP):
        return NotSupported(f"this kernel or device cannot load program {name!r}: {_gist(text)}")
    return BadProgram(
        f"program {name!r} cannot be loaded: {_gist(text) or os.strerror(error.errno or 0)}",
        log=text.rstrip(),
    )


def _log_of(text: str) -> str:
    """The log on a program that was loaded, the last of several."""
    _, found, rest = text.rpartition(_BEGIN)
    return shortened(rest.partition(_END)[0].rstrip()) if found else ""


def shortened(log: str) -> str:
    """A log that may have megabytes: its beginning, and its end, where the numbers are."""
    left_out = len(log) - MOST_LOG
    if left_out <= 0:
        return log
    half = MOST_LOG // 2
    return f"{log[:half]}\n[{left_out} characters are left out here]\n{log[-half:]}"


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
