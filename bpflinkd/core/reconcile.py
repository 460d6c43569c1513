"""Where a foreign change is noticed: record and status are compared, and judged. Pure.

Watchers only hint that something happened; the manager then reads the status of the links
concerned and asks `judge` what it means and what policy says must be done.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, assert_never

from bpflinkd.core import plan
from bpflinkd.core.actions import (
    Action,
    CreateLink,
    Evict,
    NoteHook,
    Promote,
    RemovePins,
    RemoveRecord,
    SaveEnding,
    SetAside,
    SwapLink,
)
from bpflinkd.core.events import ChangeKind
from bpflinkd.core.ids import NO_PROGRAM, Micros, ProgId, UnixMicros
from bpflinkd.core.model import Health, Occupant, Policy, ProgramInfo, Record, State, Status
from bpflinkd.core.ports import Program
from bpflinkd.core.targets import CgroupTarget, Hook, KprobeMultiTarget, KprobeTarget, XdpTarget

FIRST_PAUSE: Final = 100_000
"""Microseconds to wait after the first restore before another; doubles with each."""
LONGEST_PAUSE: Final = 60_000_000
PEACE: Final = 300_000_000
"""After so many microseconds without a fight, the pauses start small again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fight:
    """How often we have put a link back of late, and when we may do so again."""

    restores: int
    not_before: Micros

    def next_round(self, now: Micros, *, patience: int = 0) -> "Fight":
        """After another restore; the first `patience` of them are followed by no pause."""
        calm = now > self.not_before + PEACE
        restores = 1 if calm else self.restores + 1
        paused = restores - patience
        pause = min(FIRST_PAUSE << min(paused - 1, 20), LONGEST_PAUSE) if paused > 0 else 0
        return Fight(restores=restores, not_before=Micros(now + pause))


