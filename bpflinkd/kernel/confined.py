"""What an object that is not root's may not ask for, though the kernel might give it."""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from bpflinkd.core.attach_types import AttachType, ProgramType
from bpflinkd.core.errors import BadProgram, WrongProgramType
from bpflinkd.core.maps import MapShape
from bpflinkd.kernel import libbpf_objects, maps
from bpflinkd.kernel.maps import MapLimits

_NAME: Final = re.compile(r"[A-Za-z0-9_.$]{1,80}")
_KIND_MASK: Final = 0xF0FF
"""Of a little-endian `struct bpf_insn`: code and source register."""
_CALL_KFUNC: Final = 0x2085
"""BPF_JMP | BPF_CALL with BPF_PSEUDO_KFUNC_CALL."""
_LOAD_KERNEL_VARIABLE: Final = 0x3018
"""BPF_LD | BPF_IMM | BPF_DW with BPF_PSEUDO_BTF_ID."""


class Confined(NamedTuple):
    """How an object is loaded that is not root's."""

    limits: MapLimits
    kernel_memory: bool
    """It may call functions of the kernel and read its variables."""


def check_opened(handle: int, chosen: int, attach_type: AttachType | None, confined: Confined) -> None:
    """Refuse what an opened object would have created.

    Args:
        chosen: the program that is to be loaded; its type is settled.
        attach_type: what it will be attached as; None for whatever it says itself.

    Raises:
        WrongProgramType: its type is another.
        BadProgram: a map has a path or a type that only root's may have; a name could be mistaken.
        LimitExceeded: its maps are more or larger than granted.
    """
    name = libbpf_objects.program_name(chosen)
    taken = tuple(ProgramType) if attach_type is None else (attach_type.program_type,)
    if libbpf_objects.program_type(chosen) not in taken:
        # Programs of some types are made for another program, or for a function of the kernel that they name.
        place = f"as {attach_type}" if attach_type else "to a cgroup"
        raise WrongProgramType(
            f"program {name[:80]!r} is in section {libbpf_objects.program_section(chosen)[:80]!r}, so it "
            f"cannot be attached {place}; compile it in the section of what it is attached to"
        )
    shapes = [
        MapShape(libbpf_objects.map_name(each), *libbpf_objects.map_numbers(each))
        for each in libbpf_objects.maps(handle)
    ]
    for word in (name, *(shape.name for shape in shapes)):
        if not _NAME.fullmatch(word):
            raise BadProgram(
                f"the object has a program or map named {word[:80]!r}; give it a name of 1 to 80 of the "
                "characters A-Z a-z 0-9 _ . $"
            )
    pinned = next(
        (
            libbpf_objects.map_name(each)
            for each in libbpf_objects.maps(handle)
            if libbpf_objects.map_has_pin_path(each)
        ),
        None,
    )
    if pinned is not None:
        raise BadProgram(
            f"map {pinned!r} asks to be pinned by its name, which only root's may: maps are pinned under "
            "their link; compile it without the attribute 'pinning'"
        )
    maps.check(shapes, confined.limits, libbpf_objects.possible_cpus())


def check_instructions(name: str, instructions: Iterable[int]) -> None:
    """Refuse calls of functions of the kernel, and its variables, where kernel memory is not granted.

    Some of these functions read any memory of the kernel, and it asks no capability for them: 6.18 takes
    bpf_rdonly_cast() to void from whoever has CAP_BPF, and a test tries it. All are refused, so that new ones
    need no list here.

    Args:
        instructions: as the kernel got or will get them, with calls filled in and all subprograms.

    Raises:
        BadProgram: one is such a call or variable.
    """
    if any(insn & _KIND_MASK in (_CALL_KFUNC, _LOAD_KERNEL_VARIABLE) for insn in instructions):
        raise BadProgram(
            f"program {name[:80]!r} calls a function of the kernel that is no helper (a kfunc), or uses a "
            "variable of the kernel; some of these read any kernel memory, so the grant must say "
            "kernel-memory = true"
        )
