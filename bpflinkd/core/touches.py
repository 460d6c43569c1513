"""What the sentinel saw, told of the link that it happened to. Pure."""

from collections.abc import Callable
from typing import Final, assert_never

from bpflinkd.core.events import ChangeKind, Operation, Touch
from bpflinkd.core.ids import LinkId
from bpflinkd.core.model import ProgramInfo, Record
from bpflinkd.core.reconcile import Change
from bpflinkd.core.targets import CgroupTarget

SEEN_BY: Final = {
    Operation.XDP_INSTALL: frozenset(
        {ChangeKind.LINK_UPDATED, ChangeKind.LINK_DETACHED, ChangeKind.PROGRAM_ATTACHED}
    ),
    Operation.CGROUP_ATTACH: frozenset({ChangeKind.NEIGHBOUR_ADDED}),
    Operation.CGROUP_DETACH: frozenset({ChangeKind.LINK_DETACHED, ChangeKind.NEIGHBOUR_REMOVED}),
    Operation.CGROUP_REPLACE: frozenset({ChangeKind.LINK_UPDATED, ChangeKind.NEIGHBOUR_ADDED}),
    Operation.SLOT_UPDATE: frozenset({ChangeKind.SLOT_CHANGED}),
    Operation.SLOT_DELETE: frozenset({ChangeKind.SLOT_EMPTIED}),
}
"""The kinds of change that each function tells of."""

BESIDE: Final = frozenset({ChangeKind.NEIGHBOUR_ADDED, ChangeKind.NEIGHBOUR_REMOVED})
"""What happens beside our link, and leaves it as it is."""

Meaning = Callable[[Touch], Change | None]


def meaning(record: Record, ours: LinkId | None, ran: ProgramInfo | None) -> Meaning:
    """Tells of one touch after the other what it did to a link; None where that is nothing to the link.

    Args:
        ours: our bpf_link; None where we hold none.
        ran: what ran on the hook before the first of them, as far as we know.
    """
    runs = ran

    def tell(touch: Touch) -> Change | None:
        nonlocal runs
        change = _of(record, ours, touch, touch.before or runs)
        if change is not None and change.kind not in BESIDE:
            runs = change.after
        return change

    return tell


def _of(record: Record, ours: LinkId | None, touch: Touch, ran: ProgramInfo | None) -> Change | None:
    target, mine = record.target, ours is not None and touch.link_id == ours
    if isinstance(target, CgroupTarget) and touch.attach_type != target.attach_type.number:
        return None
    match touch.operation:
        case Operation.XDP_INSTALL if touch.dying:
            return None  # netlink tells that the interface is gone
        case Operation.XDP_INSTALL if mine:
            return _updated(touch, ran) if touch.after else _detached(record, ran)
        case Operation.XDP_INSTALL:
            if touch.after is None:
                return None  # a stranger went, which the state tells
            return Change(
                kind=ChangeKind.PROGRAM_ATTACHED,
                sentence=f"somebody attached program {touch.after} to {target}",
                before=touch.before,
                after=touch.after,
            )
        case Operation.CGROUP_REPLACE if mine:
            return _updated(touch, ran)
        case Operation.CGROUP_DETACH if mine:
            return _detached(record, ran)
        case Operation.CGROUP_ATTACH | Operation.CGROUP_REPLACE:
            return Change(
                kind=ChangeKind.NEIGHBOUR_ADDED,
                sentence=neighbour_added(record, touch.after, touch.before),
                before=touch.before,
                after=touch.after,
            )
        case Operation.CGROUP_DETACH:
            return Change(
                kind=ChangeKind.NEIGHBOUR_REMOVED,
                sentence=neighbour_removed(record, touch.before),
                before=touch.before,
            )
        case Operation.SLOT_UPDATE if touch.after is not None:
            return _updated(touch, ran, ChangeKind.SLOT_CHANGED)
        case Operation.SLOT_UPDATE | Operation.SLOT_DELETE:
            sentence = f"the slot of {target} was emptied: its hits run nothing"
            return Change(kind=ChangeKind.SLOT_EMPTIED, sentence=sentence, before=ran)
        case Operation.CGROUP_RELEASE:
            return None  # inotify tells that the cgroup is gone
        case _:
            assert_never(touch.operation)


def _updated(touch: Touch, ran: ProgramInfo | None, kind: ChangeKind = ChangeKind.LINK_UPDATED) -> Change:
    place = f" in place of {ran}" if ran else ""
    sentence = f"somebody put program {touch.after} behind our link{place}"
    return Change(kind=kind, sentence=sentence, before=ran, after=touch.after)


def _detached(record: Record, ran: ProgramInfo | None) -> Change:
    sentence = f"somebody detached our link from {record.target}"
    return Change(kind=ChangeKind.LINK_DETACHED, sentence=sentence, before=ran)


def neighbour_added(record: Record, program: ProgramInfo | None, instead: ProgramInfo | None = None) -> str:
    """That a program runs beside ours by now."""
    place = f", in place of {instead}" if instead else ""
    return f"somebody's program {program or '(gone)'} runs on {record.target} beside ours{place}"


def neighbour_removed(record: Record, program: ProgramInfo | None) -> str:
    """That one does so no longer."""
    return f"somebody's program {program or '(gone)'} runs no longer on {record.target} beside ours"