NO_FIGHT: Final = Fight(restores=0, not_before=Micros(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A foreign change, told once: when it is first seen."""

    kind: ChangeKind
    sentence: str
    before: ProgramInfo | None = None
    """What ran before, where that is known and something did."""
    after: ProgramInfo | None = None
    """What runs now; None where nothing does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What it means, and what follows."""

    health: Health
    change: Change | None = None
    actions: Sequence[Action] = ()
    record: Record | None = None
    """The record after the actions, where they change it."""
    fight: Fight | None = None
    """Set where the actions put us back against somebody."""
    let_go: str = ""
    """Why the link ends, where the actions end it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """All that a judgement is made from."""

    record: Record
    before: Health | None
    status: Status
    program: Program
    fight: Fight
    now: UnixMicros
    ticks: Micros


def judge(
    record: Record,
    before: Health | None,
    status: Status,
    program: Program,
    *,
    fight: Fight,
    now: UnixMicros,
    ticks: Micros,
) -> Verdict:
    """Compare what we promised with what the kernel says.

    Args:
        before: the last health; None at start, when changes made meanwhile are told as new.
        program: ours, which should be running.
        ticks: for fights, `now` is only shown.
    """
    verdict = _judge(
        _Look(record=record, before=before, status=status, program=program, fight=fight, now=now, ticks=ticks)
    )
    if record.origin.template and verdict.health.state is State.WAITING:
        # What a template made is there for its target only; the next one that matches gets its own.
        return replace(
            verdict, change=None, actions=plan.detach(record.name), let_go=f"{record.target} is gone"
        )
    return verdict


def _judge(look: _Look) -> Verdict:
    record, before, status = look.record, look.before, look.status
    link = status.link
    if link is not None and link.hook is not None:
        if link.prog_id != look.program.info.id:
            return _tampered(look, link.prog_id)
        if status.hook is None:
            where = _still_runs(record, link.hook)
            gone = Change(
                kind=ChangeKind.TARGET_GONE,
                sentence=f"{record.target} is gone: it was renamed or moved; {where}",
                before=look.program.info,
            )
            return _told(look, State.WAITING, f"{plan.gone(record.target)}; {where}", gone)
        if status.switched_off:
            return _switched_off(look)
        if status.hook == link.hook:
            back = Change(
                kind=ChangeKind.TARGET_BACK, sentence=f"{record.target} is back", after=look.program.info
            )
            awaited = before is not None and before.state is State.WAITING
            return _told(look, State.ACTIVE, "", back if awaited else None)
        # The name now stands for another interface: follow the name.
        return _on_new_hook(look, status.hook)
    if status.hook is None:
        gone = Change(
            kind=ChangeKind.TARGET_GONE, sentence=f"{record.target} is gone", before=look.program.info
        )
        reason = f"{plan.gone(record.target)}; we attach when it appears"
        return _told(look, State.WAITING, reason, gone if link is not None else None)
    if link is not None and record.hook == status.hook and status.occupant is None:
        return _severed(look, status.hook)
    return _on_new_hook(look, status.hook)


def _switched_off(look: _Look) -> Verdict:
    """All is as it should be with our link, but the kernel runs no kprobe."""
    before = look.before
    reason = (
        "all kprobes of this host are switched off; 'echo 1 > /sys/kernel/debug/kprobes/enabled' ends that"
    )
    told = before is not None and before.reason == reason
    since = before.since if told and before is not None else look.now
    change = Change(
        kind=ChangeKind.KPROBES_DISABLED,
        sentence="somebody switched off all kprobes of this host",
        before=look.program.info,
    )
    health = Health(state=State.SEVERED, reason=reason, since=since)
    return Verdict(health=health, change=None if told else change)


def _still_runs(record: Record, hook: Hook) -> str:
    match record.target:
        case XdpTarget():
            return f"our program still runs on the interface that had {hook}"
        case CgroupTarget():
            return f"our program still runs on the cgroup that had {hook}"
        case KprobeTarget() | KprobeMultiTarget():
            return f"our program still runs in {hook}"
        case _:
            assert_never(record.target)


def _told(
    look: _Look, state: State, reason: str, change: Change | None, running: Occupant | None = None
) -> Verdict:
    """A verdict without actions; the change is dropped where it has been told before."""
    before = look.before
    same = before is not None and before.state is state
    if same and before is not None:
        known = before.running.program.id if before.running else None
        same = known == (running.program.id if running else None)
    if before is None and state is State.ACTIVE:
        since = look.record.generation.since
    else:
        since = before.since if same and before is not None else look.now
    return Verdict(
        health=Health(state=state, reason=reason, since=since, running=running),
        change=None if same else change,
    )


def _attach_again(look: _Look, hook: Hook) -> tuple[Record, Sequence[Action]]:
    after = replace(look.record, hook=hook)
    return after, (
        CreateLink(record=after, hook=hook, program=look.program),
        NoteHook(record=after),
        Promote(name=after.name),
    )


def _tampered(look: _Look, prog_id: ProgId) -> Verdict:
    record, ours = look.record, look.program.info
    if prog_id == NO_PROGRAM:
        sentence = f"the slot of {record.target} was emptied: its hits run nothing"
        change = Change(kind=ChangeKind.SLOT_EMPTIED, sentence=sentence, before=ours)
        verdict = _told(look, State.SEVERED, f"{sentence}; a replace fills it again", change)
    else:
        found = look.status.occupant or f"program id {prog_id}"
        dispatched = isinstance(record.target, KprobeTarget | KprobeMultiTarget)
        change = Change(
            kind=ChangeKind.SLOT_CHANGED if dispatched else ChangeKind.LINK_UPDATED,
            sentence=f"somebody put {found} behind our link in place of {ours}",
            before=ours,
            after=look.status.occupant.program if look.status.occupant else None,
        )
        reason = f"our link runs {found} instead of {ours}"
        verdict = _told(look, State.TAMPERED, reason, change, look.status.occupant)
    swap_back = SwapLink(name=record.name, expected=prog_id, program=look.program)
    return _by_policy(look, verdict, (swap_back,), record)


def _severed(look: _Look, hook: Hook) -> Verdict:
    target = look.record.target
    # Where a stranger was in between, its coming told that our link is gone.
    known = look.before is not None and look.before.state is State.DISPLACED
    sentence = f"somebody detached our link from {target}"
    change = Change(kind=ChangeKind.LINK_DETACHED, sentence=sentence, before=look.program.info)
    reason = f"our link was detached by somebody and {target} is empty; a replace attaches it again"
    verdict = _told(look, State.SEVERED, reason, None if known else change)
    after, steps = _attach_again(look, hook)
    return _by_policy(look, verdict, steps, after)


def _on_new_hook(look: _Look, hook: Hook) -> Verdict:
    """The target is there and our link is not on it."""
    target, stranger = look.record.target, look.status.occupant
    after, steps = _attach_again(look, hook)
    if stranger is not None:
        held = f"{target} is held by {stranger}"
        change = Change(kind=ChangeKind.PROGRAM_ATTACHED, sentence=held, after=stranger.program)
        verdict = _told(look, State.DISPLACED, held, change, stranger)
        return _by_policy(look, verdict, (Evict(hook=hook, occupant=stranger), *steps), after)
    awaited = look.before is not None and look.before.state is State.WAITING
    sentence = f"{target} is there; attaching"
    back = Change(kind=ChangeKind.TARGET_BACK, sentence=sentence, after=look.program.info)
    verdict = _told(look, State.ACTIVE, "", back if awaited else None)
    return replace(verdict, actions=steps, record=after)


def _by_policy(look: _Look, verdict: Verdict, put_back: Sequence[Action], after: Record) -> Verdict:
    record, fight = look.record, look.fight
    match record.policy:
        case Policy.ALERT:
            return verdict
        case Policy.RESTORE:
            if look.ticks < fight.not_before:
                reason = f"{verdict.health.reason}; contended, we tried {fight.restores} times"
                return replace(verdict, health=replace(verdict.health, reason=reason))
            return replace(verdict, actions=put_back, record=after, fight=fight.next_round(look.ticks))
        case Policy.YIELD:
            tampered = verdict.health.state is State.TAMPERED
            leave: tuple[Action, ...] = (SetAside(name=record.name),) if tampered else ()
            return replace(
                verdict,
                actions=(
                    SaveEnding(name=record.name),
                    *leave,
                    RemovePins(name=record.name),
                    RemoveRecord(name=record.name),
                ),
                let_go="policy yield: let go to a stranger",
            )
        case _:
            assert_never(record.policy)
