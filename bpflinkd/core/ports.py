"""The Protocols that the edges implement. The core knows the world only through these.

Methods raise `BpflinkdError` with a sentence; nothing else is expected to come out of an edge.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from bpflinkd.core.attach_types import AttachType
from bpflinkd.core.events import News
from bpflinkd.core.ids import LinkId, Micros, ProgId, UnixMicros
from bpflinkd.core.model import (
    Confinement,
    Feature,
    Foreign,
    Generation,
    LinkFacts,
    Misses,
    Occupant,
    ProgramInfo,
    Record,
)
from bpflinkd.core.patterns import Interface
from bpflinkd.core.sources import Source, WantedProgram
from bpflinkd.core.targets import Hook, IfIndex, Target, WantedTarget


class Program(Protocol):
    """A loaded program that we hold by fd, with the maps that came with it."""

    @property
    def info(self) -> ProgramInfo: ...
    @property
    def source(self) -> Source: ...
    @property
    def declared(self) -> AttachType | None:
        """The attach type that its ELF section names; None where there is no saying."""

    @property
    def image(self) -> bytes | None:
        """The ELF object's bytes where the program was loaded from one just now."""

    @property
    def maps(self) -> Sequence[str]:
        """Names of the maps that were created with it."""

    def fits(self, attach_type: AttachType) -> bool:
        """Whether the kernel would take it there. Asked without attaching anything."""

    def close(self) -> None:
        """Give up our reference."""


class Link(Protocol):
    """A bpf_link that we hold by fd."""

    @property
    def id(self) -> LinkId: ...
    @property
    def misses(self) -> Callable[[], Misses] | None:
        """For kprobes: reads how many hits ran nothing. From any thread."""

    def facts(self) -> LinkFacts: ...
    def mark_good(self) -> None:
        """Take what `facts` said last as what is expected from now on."""

    def unchanged(self) -> bool:
        """Whether the kernel still says what was marked good. One system call."""

    def close(self) -> None:
        """Give up our reference. The link lives on while it is pinned."""


class Kernel(Protocol):
    """Programs, hooks and bpf_links."""

    def open_program(
        self,
        wanted: WantedProgram,
        target: WantedTarget,
        *,
        given: bool = False,
        confined: Confinement | None = None,
    ) -> Program:
        """Load or find a program. `BadProgram`, `VerifierRejected`, `NotSupported`, `LimitExceeded`.

        Args:
            given: the target's attach type is the caller's word and overrides the ELF section's.
            confined: the caller is not root: a file must be a sealed memfd, and what is loaded from bytes
                is loaded with these privileges and limits. Never with a pin or an id.
        """

    def reload_program(
        self, source: Source, image: bytes | None, target: Target, confined: Confinement | None = None
    ) -> Program:
        """Load a program again from what we remember, after its pin is gone. `BadProgram`.

        Args:
            confined: how it was loaded the first time.
        """

    def hold_program(self, prog_id: ProgId, source: Source, maps: tuple[str, ...] = ()) -> Program:
        """Hold a program that is loaded already. `BadProgram` where there is none."""

    def features(self) -> tuple[Feature, ...]:
        """What this kernel and host can do, tried just now."""

    def resolve(self, target: WantedTarget) -> Hook | None:
        """The hook that a target stands for now; None where it is not there."""

    def interfaces(self) -> Mapping[str, IfIndex]:
        """All interfaces of our network namespace."""

    def described_interfaces(self) -> tuple[Interface, ...]:
        """The same with all that templates can know them by; takes longer."""

    def described_interface(self, ifindex: IfIndex) -> Interface | None:
        """One of them; None where it is gone."""

    def cgroups(self, pattern: str) -> Iterator[str]:
        """Paths of the cgroups that match, part by part."""

    def occupant(self, hook: Hook) -> Occupant | None:
        """The program on an exclusive hook; None where it is empty or the hook is shared."""

    def identify(self, facts: LinkFacts) -> Occupant:
        """All that can be told of the program that a link runs."""

    def create_link(self, target: Target, hook: Hook, program: Program) -> Link:
        """Attach. `HookBusy`, `HookGone`, `NotSupported`, `KernelRefused`."""

    def swap(self, link: Link, target: Target, program: Program, expected: ProgId) -> None:
        """Compare-and-swap the program of a link. `HookBusy`, `HookGone`, `WrongProgramType`."""

    def detach(self, link: Link) -> None:
        """Detach at once, whoever else holds the link."""

    def find_link(self, link_id: LinkId | None, pin: str | None) -> "FoundLink":
        """A bpf_link that another made, by id or pin. `BadOption`, `HookGone`, `NotSupported`."""

    def take_over(self, target: Target, hook: Hook, occupant: Occupant, program: Program) -> "TakenOver":
        """Replace exactly this netlink attachment of a program by a bpf_link with the same program.

        Where that fails the program is attached by netlink again. `HookBusy`, `KernelRefused`.
        """

    def give_back(self, link: Link, target: Target, hook: Hook, program: Program) -> None:
        """Undo that."""

    def evict(self, hook: Hook, occupant: Occupant) -> None:
        """Remove exactly this program from an XDP hook. `HookBusy` when it is another by now."""

    def foreign(self, targets: Iterable[Target], ours: frozenset[LinkId]) -> tuple[Foreign, ...]:
        """Programs on XDP hooks and on the cgroups of `targets` that no link of `ours` attaches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLink:
    """A bpf_link of somebody else's, which we hold too."""

    link: Link
    target: Target
    hook: Hook
    program: Program


