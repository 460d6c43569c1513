"""The core's `Kernel` port on the real kernel: each method a few calls of the modules beside it."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias, assert_never, cast

from bpflinkd.core import attach_types
from bpflinkd.core.errors import BpflinkdError, HookBusy, HookGone, NotSupported
from bpflinkd.core.ids import LinkId, ProgId
from bpflinkd.core.judging import Counter
from bpflinkd.core.maps import AS_USUAL, MapWishes
from bpflinkd.core.model import Confinement, Feature, Foreign, LinkFacts, Occupant, ProgramInfo
from bpflinkd.core.patterns import Interface
from bpflinkd.core.ports import FoundLink, Link, Program, TakenOver
from bpflinkd.core.runs import RunCounts
from bpflinkd.core.sources import Source, WantedProgram
from bpflinkd.core.survey import Survey
from bpflinkd.core.targets import (
    CgroupPlace,
    CgroupTarget,
    Hook,
    IfIndex,
    KprobeHook,
    KprobeMultiHook,
    KprobeMultiTarget,
    KprobeTarget,
    Target,
    WantedTarget,
    XdpHook,
    XdpMode,
    XdpTarget,
)
from bpflinkd.kernel import (
    adopting,
    counters,
    counting,
    errnos,
    features,
    holders,
    info,
    interfaces,
    kprobe,
    libbpf,
    opening,
    program,
    xdp,
)
from bpflinkd.kernel.cgroup import CgroupTree, HeldCompany
from bpflinkd.kernel.compile import LIMITS
from bpflinkd.kernel.dispatched import DispatchedLink
from bpflinkd.kernel.helper import Limits
from bpflinkd.kernel.kprobe import Kprobes
from bpflinkd.kernel.link import HeldLink
from bpflinkd.kernel.opening import ProgramOpener
from bpflinkd.kernel.program import HeldProgram
from bpflinkd.kernel.survey import survey
from bpflinkd.kernel.tried import ProgramExaminer

Swapped: TypeAlias = Callable[[Target, float, bool], None]
"""Told of each swap: where, how many seconds it took, and whether it was done."""


class LinuxKernel:
    """Implements `core.ports.Kernel`."""

    def __init__(
        self,
        *,
        compile_limits: Limits = LIMITS,
        compiler_socket: Path | None = None,
        swapped: Swapped | None = None,
    ) -> None:
        """The first two are those of `ProgramOpener`."""
        self._swapped = swapped
        self._counting = counting.Counting()
        self._programs = ProgramOpener(compile_limits, compiler_socket)
        self.examiner = ProgramExaminer(compile_limits, compiler_socket)
        self._compiler_socket = compiler_socket
        self._cgroups = CgroupTree()
        self._kprobes = Kprobes()

    # Programs

    def open_program(
        self,
        wanted: WantedProgram,
        target: WantedTarget,
        *,
        given: bool = False,
        confined: Confinement | None = None,
        replaces: Program | None = None,
        wishes: MapWishes = AS_USUAL,
    ) -> HeldProgram:
        before = cast(HeldProgram | None, replaces)
        return self._programs.open(
            wanted, target, given=given, confined=confined, replaces=before, wishes=wishes
        )

    def read_program(self, wanted: WantedProgram, *, sealed: bool) -> WantedProgram:
        return opening.read(wanted, sealed=sealed)

    def hold_program(self, prog_id: ProgId, source: Source, maps: tuple[str, ...] = ()) -> HeldProgram:
        return program.from_id(prog_id, source, maps)

    def reload_program(
        self,
        source: Source,
        image: bytes | None,
        target: Target,
        confined: Confinement | None = None,
        replaces: Program | None = None,
        wishes: MapWishes = AS_USUAL,
    ) -> HeldProgram:
        before = cast(HeldProgram | None, replaces)
        return self._programs.reload(source, image, target, confined, before, wishes)

    # Hooks

    def cgroup_root(self) -> Path | None:
        """Where cgroup v2 is mounted; None where it is not."""
        try:
            return self._cgroups.root
        except NotSupported:
            return None

    def features(self) -> tuple[Feature, ...]:
        return tuple(features.found(self._compiler_socket))

    def resolve(self, target: WantedTarget) -> Hook | None:
        match target:
            case XdpTarget(interface=interface):
                return xdp.hook(interface)
            case CgroupTarget(path=path) | CgroupPlace(path=path):
                return self._cgroups.hook(path)
            case KprobeTarget() | KprobeMultiTarget():
                return self._kprobes.hook(target)
            case _:
                assert_never(target)

    def interfaces(self) -> Mapping[str, IfIndex]:
        return xdp.interfaces()

    def described_interfaces(self) -> tuple[Interface, ...]:
        return interfaces.interfaces()

    def described_interface(self, ifindex: IfIndex) -> Interface | None:
        return interfaces.interface(ifindex)

    def cgroups(self, pattern: str) -> Iterator[str]:
        return self._cgroups.matching(pattern)

    def read_counter(self, counter: Counter, program: Program, hook: Hook | None) -> int:
        return counters.read(counter, cast(HeldProgram, program), hook)

    def occupant(self, hook: Hook, known: Occupant | None = None) -> Occupant | None:
        if not isinstance(hook, XdpHook):
            return None  # programs on cgroups and kprobes sit side by side
        return next(xdp.occupants(hook.ifindex, known=known), None)

    def company(self, target: CgroupTarget) -> HeldCompany | None:
        return self._cgroups.company(target)

    def describe(self, prog_id: ProgId) -> ProgramInfo:
        try:
            return info.program_info_by_id(prog_id)
        except OSError:
            return ProgramInfo(id=prog_id, name="", tag="", type=0)

    def kprobes_off(self) -> bool:
        return kprobe.switched_off()

    def identify(self, facts: LinkFacts, known: Occupant | None = None) -> Occupant:
        if known is not None and (known.program.id, known.link_id) == (facts.prog_id, facts.id):
            return known
        held_by = holders.processes(facts.prog_id, facts.id)
        return Occupant(program=self.describe(facts.prog_id), link_id=facts.id, processes=held_by)

    # Links

    def create_link(self, target: Target, hook: Hook, program: Program) -> HeldLink:
        held = cast(HeldProgram, program)
        try:
            match target:
                case XdpTarget(mode=mode):
                    assert isinstance(hook, XdpHook)
                    number, flags = attach_types.XDP.number, xdp.MODE_FLAGS[mode]
                    fd = libbpf.link_create(held.fd, hook.ifindex, number, flags)
                case KprobeTarget() | KprobeMultiTarget():
                    assert isinstance(hook, KprobeHook | KprobeMultiHook)
                    return self._kprobes.attach(target, hook, held)
                case CgroupTarget(path=path, attach_type=attach_type):
                    with self._cgroups.opened(path) as cgroup_fd:
                        fd = libbpf.link_create(held.fd, cgroup_fd, attach_type.number)
                case _:
                    assert_never(target)
        except OSError as error:
            if isinstance(hook, XdpHook) and xdp.hook(cast(XdpTarget, target).interface) != hook:
                raise HookGone(f"{target} was removed or renamed meanwhile") from None
            raise errnos.attach_error(error, target, held.info.name) from None
        return HeldLink(fd)

    def swap(self, link: Link, target: Target, program: Program, expected: ProgId) -> None:
        self._measured(target, partial(self._swap, link, target, program, expected))

    def _measured(self, target: Target, swap: Callable[[], None]) -> None:
        began, done = time.monotonic(), False
        try:
            swap()
            done = True
        finally:
            if self._swapped is not None:
                self._swapped(target, time.monotonic() - began, done)

    def _swap(self, link: Link, target: Target, program: Program, expected: ProgId) -> None:
        held, live = cast(HeldProgram, program), cast(HeldLink, link)
        if isinstance(live, DispatchedLink):
            self._swap_slot(live, target, held, expected)
            return
        try:
            with info.opened_program(expected) as old_fd:
                if isinstance(target, XdpTarget):
                    # Give way once: measured, the update then waits for one grace period of RCU
                    # instead of two. See docs/performance.md.
                    time.sleep(0)
                libbpf.link_update(live.fd, held.fd, old_prog_fd=old_fd)
        except OSError as error:
            raise self._not_swapped(error, live, target, held, expected) from None

    def prepare_swap(
        self, link: Link, target: Target, program: Program, expected: ProgId, running: Program
    ) -> Callable[[], None]:
        held, live, before = cast(HeldProgram, program), cast(HeldLink, link), cast(HeldProgram, running)
        if isinstance(live, DispatchedLink) or before.info.id != expected:
            return partial(self.swap, link, target, program, expected)

        def swap() -> None:
            try:
                libbpf.link_update(live.fd, held.fd, old_prog_fd=before.fd)
            except OSError as error:
                raise self._not_swapped(error, live, target, held, expected) from None

        return swap if self._swapped is None else partial(self._measured, target, swap)

    def _not_swapped(
        self, error: OSError, link: HeldLink, target: Target, program: HeldProgram, expected: ProgId
    ) -> BpflinkdError:
        running = link.facts()
        if running.prog_id != expected:
            return HookBusy(
                f"our link on {target} runs {self.identify(running)} by now, not program id {expected}"
            )
        return errnos.swap_error(error, target, program.info.name)

    def _swap_slot(
        self, link: DispatchedLink, target: Target, program: HeldProgram, expected: ProgId
    ) -> None:
        """Look, then put: the kernel has no compare-and-swap for slots, and only we write to ours."""
        if link.slot.program() != expected:
            raise HookBusy(
                f"the slot of {target} holds {self.identify(link.facts())} by now, not program id {expected}"
            )
        try:
            link.slot.put(program.fd)
        except OSError as error:
            raise errnos.swap_error(error, target, program.info.name) from None

    def detach(self, link: Link) -> None:
        cast(HeldLink, link).detach()

    def evict(self, hook: Hook, occupant: Occupant) -> None:
        assert isinstance(hook, XdpHook)
        xdp.evict(hook.ifindex, occupant)

    def find_link(self, link_id: LinkId | None, pin: str | None) -> FoundLink:
        return adopting.find(self._cgroups, link_id, pin)

    def take_over(self, target: Target, hook: Hook, occupant: Occupant, program: Program) -> TakenOver:
        assert isinstance(target, XdpTarget)
        assert isinstance(hook, XdpHook)
        return adopting.take_over(target, hook, occupant, cast(HeldProgram, program))

    def give_back(self, link: Link, target: Target, hook: Hook, program: Program) -> None:
        assert isinstance(target, XdpTarget)
        assert isinstance(hook, XdpHook)
        adopting.give_back(cast(HeldLink, link), target, hook, cast(HeldProgram, program))

    # Counting

    def have_runs_counted(self, *, wanted: bool) -> None:
        self._counting.set(wanted=wanted)

    def runs_not_counted(self) -> str:
        return self._counting.reason()

    def run_counts(self, link: Link | None, program: Program | None) -> RunCounts | None:
        return counting.run_counts(cast(HeldLink | None, link), cast(HeldProgram | None, program))

    # The whole host

    def survey(self) -> Survey:
        return survey(self._cgroups)

    def foreign(self, targets: Iterable[Target], ours: frozenset[LinkId]) -> tuple[Foreign, ...]:
        found: list[Foreign] = []
        for name, ifindex in xdp.interfaces().items():
            for occupant in xdp.occupants(ifindex, seconds=holders.AT_LEISURE):
                if occupant.link_id not in ours:
                    mode = occupant.mode or XdpMode.AUTO
                    place = XdpTarget(interface=name, mode=mode)
                    found.append(Foreign(target=place, occupant=occupant))
        paths = {target.path for target in targets if isinstance(target, CgroupTarget)}
        links = list(holders.links()) if paths else []
        for path in sorted(paths):
            found.extend(self._foreign_on_cgroup(path, links, ours))
        return tuple(found)

    def _foreign_on_cgroup(
        self, path: str, links: list[info.LinkInfo], ours: frozenset[LinkId]
    ) -> Iterable[Foreign]:
        hook = self._cgroups.hook(path)
        if hook is None:
            return
        here = {(x.attach_type, x.prog_id): x.id for x in links if x.hook == hook and x.id not in ours}
        own = {(x.attach_type, x.prog_id) for x in links if x.hook == hook and x.id in ours}
        for target, prog_id in self._cgroups.programs(path):
            key = (target.attach_type.number, prog_id)
            link_id = here.pop(key, None)
            if link_id is None and key in own:
                own.discard(key)
                continue
            try:
                described = info.program_info_by_id(prog_id)
            except OSError:
                continue  # it left meanwhile
            held_by = holders.processes(prog_id, link_id, seconds=holders.AT_LEISURE)
            yield Foreign(
                target=target,
                occupant=Occupant(program=described, link_id=link_id, processes=held_by),
            )
