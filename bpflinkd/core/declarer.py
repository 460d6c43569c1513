"""Makes the links what files say: at a reload all of them, and one where a template's match appears.

For the worker thread only. What must be compiled first is handed back as pending.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, assert_never

from bpflinkd.core import declared
from bpflinkd.core.declared import (
    Attach,
    Declaration,
    Declarations,
    DeclaredProgram,
    Detach,
    Move,
    Refused,
    Replace,
    Settle,
    Step,
)
from bpflinkd.core.errors import BadProgram, BpflinkdError
from bpflinkd.core.events import CgroupAppeared, CgroupGone, InterfaceChanged, InterfaceGone, Tiding
from bpflinkd.core.links import Links
from bpflinkd.core.model import (
    KeptObject,
    KeptSource,
    ObjectImage,
    PinnedProgram,
    Record,
    SourceText,
    WantedProgram,
)
from bpflinkd.core.patterns import CgroupPattern, Interface, InterfacePattern
from bpflinkd.core.pending import Pending
from bpflinkd.core.ports import Kernel, Program, Store
from bpflinkd.core.requests import AttachRequest, Caller, ReplaceRequest
from bpflinkd.core.targets import CgroupTarget, IfIndex, XdpHook, XdpTarget

if TYPE_CHECKING:
    from bpflinkd.core.manager import Manager

log = logging.getLogger(__name__)

_ROOT: Final = Caller(uid=0)
"""Files that others could write are not read."""


@dataclass(slots=True)
class Outcome:
    """What a reload did."""

    done: Counter[str] = field(default_factory=Counter)
    """How many links were `attached`, `replaced`, `moved`, `changed`, `detached`, `unchanged`."""
    refused: list[Refused] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    """Not in the counts yet: each adds itself, or its refusal, when it was compiled."""


class Declarer:
    """The declared links of one host."""

    def __init__(self, manager: "Manager", links: Links, kernel: Kernel, store: Store) -> None:
        self._manager = manager
        self._links = links
        self._kernel = kernel
        self._store = store
        self._templates: tuple[Declaration, ...] = ()
        self._late: dict[str, Declaration] = {}
        """Links whose program's pin is not there yet, by name."""
        self._declined: dict[str, str] = {}
        """Links that templates do not make, with the match: a caller ended it, or it cannot be made."""
        self._seen: set[tuple[str, IfIndex]] = set()
        """Interfaces that the templates were tried on."""
        self._reloads = 0

    @property
    def cgroup_patterns(self) -> frozenset[str]:
        """Where cgroups may appear that templates are for."""
        return frozenset(t.target.path for t in self._templates if isinstance(t.target, CgroupPattern))

    def reload(self, read: Declarations) -> Outcome:
        """Apply the difference between what the files say and what there is."""
        self._reloads += 1
        self._declined.clear()
        self._late.clear()
        unreadable = [refused.file for refused in read.refused if not refused.name]
        plain: list[Declaration] = []
        templates: list[Declaration] = []
        for link in read.links:
            is_template = isinstance(link.target, InterfacePattern | CgroupPattern)
            (templates if is_template else plain).append(link)
        # A file that is bad now leaves all that came from it as it is.
        kept = (t for t in self._templates if declared.within(t.file, unreadable))
        self._templates = (*templates, *kept)
        wanted = [*plain, *self._expanded(plain)]
        records = {name: entry.record for name, entry in self._links.items()}
        lost = frozenset(name for name, entry in self._links.items() if entry.held.program is None)
        steps, conflicts = declared.difference(wanted, records, unreadable, lost)
        outcome = Outcome(refused=[*read.refused, *conflicts])
        outcome.done["unchanged"] = len(wanted) - len(conflicts)
        for step in steps:
            outcome.done["unchanged"] -= not isinstance(step, Detach)
            self._try(step, outcome)
        for refusal in outcome.refused:
            log.error("refused: %s", refusal.sentence)
        return outcome

    def hear(self, tiding: Tiding) -> list[Pending]:
        """A watcher saw something: make links for new matches of templates."""
        outcome = Outcome()
        match tiding:
            case InterfaceChanged(ifindex=ifindex, name=name):
                self._hear_interface(ifindex, name, outcome)
            case InterfaceGone(ifindex=ifindex, name=name):
                self._seen.discard((name, ifindex))
                self._forget_declined(name)
            case CgroupAppeared(path=path):
                self._cover_cgroup(path, outcome)
            case CgroupGone(path=path):
                self._forget_declined(path)
            case _:
                pass
        return outcome.pending

    def follow(self, ifindex: IfIndex, name: str) -> None:
        """An interface was renamed, perhaps: what a template made for it goes on under another name."""
        for entry in tuple(self._links.values()):
            record = entry.record
            target = record.target
            if (
                not isinstance(target, XdpTarget)
                or record.hook != XdpHook(ifindex)
                or target.interface == name
            ):
                continue
            interface = self._kernel.described_interface(ifindex)
            template = next((t for t in self._templates if t.name == record.origin.template), None)
            if interface is None or template is None or not isinstance(template.target, InterfacePattern):
                return
            if template.target.matches(interface) and target.interface not in interface.altnames:
                try:
                    self._manager.rename(record.name, declared.expand(template, interface))
                except BpflinkdError as error:
                    log.error("link %r cannot follow its interface: %s", record.name, error)

    def sweep(self) -> list[Pending]:
        """Look for matches that no watcher told of, and for pins that have come."""
        outcome = Outcome()
        for name, link in tuple(self._late.items()):
            del self._late[name]
            self._try(Attach(link), outcome, quietly=True)
        for pattern in self.cgroup_patterns:
            for path in self._kernel.cgroups(pattern):
                self._cover_cgroup(path, outcome)
        patterns = [t.target for t in self._templates if isinstance(t.target, InterfacePattern)]
        if any(pattern.altname for pattern in patterns):
            # An interface that is down tells nobody of a new alternative name.
            for interface in self._kernel.described_interfaces():
                self._cover_interface(interface, outcome)
        elif patterns:
            now = {(name, ifindex) for name, ifindex in self._kernel.interfaces().items()}
            for name, ifindex in now - self._seen:
                self._hear_interface(ifindex, name, outcome)
            self._seen &= now
        return outcome.pending

    def decline(self, record: Record) -> None:
        """A caller ended a link: its template does not make it again while the target is there."""
        target = record.target
        if record.origin.template and isinstance(target, XdpTarget):
            self._declined[record.name] = target.interface
        elif record.origin.template and isinstance(target, CgroupTarget):
            self._declined[record.name] = target.path

    # Templates

    def _expanded(self, plain: Iterable[Declaration]) -> Iterator[Declaration]:
        """A link for each match of each template that is there now; a link of its own goes first."""
        targets = [link.target for link in plain]
        targets += [e.record.target for e in self._links.values() if not e.record.origin.file]
        taken = {target.interface for target in targets if isinstance(target, XdpTarget)}
        interfaces: tuple[Interface, ...] = ()
        if any(isinstance(t.target, InterfacePattern) for t in self._templates):
            interfaces = self._kernel.described_interfaces()
            self._seen = {(interface.name, interface.ifindex) for interface in interfaces}
        for template in self._templates:
            if isinstance(template.target, CgroupPattern):
                for path in self._kernel.cgroups(template.target.path):
                    yield declared.expand(template, path)
                continue
            assert isinstance(template.target, InterfacePattern)
            for interface in interfaces:
                if template.target.matches(interface) and interface.name not in taken:
                    taken.add(interface.name)
                    yield declared.expand(template, interface)

    def _hear_interface(self, ifindex: IfIndex, name: str, outcome: Outcome) -> None:
        if not any(isinstance(t.target, InterfacePattern) for t in self._templates):
            return
        interface = self._kernel.described_interface(ifindex)
        if interface is None or interface.name != name:
            return  # another tiding will tell
        self._seen.add((name, ifindex))
        self._cover_interface(interface, outcome)

    def _cover_interface(self, interface: Interface, outcome: Outcome) -> None:
        patterns = {t: t.target for t in self._templates if isinstance(t.target, InterfacePattern)}
        fitting = [t for t, pattern in patterns.items() if pattern.matches(interface)]
        holder = self._holder(interface)
        if holder is not None and holder.origin.template:
            if holder.origin.template in {t.name for t in fitting}:
                return
            # It has another address now, say, and the template is for it no more.
            self._manager.end(holder.name, f"{interface.name} does not match any more")
        elif holder is not None:
            return  # a link of its own goes before any template's
        for template in fitting[:1]:
            self._cover(declared.expand(template, interface), interface.name, outcome)

    def _holder(self, interface: Interface) -> Record | None:
        """The link of ours that is on an interface, or waits for it."""
        for entry in self._links.values():
            target = entry.record.target
            if isinstance(target, XdpTarget) and target.interface == interface.name:
                return entry.record
        return None

    def _cover_cgroup(self, path: str, outcome: Outcome) -> None:
        for template in self._templates:
            if isinstance(template.target, CgroupPattern) and template.target.matches(path):
                self._cover(declared.expand(template, path), path, outcome)

    def _cover(self, wanted: Declaration, match: str, outcome: Outcome) -> None:
        if wanted.name in self._links or wanted.name in self._declined:
            return
        before = len(outcome.refused)
        self._try(Attach(wanted), outcome)
        for refusal in outcome.refused[before:]:
            self._declined[wanted.name] = match
            log.error("refused: %s", refusal.sentence)

    def _forget_declined(self, match: str) -> None:
        """The match is gone: if it comes again, it is a new one."""
        self._declined = {name: at for name, at in self._declined.items() if at != match}

    # Steps

    def _try(self, step: Step, outcome: Outcome, *, quietly: bool = False) -> None:
        try:
            self._do(step, outcome)
        except BpflinkdError as error:
            self._refuse(step, error, outcome, quietly=quietly)

    def _refuse(self, step: Step, error: BpflinkdError, outcome: Outcome, *, quietly: bool = False) -> None:
        if isinstance(step, Detach):
            log.error("link %r is declared no more and cannot be detached: %s", step.name, error)
            return
        wanted = step.wanted
        if isinstance(wanted.program, PinnedProgram) and isinstance(step, Attach):
            self._late[wanted.name] = wanted
        if not quietly:
            sentence = f"{wanted.place}: link {wanted.name!r}: {error}"
            outcome.refused.append(
                Refused(file=wanted.file, name=wanted.name, sentence=sentence, log=error.log)
            )

    def _do(self, step: Step, outcome: Outcome) -> None:
        manager = self._manager
        match step:
            case Detach(name=name):
                manager.end(name, "it is declared no more")
                outcome.done["detached"] += 1
            case Settle(wanted=wanted):
                manager.settle(wanted)
                outcome.done["changed"] += 1
            case Replace(wanted=wanted):
                self._put(step, wanted, "replaced", outcome)
            case Move(wanted=wanted):
                manager.end(wanted.name, f"it is declared on {wanted.target} now")
                self._put(step, wanted, "moved", outcome)
            case Attach(wanted=wanted):
                self._put(step, wanted, "attached", outcome)
            case _:
                assert_never(step)

    def _put(self, step: Step, wanted: Declaration, counts_as: str, outcome: Outcome) -> None:
        """Attach or replace, now or when the source was compiled."""
        program = self._openable(wanted.program)
        if not isinstance(program, SourceText):
            self._put_now(wanted, program, None)
            outcome.done[counts_as] += 1
            return
        reload = self._reloads

        def compiled(loaded: Program) -> None:
            if reload != self._reloads:
                loaded.close()  # a later reload has seen to this link
                return
            try:
                self._put_now(wanted, program, loaded)
                outcome.done[counts_as] += 1
            except BpflinkdError as error:
                failed(error)

        def failed(error: BpflinkdError) -> None:
            self._refuse(step, error, outcome)
            log.error("refused: %s", outcome.refused[-1].sentence)

        assert not isinstance(wanted.target, InterfacePattern | CgroupPattern)
        outcome.pending.append(
            Pending(source=program, target=wanted.target, compiled=compiled, failed=failed)
        )

    def _put_now(self, wanted: Declaration, program: WantedProgram, loaded: Program | None) -> None:
        assert not isinstance(wanted.target, InterfacePattern | CgroupPattern)
        if wanted.name in self._links:
            self._manager.settle(wanted, program_too=False)
            swap = ReplaceRequest(caller=_ROOT, name=wanted.name, program=program, origin=wanted.origin)
            self._manager.replace(swap, loaded)
            return
        request = AttachRequest(
            caller=_ROOT,
            name=wanted.name,
            target=wanted.target,
            program=program,
            policy=wanted.policy,
            lifetime=wanted.lifetime,
            wait=True,
            owner=wanted.owner,
            origin=wanted.origin,
        )
        self._manager.attach(request, loaded)

    def _openable(self, program: DeclaredProgram) -> WantedProgram:
        """With its bytes, where only our store has them."""
        if not isinstance(program, KeptObject | KeptSource):
            return program
        data = self._store.image(program.sha256)
        if data is None:
            raise BadProgram(
                f"the store has no object {program.sha256[:12]}: no link uses it; name a file instead"
            )
        kind = ObjectImage if isinstance(program, KeptObject) else SourceText
        return kind(data=data, sha256=program.sha256, program=program.program)
