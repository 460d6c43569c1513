"""Look before you leap: what would become of an attach or a replace. Nothing is attached, and nothing stays.

Each question has parts: `begin` and `finish` are for the worker thread, what is between them takes long,
touches no link, and is for another.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from bpflinkd.core import checks, maps, plan, testruns
from bpflinkd.core.access import Access
from bpflinkd.core.callers import Action, Caller
from bpflinkd.core.checks import Checked, Loaded
from bpflinkd.core.errors import BadProgram, BadTarget, BpflinkdError, HookBusy, HookGone, NotSupported
from bpflinkd.core.inspection import Inspection
from bpflinkd.core.links import Links
from bpflinkd.core.looking import Examined, Pair
from bpflinkd.core.maps import AS_USUAL, Fates, MapWishes
from bpflinkd.core.model import Confinement, Feature, Policy, Record, State
from bpflinkd.core.ports import Kernel, Store
from bpflinkd.core.requests import ReplaceRequest
from bpflinkd.core.sources import (
    Builtin,
    PinnedProgram,
    ProgramById,
    ProgramFd,
    SourceFile,
    SourceText,
    StoredObject,
    StoredSource,
    WantedProgram,
)
from bpflinkd.core.targets import (
    CgroupPlace,
    CgroupTarget,
    IfIndex,
    KprobeMultiTarget,
    KprobeTarget,
    Target,
    WantedTarget,
    XdpHook,
    XdpMode,
    XdpTarget,
)
from bpflinkd.core.testruns import Comparison

if TYPE_CHECKING:
    from bpflinkd.core.manager import Manager

_HELD: Final = (State.DISPLACED, State.TAMPERED)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """Would this program attach to this target, or to that of a link?"""

    caller: Caller
    target: WantedTarget | None
    """None for the link's."""
    program: WantedProgram
    link: str | None = None
    """Of ours, whose program would be replaced."""
    whole_log: bool = False
    """Also what the verifier writes on each instruction."""
    maps: MapWishes = AS_USUAL
    """What would become of the link's maps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRequest:
    """What would another program of a link do with these packets?"""

    caller: Caller
    name: str
    program: WantedProgram
    packets_fd: int
    most: int = testruns.TOLD
    """Differences that are told one by one."""
    force: bool = False
    """Whoever owns the link. Administrators only."""


class CheckBegun(NamedTuple):
    """What is known before the program is loaded."""

    checked: Checked
    obstacle: BpflinkdError | None
    """The refusal that an attach or replace would meet at the target."""
    features: tuple[Feature, ...]
    """What the target and the source need of this host."""
    record: Record | None
    """Of the link whose program would be replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What became of a check."""

    target: Target
    examined: Examined
    """Its program is closed by now."""
    obstacle: BpflinkdError | None
    features: tuple[Feature, ...]
    record: Record | None
    fates: Fates
    """What would become of its maps."""

    @property
    def memory(self) -> int:
        """Bytes that the program and its maps take."""
        return self.examined.memory + sum(each.memory for each in self.examined.maps)


class CompareBegun(NamedTuple):
    """A comparison that is allowed, and the generation that is compared with."""

    pair: Pair
    record: Record


class Checking:
    """Answers what would be."""

    def __init__(
        self,
        manager: "Manager",
        links: Links,
        access: Access,
        kernel: Kernel,
        store: Store,
        inspection: Inspection,
    ) -> None:
        self._manager = manager
        self._links = links
        self._access = access
        self._kernel = kernel
        self._store = store
        self._inspection = inspection

    # Would it attach?

    def begin_check(self, request: CheckRequest) -> CheckBegun:
        """Every refusal of an attach or replace that does not need the program, and who holds the target."""
        if request.link is None:
            checked, obstacle, record = *self._new_place(request), None
        else:
            checked, obstacle, record = self._place_of(request, request.link)
        needed = {_feature(checked.target)}
        if isinstance(request.program, SourceFile | SourceText):
            needed.add("source")
        features = tuple(each for each in self._inspection.features() if each.name in needed)
        return CheckBegun(checked, obstacle, features, record)

    def _new_place(self, request: CheckRequest) -> tuple[Checked, BpflinkdError | None]:
        target = request.target
        if target is None:
            raise BadTarget("there is no target to check for: give one, or the option 'link'")
        confined = self._put(request, target)
        hook = self._kernel.resolve(target)
        obstacle: BpflinkdError | None = None
        try:
            plan.check_target_there(target, hook, wait=False)
        except HookGone as gone:
            obstacle = gone
        occupant = self._kernel.occupant(hook) if hook else None
        if occupant is not None:
            assert isinstance(target, XdpTarget)
            obstacle = plan.busy(target, occupant, self._links.name_of(occupant))
        return Checked(target, hook, confined, given=isinstance(target, CgroupTarget)), obstacle

    def _place_of(self, request: CheckRequest, name: str) -> tuple[Checked, BpflinkdError | None, Record]:
        replacing = ReplaceRequest(caller=request.caller, name=name, program=request.program)
        checked = self._manager.replacing.check(replacing)
        entry = self._links.named(name)
        target = request.target
        if target is not None and not _same_place(target, entry.record.target):
            raise BadTarget(f"link {name!r} is on {entry.record.target}, not on {target}")
        health = entry.health
        obstacle = HookBusy(f"link {name!r} is {health.state}: {health.reason}")
        return checked, obstacle if health.state in _HELD else None, entry.record

    def _put(self, request: CheckRequest, target: WantedTarget) -> Confinement | None:
        caller = request.caller
        confined = self._access.put(caller, target, request.program, Policy.ALERT, action=Action.ATTACH)
        self._manager.ownership.check_new(caller, caller.user, "", target, force=False)
        return confined

    def examine(self, request: CheckRequest, begun: CheckBegun) -> Examined:
        """Load the program and see what it is, on another thread. Whoever gets it finishes with it."""
        checked = begun.checked
        return self._kernel.examiner.examine(
            request.program,
            checked.target,
            given=checked.given,
            confined=checked.confined,
            ifindex=checked.hook.ifindex if isinstance(checked.hook, XdpHook) else 0,
            whole_log=request.whole_log,
        )

    def finish_check(self, request: CheckRequest, begun: CheckBegun, examined: Examined) -> CheckReport:
        """Whether the program fits, and the answer. The program is unloaded."""
        try:
            checked, program = begun.checked, examined.program
            target = plan.settle_target(checked.target, program)
            if begun.record is None and checked.confined is not None:
                # The attach type is known now, where only the program told.
                checks.loaded_as_allowed(Loaded(program, checked.confined), self._put(request, target))
            fates = self._fates(request, begun.record, examined)
            return CheckReport(
                target=target,
                examined=examined,
                obstacle=begun.obstacle or fates.refusal,
                features=begun.features,
                record=begun.record,
                fates=fates,
            )
        finally:
            examined.program.close()

    def _fates(self, request: CheckRequest, record: Record | None, examined: Examined) -> Fates:
        """What would become of its maps; a program that is loaded already keeps its own. `BadOption`."""
        entry = self._links.get(record.name) if record is not None else None
        running = entry.held.program if entry is not None else None
        if running is None or isinstance(request.program, PinnedProgram | ProgramById | ProgramFd):
            return Fates({}, {})
        before = self._kernel.examiner.maps(running)
        new = (each.shape for each in examined.maps)
        return maps.fates((each.shape for each in before), new, request.maps)

    # What would it do?

    def begin_compare(self, request: CompareRequest) -> CompareBegun:
        """Every refusal of a replace that does not need the program; and hold the program that runs."""
        name = request.name
        replacing = ReplaceRequest(
            caller=request.caller, name=name, program=request.program, force=request.force
        )
        checked = self._manager.replacing.check(replacing)
        entry = self._links.named(name)
        record, running = entry.record, entry.held.program
        target, source = record.target, record.generation.source
        if isinstance(target, XdpTarget) and target.mode is XdpMode.OFFLOAD:
            raise NotSupported(f"link {name!r} runs on the device; packets are compared on the host only")
        if target.attach_type.program_type not in testruns.TESTABLE:
            kinds = " and ".join(each.name.lower() for each in testruns.TESTABLE)
            raise NotSupported(
                f"link {name!r} on {target} runs a program of type "
                f"{target.attach_type.program_type.name.lower()}; the kernel runs packets through programs "
                f"of the types {kinds} only"
            )
        if not isinstance(source, StoredObject | StoredSource | Builtin):
            raise BadProgram(
                f"the program of link {name!r} came from {source}, so there is no file to load it from once "
                "more; replace it with one from an object or source first, and compare with that"
            )
        image = None if isinstance(source, Builtin) else self._store.image(source.sha256)
        if running is None:
            raise HookGone(f"link {name!r} is {entry.health.state} and holds no program to compare with")
        live = self._kernel.hold_program(running.info.id, source)
        pair = Pair(
            target=target,
            program_type=target.attach_type.program_type,
            live=live,
            source=source,
            image=image,
            confinement=record.generation.confinement,
            new=request.program,
            confined=checked.confined,
            check_type=lambda program: plan.settle_target(target, program),
            ifindex=record.hook.ifindex if isinstance(record.hook, XdpHook) else IfIndex(0),
        )
        return CompareBegun(pair, record)

    def compare(self, request: CompareRequest, begun: CompareBegun) -> Comparison:
        """Run the packets, on another thread."""
        try:
            return self._kernel.examiner.compare(begun.pair, request.packets_fd, request.most)
        finally:
            begun.pair.live.close()


def _same_place(wanted: WantedTarget, target: Target) -> bool:
    """Whether they are one place, however it is attached there."""
    match wanted, target:
        case XdpTarget(), XdpTarget():
            return wanted.interface == target.interface
        case CgroupPlace(), CgroupTarget():
            return wanted.path == target.path
        case ((KprobeTarget() | KprobeMultiTarget()), (KprobeTarget() | KprobeMultiTarget())):
            return str(wanted) == str(target)
        case _:
            return wanted == target


def _feature(target: WantedTarget) -> str:
    """What a host must be able to do, as `Features` names it."""
    match target:
        case XdpTarget():
            return "xdp"
        case CgroupTarget() | CgroupPlace():
            return "cgroup"
        case KprobeTarget():
            return "kprobe"
        case KprobeMultiTarget():
            return "kprobe-multi"
