"""What a start makes of what it finds: store and pins of one link, after a crash or a plain stop. Pure.

The kernel's program wins. Every half-done change ends as before or as after, never between:
what was staged is current exactly if it runs, or if the store had already said so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bpflinkd.core.actions import (
    Action,
    EndLink,
    ForgetIntent,
    Promote,
    RemovePins,
    RemoveRecord,
    SaveDone,
    SetAside,
    SwapLink,
)
from bpflinkd.core.executor import Held
from bpflinkd.core.ids import NO_PROGRAM
from bpflinkd.core.model import Record
from bpflinkd.core.ports import Link, Pinned, Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """How a link goes on."""

    record: Record | None
    """None where the link is no more."""
    held: Held
    actions: Sequence[Action] = ()
    healed: str = ""
    """A sentence for the journal where a crash had left something half done."""


def recover(item: Stored, pinned: Pinned) -> Recovery:
    """Decide from what the store says and what the pins lead to."""
    name = item.latest.name
    link = pinned.staged_link if _live(pinned.staged_link) else pinned.link
    held = Held(link=link, program=pinned.program)
    if item.ending:
        return _finish_ending(name, held)
    record, intent, staged = item.record, item.intent, pinned.staged_program
    running = link.facts().prog_id if link is not None and _live(link) else None
    runs_staged = staged is not None and (
        running == staged.info.id
        or (intent is None and record is not None and _is_of(record, staged.info.id))
    )
    if runs_staged:
        held = held._replace(program=staged)
    swapped = intent is not None and running is not None and _is_of(intent, running)
    if (
        item.together
        and swapped
        and running is not None
        and record is not None
        and pinned.program is not None
    ):
        # Others of the set may not have been swapped, and none was recorded: all go back.
        back = SwapLink(name=name, expected=running, program=pinned.program)
        return Recovery(
            record=record,
            held=held,
            actions=(back, ForgetIntent(name=name)),
            healed=f"it was swapped as one of several, which did not come to their end; generation "
            f"{record.generation.number} is back",
        )
    if swapped and intent is not None:
        after = _on_hook_of(intent, link)
        return Recovery(
            record=after,
            held=held,
            actions=(SaveDone(record=after), Promote(name=name)),
            healed=f"generation {after.generation.number} was running but not recorded; it is now",
        )
    if record is None:
        return Recovery(
            record=None,
            held=held,
            actions=(RemovePins(name=name), RemoveRecord(name=name)),
            healed="an attach had not come to its end; what it left is removed",
        )
    if intent is not None:
        return Recovery(
            record=record,
            held=held,
            actions=(ForgetIntent(name=name),),
            healed=f"a replace had not come to its end; generation {record.generation.number} stays",
        )
    after = _on_hook_of(record, link) if link is pinned.staged_link else record
    if runs_staged or (link is not None and link is pinned.staged_link):
        return Recovery(
            record=after,
            held=held,
            actions=(SaveDone(record=after), Promote(name=name)),
            healed="the pins of the last change had not been moved into place; they are now",
        )
    left = pinned.staged_link is not None or staged is not None
    return Recovery(record=record, held=held, actions=(ForgetIntent(name=name),) if left else ())


def _finish_ending(name: str, held: Held) -> Recovery:
    """Finish a detach; a link that runs a stranger's program is left to the stranger.

    A kprobe's slot may be empty: that is how its detach begins.
    """
    strange = (
        held.link is not None
        and held.program is not None
        and held.link.facts().prog_id not in (held.program.info.id, NO_PROGRAM)
    )
    end: Action = SetAside(name=name) if strange else EndLink(name=name)
    return Recovery(
        record=None,
        held=held,
        actions=(end, RemovePins(name=name), RemoveRecord(name=name)),
        healed="a detach had not come to its end; it is finished",
    )


def _live(link: Link | None) -> bool:
    return link is not None and link.facts().hook is not None


def _is_of(record: Record, prog_id: int) -> bool:
    return record.generation.program.id == prog_id


def _on_hook_of(record: Record, link: Link | None) -> Record:
    hook = link.facts().hook if link is not None else None
    return replace(record, hook=hook or record.hook)
