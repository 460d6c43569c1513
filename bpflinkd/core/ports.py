"""The Protocols that the edges implement. The core knows the world only through these.

Methods raise `BpflinkdError` with a sentence; nothing else is expected to come out of an edge.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from bpflinkd.core.attach_types import AttachType
from bpflinkd.core.events import News, Operation, SlotHook, Touch
from bpflinkd.core.ids import LinkId, Micros, ProgId, UnixMicros
from bpflinkd.core.judging import Counter
from bpflinkd.core.looking import Examiner
from bpflinkd.core.maps import AS_USUAL, MapWishes
from bpflinkd.core.model import (
    Confinement,
    Feature,
    Foreign,
    Generation,
    LinkFacts,
    Misses,
    Occupant,
    Outcome,
    ProgramInfo,
    Record,
    Told,
)
from bpflinkd.core.patterns import Interface
from bpflinkd.core.runs import RunCounts
from bpflinkd.core.sources import Source, WantedProgram
from bpflinkd.core.survey import Survey
from bpflinkd.core.targets import CgroupHook, CgroupTarget, Hook, IfIndex, Target, WantedTarget, XdpHook


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

    def again(self) -> "Program":
        """The same program, held once more, for another link."""

    def close(self) -> None:
        """Give up our reference."""


class Link(Protocol):
    """A bpf_link that we hold by fd."""

    @property
    def id(self) -> LinkId: ...
    @property
    def misses(self) -> Callable[[], Misses] | None:
        """For kprobes: reads how many hits ran nothing. From any thread."""

    @property
    def slot_hook(self) -> SlotHook | None:
        """For kprobes: what holds the program."""

    def facts(self) -> LinkFacts: ...
    def mark_good(self) -> None:
        """Take what `facts` said last as what is expected from now on."""

    def unchanged(self) -> bool:
        """Whether the kernel still says what was marked good. One system call."""

    def close(self) -> None:
        """Give up our reference. The link lives on while it is pinned."""


class Company(Protocol):
    """The programs at one attach type of one cgroup, ours and others, as they were when this was made."""

    @property
    def programs(self) -> Sequence[ProgId]: ...
    def unchanged(self) -> bool:
        """Whether they are the same still. One system call."""

    def close(self) -> None:
        """Give up our reference to the cgroup."""


class Kernel(Protocol):
    """Programs, hooks and bpf_links."""

    @property
    def examiner(self) -> Examiner:
        """Loads programs only to look at them."""

    def open_program(
        self,
        wanted: WantedProgram,
        target: WantedTarget,
        *,
        given: bool = False,
        confined: Confinement | None = None,
        replaces: Program | None = None,
        wishes: MapWishes = AS_USUAL,
    ) -> Program:
        """Load or find a program. `BadProgram`, `VerifierRejected`, `NotSupported`, `LimitExceeded`,
        `IncompatibleMaps`, `BadOption`.

        Args:
            given: the target's attach type is the caller's word and overrides the ELF section's.
            confined: the caller is not root: a file must be a sealed memfd, and what is loaded from bytes
                is loaded with these privileges and limits. Never with a pin or an id.
            replaces: the program whose maps what is loaded goes on using, as far as `wishes` says.
        """

    def reload_program(
        self,
        source: Source,
        image: bytes | None,
        target: Target,
        confined: Confinement | None = None,
        replaces: Program | None = None,
        wishes: MapWishes = AS_USUAL,
    ) -> Program:
        """Load a program again from what we remember, after its pin is gone. `BadProgram`.

        Args:
            confined: how it was loaded the first time.
            replaces, wishes: as for `open_program`.
        """

    def read_program(self, wanted: WantedProgram, *, sealed: bool) -> WantedProgram:
        """The same program with its file read, if it has one: once for many links. `BadProgram`.

        Args:
            sealed: the file must be a sealed memfd, as for whoever is confined.
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

    def read_counter(self, counter: Counter, program: Program, hook: Hook | None) -> int:
        """What a counter of a program, or of the interface that it is on, says now. `BadOption`."""

    def occupant(self, hook: Hook, known: Occupant | None = None) -> Occupant | None:
        """The program on an exclusive hook; None where it is empty or the hook is shared.

        Args:
            known: the one found there before, which is not looked into again if it is there still.
        """

    def company(self, target: CgroupTarget) -> Company | None:
        """Every program that is attached to a cgroup itself at an attach type; None where it is gone."""

    def describe(self, prog_id: ProgId) -> ProgramInfo:
        """A program by its id; without name and tag where it is gone."""

    def kprobes_off(self) -> bool:
        """Whether somebody switched off all kprobes of the host. False where there is no telling."""

    def identify(self, facts: LinkFacts, known: Occupant | None = None) -> Occupant:
        """All that can be told of the program that a link runs. `known`: as in `occupant`."""

    def create_link(self, target: Target, hook: Hook, program: Program) -> Link:
        """Attach. `HookBusy`, `HookGone`, `NotSupported`, `KernelRefused`."""

    def swap(self, link: Link, target: Target, program: Program, expected: ProgId) -> None:
        """Compare-and-swap the program of a link. `HookBusy`, `HookGone`, `WrongProgramType`."""

    def prepare_swap(
        self, link: Link, target: Target, program: Program, expected: ProgId, running: Program
    ) -> Callable[[], None]:
        """The same, all but the swap done: to be called at once, after others like it. Errors as for `swap`.

        Args:
            running: what runs there as far as we know, held until the swap.
        """

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

    def have_runs_counted(self, *, wanted: bool) -> None:
        """Have the kernel count runs of programs, or no longer; so already is no error."""

    def runs_not_counted(self) -> str:
        """Why the kernel does not count runs now, as a sentence; empty where it does, for whomever."""

    def run_counts(self, link: Link | None, program: Program | None) -> RunCounts | None:
        """What it counted for a link that we hold so, without `missed`; None where there is no saying."""

    def survey(self) -> Survey:
        """Look at all that is attached and pinned on the host. Takes seconds; for any thread."""

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
    link_id: LinkId | None = None
    """Our bpf_link; None where there is none, or nobody wrote down which it is."""
    told: Told | None = None
    """None while it is `active`."""
    together: bool = False
    """The intent is one of several that were to come to pass all or none."""

    @property
    def latest(self) -> Record:
        """The record, or the intent of a link that has no record yet."""
        found = self.record or self.intent
        assert found is not None
        return found


