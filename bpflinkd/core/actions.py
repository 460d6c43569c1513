"""What can be done, as data. `plan` and `reconcile` compose actions; only `executor` performs them."""

from dataclasses import dataclass
from typing import TypeAlias

from bpflinkd.core.ids import ProgId
from bpflinkd.core.model import Occupant, Outcome, Record
from bpflinkd.core.ports import Link, Program
from bpflinkd.core.targets import Hook


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveIntent:
    """Write down what is about to be done, so that a crash can be told from a tampering.

    Undo: forget it.
    """

    record: Record
    image: bytes | None
    """The ELF object to keep, where the record's source is a stored object."""
    fallback: bytes | None = None
    """The same for the fallback of a link that lives with a connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetIntent:
    """Drop an intent that did not come to pass, and the pins staged for it."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgram:
    """Pin a program and its maps beside the current ones. Undo: unpin them."""

    name: str
    program: Program


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepProgram:
    """Pin the current program, with its maps, as that of its generation, so that one can go back to it.

    Undo: unpin it.
    """

    name: str
    number: int
    program: Program


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetPrograms:
    """Unpin the programs of the generations that are not kept any more."""

    name: str
    number: int
    """The present generation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateLink:
    """Attach: make a bpf_link and pin it beside the current one. Undo: detach and unpin it."""

    record: Record
    hook: Hook
    program: Program


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapLink:
    """Put a program behind the link we hold if `expected` still runs there. Undo: swap back."""

    name: str
    expected: ProgId
    program: Program


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveDone:
    """Record what has been done, durably. From here on there is no way back, only forward."""

    record: Record
    left: Outcome | None = None
    """What became of the generation before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteHook:
    """Record on which hook a link is attached again. From here on there is no way back.

    The link was promised before, so it stays attached also where this cannot be written.
    """

    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Promote:
    """Move the staged pins over the current ones. A crash before this is healed at start."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldLink:
    """Pin a bpf_link that another made. Undo: unpin it; it goes on as it did."""

    name: str
    link: Link


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeOver:
    """Put a bpf_link in the place of a program that was attached by netlink, and pin it.

    Undo: the program is attached by netlink again.
    """

    name: str
    hook: Hook
    occupant: Occupant
    program: Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Evict:
    """Remove exactly this stranger's program from the hook, by compare-and-swap. No undo."""

    hook: Hook
    occupant: Occupant


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveEnding:
    """Record durably that the link is to end. From here on there is no way back, only forward."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndLink:
    """Detach our bpf_link."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """Leave our bpf_link, which runs a stranger's program, to the stranger: move its pin aside."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RenameRecord:
    """Record durably that a link is called otherwise, and was called `name`. No undo."""

    name: str
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class RenamePins:
    """Let the pins follow, and forget what the link was called. A crash before this is healed at start."""

    name: str
    to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovePins:
    """Remove every pin of the link."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveRecord:
    """Forget the link."""

    name: str


Papers: TypeAlias = (
    SaveIntent
    | ForgetIntent
    | StageProgram
    | KeepProgram
    | ForgetPrograms
    | SaveDone
    | NoteHook
    | Promote
    | SaveEnding
    | SetAside
    | RenameRecord
    | RenamePins
    | RemovePins
    | RemoveRecord
)
"""What concerns records and pins: nothing that runs is changed by it."""
Action: TypeAlias = Papers | CreateLink | SwapLink | HoldLink | TakeOver | Evict | EndLink
