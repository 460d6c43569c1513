"""A request, the record and the status: in; actions or a refusal: out. Pure.

Every check that can refuse is here or in parsing, and has passed before the first action.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

from bpflinkd.core import attach_types, patterns
from bpflinkd.core.actions import (
    Action,
    CreateLink,
    EndLink,
    ForgetPrograms,
    KeepProgram,
    Promote,
    RemovePins,
    RemoveRecord,
    RenamePins,
    RenameRecord,
    SaveDone,
    SaveEnding,
    SaveIntent,
    StageProgram,
    SwapLink,
)
from bpflinkd.core.attach_types import AttachType
from bpflinkd.core.callers import Caller
from bpflinkd.core.errors import (
    BadTarget,
    HookBusy,
    HookGone,
    StaleGeneration,
    WrongProgramType,
)
from bpflinkd.core.ids import NO_PROGRAM, ProgId, UnixMicros
from bpflinkd.core.model import (
    Confinement,
    Generation,
    Hold,
    Lifetime,
    Occupant,
    Outcome,
    ProgramInfo,
    Record,
    Status,
)
from bpflinkd.core.ports import Program
from bpflinkd.core.requests import AdoptRequest, AttachRequest, ReplaceRequest, RollbackRequest
from bpflinkd.core.sources import Builtin, PinnedProgram, Source, StoredObject, StoredSource
from bpflinkd.core.targets import (
    CgroupPlace,
    CgroupTarget,
    Hook,
    KprobeMultiTarget,
    KprobeTarget,
    Target,
    WantedTarget,
    XdpTarget,
)


def check_expected(record: Record, expect: int | None) -> None:
    """Refuse a lost update."""
    current = record.generation
    if expect is not None and expect != current.number:
        raise StaleGeneration(
            f"link {record.name!r} is at generation {current.number} (program {current.program.name}), "
            f"not at {expect}: somebody replaced it since; look at it again before replacing"
        )


def _type_name(number: int) -> str:
    try:
        return attach_types.ProgramType(number).name.lower()
    except ValueError:
        return f"type {number}"


def _check_type(program: Program, wanted: AttachType, target: WantedTarget, name: str = "") -> None:
    """Type and expected_attach_type, compared by us: the kernel compares the latter only for XDP.

    Args:
        name: of the link that there is; empty where it is to be made.
    """
    info = program.info
    if info.type == wanted.program_type and program.declared in (None, wanted) and program.fits(wanted):
        return
    place = f"link {name!r} on {target}" if name else str(target)
    if info.type != wanted.program_type:
        raise WrongProgramType(
            f"program {info.name!r} is of type {_type_name(info.type)}, but {place} takes "
            f"{_type_name(wanted.program_type)} programs"
        )
    declared = program.declared
    if wanted in attach_types.KPROBES and not program.fits(wanted):
        raise WrongProgramType(
            f"program {info.name!r} cannot be dispatched for {place}: the kernel does not take it into the "
            f"slot, because it was loaded with an expected_attach_type other than that of a {wanted}, "
            "calls bpf_override_return, or may sleep"
        )
    actual = declared or next((a for a in attach_types.of_program_type(info.type) if program.fits(a)), None)
    raise WrongProgramType(
        f"program {info.name!r} was loaded with the expected_attach_type {actual or 'of another hook'}, "
        f"but {place} takes {wanted}"
    )


def settle_target(wanted: WantedTarget, program: Program) -> Target:
    """The target with its attach type, taken from the program where the caller gave none."""
    if isinstance(wanted, CgroupPlace):
        return CgroupTarget(path=wanted.path, attach_type=_told_by(program, wanted))
    _check_type(program, wanted.attach_type, wanted)
    return wanted


def _told_by(program: Program, place: CgroupPlace) -> AttachType:
    info = program.info
    candidates = [a for a in attach_types.CGROUP_ATTACH_TYPES if a.program_type == info.type]
    if not candidates:
        raise WrongProgramType(
            f"program {info.name!r} is of type {_type_name(info.type)}, which no cgroup takes"
        )
    if program.declared is not None:
        _check_type(program, program.declared, place)
        return program.declared
    fitting = [a for a in candidates if program.fits(a)]
    if len(fitting) != 1:
        names = ", ".join(a.name for a in (fitting or candidates))
        raise BadTarget(
            f"program {info.name!r} does not say where on {place} it belongs; give --attach-type "
            f"with one of: {names}"
        )
    return fitting[0]


def busy(target: Target, occupant: Occupant, ours: str | None = None) -> HookBusy:
    """The refusal to evict a stranger, or another link of ours, naming it."""
    if ours is not None:
        return HookBusy(f"{target} is held by our own link {ours!r}; replace that one, or detach it first")
    return HookBusy(
        f"{target} is held by {occupant}; we do not evict it: detach it with the tool that attached it"
    )


def gone(target: WantedTarget) -> str:
    """The sentence for a target that is not there."""
    match target:
        case XdpTarget():
            return f"there is no interface {target.interface!r}"
        case CgroupTarget() | CgroupPlace():
            return f"there is no cgroup {target.path}"
        case KprobeTarget():
            return f"there is no function {target.symbol!r} in this kernel or its loaded modules"
        case KprobeMultiTarget():
            return f"no function that can be traced matches {target.pattern!r}"
        case _:
            assert_never(target)


def check_target_there(target: WantedTarget, hook: Hook | None, *, wait: bool) -> None:
    """A target that is missing is accepted only when the caller wants to wait for it."""
    name = (
        target.interface
        if isinstance(target, XdpTarget)
        else target.path
        if isinstance(target, CgroupTarget | CgroupPlace)
        else ""
    )
    if hook is None and patterns.is_pattern(name):
        raise BadTarget(
            f"{target} is a pattern, and a link has one target: for one link a match, declare a template "
            "in a file of /etc/bpflinkd/links.d"
        )
    if hook is None and not wait:
        raise HookGone(f"{gone(target)}; with --wait the link attaches when it appears")


def attach(
    request: AttachRequest,
    target: Target,
    program: Program,
    hook: Hook | None,
    now: UnixMicros,
    confined: Confinement | None = None,
    fallback: Program | None = None,
) -> tuple[Record, Sequence[Action]]:
    """Make a new link. The target is settled, the name and the hook are known to be free.

    Args:
        confined: how the program was loaded.
        fallback: what is to run once the holder's connection is gone.
    """
    held = request.held
    hold = None
    if held is not None:
        after = fallback.source if fallback is not None else None
        hold = Hold(holder=request.caller.name, bus=held.bus, grace=held.grace, fallback=after)
    record = replace(
        _first(
            request,
            target,
            _generation(1, program, request.caller, now, confined=confined, message=request.message),
        ),
        lifetime=request.lifetime,
        hook=hook,
        origin=request.origin,
        hold=hold,
    )
    later = fallback.image if fallback is not None else None
    steps: list[Action] = [
        SaveIntent(record=record, image=program.image, fallback=later),
        StageProgram(name=record.name, program=program),
    ]
    if hook is not None:
        steps.append(CreateLink(record=record, hook=hook, program=program))
    return record, (*steps, SaveDone(record=record), Promote(name=record.name))


def adopted(
    request: AdoptRequest, target: Target, program: Program, hook: Hook | None, now: UnixMicros, message: str
) -> Record:
    """The record of what somebody else attached; `hook` is None while ours is not there yet."""
    generation = _generation(1, program, request.caller, now, message=message)
    return replace(_first(request, target, generation), hook=hook)


def _first(request: AttachRequest | AdoptRequest, target: Target, generation: Generation) -> Record:
    return Record(
        name=request.name,
        target=target,
        owner=request.owner or request.caller.user,
        policy=request.policy,
        lifetime=Lifetime.PINNED,
        created=generation.since,
        generation=generation,
    )


def _generation(
    number: int,
    program: Program,
    caller: Caller,
    now: UnixMicros,
    *,
    confined: Confinement | None = None,
    message: str = "",
) -> Generation:
    return Generation(
        number=number,
        program=program.info,
        source=program.source,
        since=now,
        by=caller.actor,
        confinement=confined,
        message=message,
    )


def replacement(
    record: Record,
    request: ReplaceRequest,
    program: Program,
    now: UnixMicros,
    confined: Confinement | None = None,
) -> Record:
    """The record after a replace, once the program is known to fit the link.

    Args:
        confined: how the program was loaded.
    """
    _check_type(program, record.target.attach_type, record.target, record.name)
    number = record.generation.number + 1
    return replace(
        record,
        generation=_generation(
            number, program, request.caller, now, confined=confined, message=request.message
        ),
        origin=record.origin if request.origin is None else request.origin,
        trial=None,
    )


def returned(
    record: Record, request: RollbackRequest, generation: Generation, program: Program, now: UnixMicros
) -> Record:
    """The record after a rollback to a generation, whose program is at hand."""
    _check_type(program, record.target.attach_type, record.target, record.name)
    again = replace(generation, program=program.info)
    return brought_back(record, again, request.caller, request.message, now)


def brought_back(
    record: Record, generation: Generation, caller: Caller, message: str, now: UnixMicros
) -> Record:
    """The record with a generation before as its present one, whose program may have to be loaded yet."""
    again = replace(
        generation,
        number=record.generation.number + 1,
        since=now,
        by=caller.actor,
        message=message,
        of=generation.of or generation.number,
        outcome=None,
    )
    return replace(record, generation=again, trial=None)


def can_be_loaded(source: Source) -> bool:
    """Whether a program can be had again from where it came."""
    return isinstance(source, StoredObject | StoredSource | PinnedProgram | Builtin)


def is_loaded_elsewhere(generation: Generation) -> bool:
    """Whether another process compiles or loads its program, where it is not loaded still."""
    source = generation.source
    confined = isinstance(source, StoredObject) and generation.confinement is not None
    return confined or isinstance(source, StoredSource)


def swap(
    after: Record,
    status: Status,
    program: Program,
    expected: ProgramInfo,
    running: Program | None,
    left: Outcome,
) -> tuple[Record, Sequence[Action]]:
    """Put a new generation in place: swap a live link, attach anew where ours is gone.

    Args:
        expected: the program we believe runs there; the kernel compares it in the swap.
        running: the same, held; None where it is lost.
        left: what becomes of the generation before.

    Returns:
        The record as it will be, with the hook that the link then holds.
    """
    name = after.name
    keep = KeepProgram(name=name, number=after.generation.number - 1, program=running) if running else None
    prepare: tuple[Action, ...] = (
        SaveIntent(record=after, image=program.image),
        *((keep,) if keep else ()),
        StageProgram(name=name, program=program),
    )
    finish = (
        SaveDone(record=after, left=left),
        Promote(name=name),
        ForgetPrograms(name=name, number=after.generation.number),
    )
    runs = running_in(name, status, expected)
    if runs is not None:
        step: Action = SwapLink(name=name, expected=runs, program=program)
        return after, (*prepare, step, *finish)
    if status.hook is None:
        return after, (*prepare, *finish)
    if status.occupant is not None:
        raise busy(after.target, status.occupant)
    after = replace(after, hook=status.hook)
    step = CreateLink(record=after, hook=status.hook, program=program)
    first, last = SaveIntent(record=after, image=program.image), SaveDone(record=after, left=left)
    return after, (first, *prepare[1:], step, last, *finish[1:])


def running_in(name: str, status: Status, expected: ProgramInfo) -> ProgId | None:
    """The program that a swap of our bpf_link replaces; None where we have none on the hook. `HookBusy`.

    Args:
        expected: as for `swap`.
    """
    link = status.link
    if link is None or link.hook is None:
        return None
    if link.prog_id not in (expected.id, NO_PROGRAM):
        raise HookBusy(
            f"link {name!r} runs {status.occupant or link.prog_id} instead of ours, {expected}; "
            "somebody swapped it. Detach the link and attach it again to take the hook back"
        )
    return link.prog_id


def swap_with_others(
    name: str, status: Status, expected: ProgramInfo, running: Program | None
) -> ProgId | None:
    """What is replaced where several links are swapped together; None where the target is not there.

    What cannot be swapped back is refused: `HookBusy`, `HookGone`. Arguments as for `swap`.
    """
    runs = running_in(name, status, expected)
    if runs is not None and running is None:
        raise HookGone(
            f"link {name!r} runs {expected}, which we lost, so it could not be swapped back; "
            "replace it by itself"
        )
    if runs is None and status.hook is not None:
        raise HookGone(
            f"link {name!r} is not attached, so there is nothing to swap back to; replace it by itself, "
            "which attaches it again, and leave it out here"
        )
    return runs


def rename(name: str, after: Record) -> Sequence[Action]:
    """Call a link otherwise: what it does in the kernel goes on."""
    return RenameRecord(name=name, record=after), RenamePins(name=name, to=after.name)


def detach(name: str) -> Sequence[Action]:
    """End a link of ours, whatever runs in it."""
    return (
        SaveEnding(name=name),
        EndLink(name=name),
        RemovePins(name=name),
        RemoveRecord(name=name),
    )
