"""What is pinned."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from bpflinkd.core.ids import LinkId, ProgId
from bpflinkd.core.model import ProgramInfo
from bpflinkd.core.ports.kernel import Link, Program
from bpflinkd.core.sources import Source
from bpflinkd.core.targets import Hook


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """What a link's directory on the bpffs holds, opened."""

    link: Link | None
    program: Program | None
    staged_link: Link | None
    staged_program: Program | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PinTrouble:
    """A pin of a link of ours that was not as it should be."""

    pin: str
    """Its path."""
    replaced: bool
    """Something else stood in its place; False where nothing did."""
    by: str
    """What stood there, in words; empty where nothing did."""
    aside: str
    """Where that is now; empty where it is kept nowhere."""
    failure: str
    """Why ours could not be put back; empty where it was."""


class Promised(NamedTuple):
    """What a link's pins lead to, according to the records."""

    programs: frozenset[ProgId] = frozenset()
    """With one of these running, the pin of another program was put there by somebody else."""
    link: LinkId | None = None
    """Another bpf_link, where it runs none of them, was pinned by somebody else. None: not known."""
    like: ProgramInfo | None = None
    hook: Callable[[], Hook | None] = lambda: None
    """A daemon that could not write loaded the program again, and attached it: it is like this one, has
    another id, is pinned too, and runs on this hook. To ask for the hook may take a while."""


class Pins(Protocol):
    """The directory of each link on our bpffs."""

    def taken(self, name: str) -> bool:
        """Whether there is a directory for this name."""

    def open(self, name: str, source: Source, promised: "Promised") -> Pinned:
        """Open all that is there; what cannot be ours is moved aside, and counts as gone."""

    def mend(self, name: str, link: Link | None, program: Program | None) -> tuple[PinTrouble, ...]:
        """Put back the pins that are gone, or are somebody else's, from what we hold. Never between a
        `stage` and its `promote`. What somebody else pinned in our place is moved aside.

        Returns:
            What was wrong, a pin each.

        Raises:
            StorageFailed: there is no bpffs any more where the pins should be.
        """

    def maps(self, name: str) -> tuple[str, ...]:
        """Names of the maps that are pinned now."""

    def put_back(self, name: str, program: Program) -> None:
        """Pin the current program again, whose pin is gone."""

    def stage_program(self, name: str, program: Program) -> None: ...
    def keep(self, name: str, number: int, program: Program) -> None:
        """Pin the current program, with its maps, as that of this generation."""

    def open_kept(self, name: str, number: int, source: Source) -> Program | None:
        """The program of a generation before, with its maps; None where it is not kept."""

    def kept_generations(self, name: str) -> frozenset[int]:
        """Numbers of the generations that are kept."""

    def kept_place(self, name: str) -> str:
        """The directory in which they are."""

    def drop_kept(self, name: str, number: int) -> None:
        """Let go of the program of a generation; nothing there is no error."""

    def drop_kept_before(self, name: str, number: int) -> None:
        """The same for every generation before one."""

    def tidy_kept(self, name: str, first: int, present: int) -> None:
        """The same for all but those from `first` on and before `present`: what a crash left."""

    def stage_link(self, name: str, link: Link) -> None: ...
    def promote(self, name: str) -> None:
        """Staged pins take the places of the current ones; each rename is atomic."""

    def unstage_link(self, name: str) -> None: ...
    def discard_staged(self, name: str) -> None: ...
    def set_aside(self, name: str) -> str:
        """Move the link's pin out of its directory; returns where it is now."""

    def rename(self, name: str, to: str) -> None:
        """Call the directory otherwise; nothing there is no error. `NameTaken`."""

    def remove(self, name: str) -> None:
        """Remove the directory with all pins; nothing there is no error."""

    def forget_kept(self) -> None:
        """Let go of what a daemon before us had kept and no link of ours needs."""

    def strangers(self, known: Iterable[str]) -> tuple[str, ...]:
        """Directories that belong to none of the known names."""