class Store(Protocol):
    """Durable records. Every method is one transaction; `StorageFailed` means nothing was written."""

    @property
    def kept(self) -> int:
        """How many generations of a link are kept, the present one among them."""

    def begin_boot(self, boot: str) -> frozenset[str]:
        """In the first start after a reboot: names of the ephemeral links, which are no more."""

    def load(self) -> tuple[Stored, ...]: ...
    def intend(self, record: Record, image: bytes | None, fallback: bytes | None = None) -> None: ...
    def forget_intent(self, name: str) -> None: ...
    def commit(self, record: Record, link_id: LinkId | None, left: Outcome | None = None) -> None:
        """What was intended is done. `left`: what became of the generation before."""

    def intend_together(self, records: Sequence[Record], images: Mapping[str, bytes]) -> None:
        """`intend` generations of links that there are, all or none, and note that they belong together.

        Args:
            images: files to keep, by sha256.
        """

    def forget_intents(self, names: Sequence[str]) -> None:
        """`forget_intent` of several, all or none."""

    def commit_together(self, records: Sequence[tuple[Record, LinkId | None, Outcome | None]]) -> None:
        """`commit` several, all or none."""

    def settle(self, record: Record) -> None:
        """Owner, policy, lifetime, origin or trial are others; nothing else is."""

    def note_hook(self, record: Record, link_id: LinkId) -> None:
        """The link is attached to another hook, by another bpf_link. Not durable: a loss of power ends it."""

    def rename(self, name: str, record: Record) -> None:
        """A link is called otherwise, and its target too; what it was called is kept."""

    def forget_old_name(self, name: str) -> None:
        """Its pins have followed."""

    def note_told(self, name: str, told: Told | None) -> None:
        """What was told of a link's state. Not durable: a loss of power ends what it is about as well."""

    def explain(self, record: Record, link_id: LinkId) -> None:
        """The current generation has another hook, bpf_link and message."""

    def amend(self, record: Record) -> None:
        """The current generation's program was loaded again and has another kernel id."""

    def mark_ending(self, name: str) -> None: ...
    def remove(self, name: str) -> None: ...
    def image(self, sha256: str) -> bytes | None: ...
    def history(self, name: str) -> tuple[Generation, ...]: ...


class Sentinel(Protocol):
    """Our program in the kernel that tells of each change to the hooks that we follow, and who made it."""

    @property
    def sees(self) -> frozenset[Operation]:
        """What it tells on this kernel; empty where it cannot run."""

    @property
    def lacks(self) -> str:
        """Why it does not run, or what it does not see, as a sentence; empty where it sees all."""

    @property
    def fd(self) -> int:
        """Readable when there is something to read; -1 where it does not run."""

    @property
    def events(self) -> int:
        """How many changes it told so far."""

    def follow(self, hook: XdpHook | CgroupHook | SlotHook) -> None:
        """From here on changes to this hook by others are told. Again is no error."""

    def unfollow(self, hook: XdpHook | CgroupHook | SlotHook) -> None:
        """They are told no longer. Not followed is no error."""

    def followed(self) -> frozenset[XdpHook | CgroupHook | SlotHook]:
        """What is followed now, also by a daemon before us."""

    def read(self, most: int) -> list[Touch]:
        """What happened and was not read yet, the oldest first."""

    def wait(self, at_most: Micros) -> None:
        """Until there is something to read."""

    def lost(self) -> int:
        """How many changes found no room since this was asked last."""

    def close(self) -> None:
        """The daemon ends; what happens from now on is recorded for the next one."""


Publish: TypeAlias = Callable[[News], None]
Clock: TypeAlias = Callable[[], UnixMicros]
"""What to show to people. Anybody may set it, back too."""
Ticks: TypeAlias = Callable[[], Micros]
"""What to measure a time with: microseconds that nobody can set, since an unknown moment."""
Nanos: TypeAlias = Callable[[], int]
"""The same in nanoseconds."""