class TakenOver(NamedTuple):
    """A bpf_link in the place of a netlink attachment."""

    link: Link
    gap_ns: int
    """Nanoseconds for which the hook was empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """What a link's directory on the bpffs holds, opened."""

    link: Link | None
    program: Program | None
    staged_link: Link | None
    staged_program: Program | None


class Pins(Protocol):
    """The directory of each link on our bpffs."""

    def taken(self, name: str) -> bool:
        """Whether there is a directory for this name."""

    def open(self, name: str, source: Source) -> Pinned:
        """Open all that is there."""

    def maps(self, name: str) -> tuple[str, ...]:
        """Names of the maps that are pinned now."""

    def put_back(self, name: str, program: Program) -> None:
        """Pin the current program again, whose pin is gone."""

    def stage_program(self, name: str, program: Program) -> None: ...
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One link as the store has it."""

    record: Record | None
    """None where the link's first generation was never completed."""
    intent: Record | None
    """What was about to be done when the daemon ended, if anything."""
    ending: bool
    """A detach was decided and may be half done."""
    was: str = ""
    """What it was called when its pins were made, where they may not have followed yet."""

    @property
    def latest(self) -> Record:
        """The record, or the intent of a link that has no record yet."""
        found = self.record or self.intent
        assert found is not None
        return found


class Store(Protocol):
    """Durable records. Every method is one transaction; `StorageFailed` means nothing was written."""

    def begin_boot(self, boot: str) -> frozenset[str]:
        """In the first start after a reboot: names of the ephemeral links, which are no more."""

    def load(self) -> tuple[Stored, ...]: ...
    def intend(self, record: Record, image: bytes | None, fallback: bytes | None = None) -> None: ...
    def forget_intent(self, name: str) -> None: ...
    def commit(self, record: Record) -> None: ...
    def settle(self, record: Record) -> None:
        """Owner, policy, lifetime or origin are others; nothing else is."""

    def note_hook(self, record: Record) -> None:
        """The link is attached to another hook. Not durable: a loss of power ends the link as well."""

    def rename(self, name: str, record: Record) -> None:
        """A link is called otherwise, and its target too; what it was called is kept."""

    def forget_old_name(self, name: str) -> None:
        """Its pins have followed."""

    def explain(self, record: Record) -> None:
        """The current generation has another hook and message."""

    def amend(self, record: Record) -> None:
        """The current generation's program was loaded again and has another kernel id."""

    def mark_ending(self, name: str) -> None: ...
    def remove(self, name: str) -> None: ...
    def image(self, sha256: str) -> bytes | None: ...
    def history(self, name: str) -> tuple[Generation, ...]: ...


Publish: TypeAlias = Callable[[News], None]
Clock: TypeAlias = Callable[[], UnixMicros]
"""What to show to people. Anybody may set it, back too."""
Ticks: TypeAlias = Callable[[], Micros]
"""What to measure a time with: microseconds that nobody can set, since an unknown moment."""
