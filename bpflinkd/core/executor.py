"""The one interpreter of actions. If a step fails, the steps before it are undone in reverse."""

import logging
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, assert_never

from bpflinkd.core.actions import (
    Action,
    CreateLink,
    EndLink,
    Evict,
    ForgetIntent,
    ForgetPrograms,
    HoldLink,
    KeepProgram,
    NoteHook,
    Papers,
    Promote,
    RemovePins,
    RemoveRecord,
    RenamePins,
    RenameRecord,
    SaveDone,
    SaveEnding,
    SaveIntent,
    SetAside,
    StageProgram,
    SwapLink,
    TakeOver,
)
from bpflinkd.core.errors import BpflinkdError, Internal, StorageFailed
from bpflinkd.core.events import SlotHook
from bpflinkd.core.ids import NO_PROGRAM
from bpflinkd.core.ports import Kernel, Link, Pins, Program, Store
from bpflinkd.core.targets import Hook, Target

log = logging.getLogger(__name__)

_FINAL: Final = (SaveDone, NoteHook, SaveEnding, RenameRecord)


class Held(NamedTuple):
    """What we hold open for one link."""

    link: Link | None
    program: Program | None
    gap_ns: int = 0
    """Nanoseconds for which a hook was empty that was taken over."""


class Executor:
    """Performs actions on the kernel, the pins and the store."""

    def __init__(
        self, kernel: Kernel, pins: Pins, store: Store, expect: Callable[[Hook | SlotHook | None], None]
    ) -> None:
        """`expect` is called with each hook before we are on it: whatever others do to it then is seen."""
        self._kernel = kernel
        self._pins = pins
        self._store = store
        self._expect = expect

    def run(self, actions: Sequence[Action], target: Target, held: Held, *, healing: bool = False) -> Held:
        """Perform all actions, or none.

        The point of no return is the first action of `_FINAL`: what fails after it is logged, and
        finished at the next start, never undone. Superseded handles are left for the caller to close.

        Args:
            healing: what was promised before is put in order. That must not depend on room for records: what
                cannot be written now is healed again at another start.

        Returns:
            What is held afterwards.
        """
        undo: list[Callable[[], None]] = []
        committed = False
        for action in actions:
            try:
                held = self._perform(action, target, held, undo)
            except BaseException as error:
                unwritten = healing and isinstance(error, StorageFailed)
                if not (unwritten or (committed and isinstance(error, BpflinkdError))):
                    if not committed:
                        _unwind(undo)
                    raise
                log.error("%s is left to the next start: %s", type(action).__name__, error)
            committed = committed or isinstance(action, _FINAL)
        return held

    def _perform(self, action: Action, target: Target, held: Held, undo: list[Callable[[], None]]) -> Held:
        pins, kernel = self._pins, self._kernel
        match action:
            case CreateLink(record=record, hook=hook, program=program):
                self._expect(hook)
                made = kernel.create_link(target, hook, program)
                self._expect(made.slot_hook)
                undo.append(lambda: _take_back(kernel, pins, record.name, made))
                pins.stage_link(record.name, made)
                return Held(link=made, program=program)
            case SwapLink(name=name, expected=expected, program=program):
                link, before = held.link, held.program
                if link is None:
                    raise Internal(f"link {name!r} has no bpf_link to swap")
                kernel.swap(link, target, program, expected)
                if before is not None and expected in (before.info.id, NO_PROGRAM):
                    undo.append(lambda: kernel.swap(link, target, before, program.info.id))
                return held._replace(program=program)
            case HoldLink(name=name, link=adopted):
                self._expect(adopted.facts().hook)
                undo.append(lambda: pins.unstage_link(name))
                pins.stage_link(name, adopted)
                return held._replace(link=adopted)
            case TakeOver(name=name, hook=hook, occupant=occupant, program=program):
                self._expect(hook)
                taken = kernel.take_over(target, hook, occupant, program)
                undo.append(lambda: kernel.give_back(taken.link, target, hook, program))
                pins.stage_link(name, taken.link)
                pins.promote(name)
                return held._replace(link=taken.link, gap_ns=taken.gap_ns)
            case Evict(hook=hook, occupant=occupant):
                kernel.evict(hook, occupant)
            case EndLink():
                if held.link is not None:
                    kernel.detach(held.link)
            case _:
                self._write(action, held, undo)
        return held

    def _write(self, action: Papers, held: Held, undo: list[Callable[[], None]]) -> None:
        store, pins = self._store, self._pins
        match action:
            case SaveIntent(record=record, image=image, fallback=fallback):
                store.intend(record, image, fallback)
                undo.append(lambda: store.forget_intent(record.name))
            case ForgetIntent(name=name):
                pins.discard_staged(name)
                store.forget_intent(name)
            case StageProgram(name=name, program=program):
                undo.append(lambda: pins.discard_staged(name))
                pins.stage_program(name, program)
            case KeepProgram(name=name, number=number, program=program):
                undo.append(lambda: pins.drop_kept(name, number))
                pins.keep(name, number, program)
            case ForgetPrograms(name=name, number=number):
                if number > store.kept:
                    pins.drop_kept_before(name, number - store.kept + 1)
            case SaveDone(record=record, left=left):
                store.commit(record, held.link.id if held.link else None, left)
            case NoteHook(record=record):
                if held.link is None:
                    raise Internal(f"link {record.name!r} has no bpf_link to note")
                store.note_hook(record, held.link.id)
            case Promote(name=name):
                pins.promote(name)
            case SaveEnding(name=name):
                store.mark_ending(name)
            case SetAside(name=name):
                place = pins.set_aside(name)
                log.warning("the link %r is let go; its bpf_link stays pinned at %s", name, place)
            case RenameRecord(name=name, record=record):
                store.rename(name, record)
            case RenamePins(name=name, to=to):
                pins.rename(name, to)
                store.forget_old_name(to)
            case RemovePins(name=name):
                pins.remove(name)
            case RemoveRecord(name=name):
                store.remove(name)
            case _:
                assert_never(action)


def _unwind(undo: list[Callable[[], None]]) -> None:
    for step in reversed(undo):
        try:
            step()
        except BpflinkdError as error:
            log.error("could not undo a step; the next sweep will tell: %s", error)


def _take_back(kernel: Kernel, pins: Pins, name: str, link: Link) -> None:
    kernel.detach(link)
    pins.unstage_link(name)
    link.close()
