"""Programs, links and hooks."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from bpflinkd.core.attach_types import AttachType
from bpflinkd.core.events import SlotHook
from bpflinkd.core.ids import LinkId, ProgId
from bpflinkd.core.judging import Counter
from bpflinkd.core.looking import Examiner
from bpflinkd.core.maps import AS_USUAL, MapWishes
from bpflinkd.core.model import Confinement, Feature, Foreign, LinkFacts, Misses, Occupant, ProgramInfo
from bpflinkd.core.patterns import Interface
from bpflinkd.core.runs import RunCounts
from bpflinkd.core.sources import Source, WantedProgram
from bpflinkd.core.survey import Survey
from bpflinkd.core.targets import CgroupTarget, Hook, IfIndex, Target, WantedTarget


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
    def mark_good(self, runs: ProgId | None = None) -> None:
        """Take what `facts` said last as what is expected from now on, but for the program where another one,
        `runs`, was swapped in since."""

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
