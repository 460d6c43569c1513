"""Makes the links what files say: at a reload all of them, and one where a template's match appears.

For the worker thread only. What must be compiled first is handed back as pending.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, assert_never

from bpflinkd.core import declared
from bpflinkd.core.callers import ROOT_CALLER
from bpflinkd.core.checks import Checked, Loaded
from bpflinkd.core.declared import (
    Attach,
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
from bpflinkd.core.events import (
    CgroupAppeared,
    CgroupGone,
    InterfaceChanged,
    InterfaceGone,
    ModuleChanged,
    PinsTouched,
    Tiding,
)
from bpflinkd.core.links import Links
from bpflinkd.core.model import Record
from bpflinkd.core.pending import Pending
from bpflinkd.core.ports import Kernel, Program, Store
from bpflinkd.core.requests import AttachRequest, ReplaceRequest
from bpflinkd.core.sources import KeptObject, KeptSource, PinnedProgram, SourceText, WantedProgram, with_bytes
from bpflinkd.core.targets import CgroupTarget, IfIndex
from bpflinkd.core.templates import Templates, Wanted

if TYPE_CHECKING:
    from bpflinkd.core.manager import Manager

log = logging.getLogger(__name__)

_Put: TypeAlias = Callable[[Wanted, WantedProgram, Program | None], None]
"""Puts a program in place that was compiled already, or is to be opened."""
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
        self._templates = Templates(links, kernel)
        self._late: dict[str, Wanted] = {}
        """Links whose program's pin is not there yet, by name."""
        self._compiling: set[str] = set()
        """Links whose program is pending."""
        self._reloads = 0
        self._places: dict[str, str] = {}
        """Where each link and template is declared, by its name."""

    @property
    def cgroup_patterns(self) -> frozenset[str]:
        """Where cgroups may appear that templates are for."""
        return self._templates.cgroup_patterns

    def reload(self, read: Declarations) -> Outcome:
        """Apply the difference between what the files say and what there is."""
        self._reloads += 1
        self._late.clear()
        self._compiling.clear()
        self._places = {declaration.name: declaration.place for declaration in read}
        unreadable = [refused.file for refused in read.refused if not refused.name]
        self._templates.take(read.templates, unreadable)
        wanted = [*read.links, *self._templates.everywhere(read.links)]
        records = {name: entry.record for name, entry in self._links.items()}
        lost = frozenset(name for name, entry in self._links.items() if entry.held.program is None)
        steps, conflicts = declared.difference(wanted, records, unreadable, lost)
        outcome = Outcome(refused=[*read.refused, *conflicts])
        outcome.done["unchanged"] = len(wanted) - len(conflicts)
        for refusal in outcome.refused:
            log.error("refused: %s", refusal.sentence)
        for step in steps:
            outcome.done["unchanged"] -= not isinstance(step, Detach)
            self._try(step, outcome)
        return outcome

    def declares(self, name: str) -> str:
        """Where a link of this name is declared, by itself or by a template; empty where it is not."""
        return self._places.get(name) or self._places.get(name.partition("@")[0] if "@" in name else "", "")

    def hear(self, tiding: Tiding) -> list[Pending]:
        """A watcher saw something: make links for new matches of templates."""
        match tiding:
            case InterfaceChanged(ifindex=ifindex, name=name):
                entry = self._templates.mismatched(ifindex)
                if entry is not None:
                    self._manager.end(entry.record.name, f"{name} does not match any more")
                return self._cover(self._templates.for_interface(ifindex, name))
            case CgroupAppeared(path=path):
                return self._cover(self._templates.for_cgroup(path))
            case InterfaceGone(name=match) | CgroupGone(path=match):
                self._templates.gone(match)
            case ModuleChanged() | PinsTouched():
                pass
            case _:
                assert_never(tiding)
        return []

    def follow(self, ifindex: IfIndex, name: str) -> None:
        """What a template made for an interface that was renamed goes on under another name."""
        found = self._templates.renamed(ifindex, name)
        if found is None:
            return
        entry, wanted = found
        try:
            self._manager.rename(entry.record.name, wanted)
        except BpflinkdError as error:
            log.error("link %r cannot follow its interface: %s", entry.record.name, error)

    def sweep(self) -> list[Pending]:
        """Look for matches that no watcher told of, and for pins that have come."""
        for name, link in tuple(self._late.items()):
            del self._late[name]
            self._try(Attach(link), Outcome(), quietly=True)
        return self._cover(self._templates.unseen())

    def decline(self, record: Record) -> None:
        """A caller ended a link, or a stranger has it: it is not made again while the target is there."""
        if record.origin.template:
            self._templates.decline(record.name, record.target)

    def _cover(self, wanted: Iterable[Wanted]) -> list[Pending]:
        """Make links that templates ask for."""
        outcome = Outcome()
        for link in wanted:
            if link.name in self._compiling:
                continue
            before = len(outcome.refused)
            self._try(Attach(link), outcome)
            if len(outcome.refused) > before:
                self._templates.decline(link.name, link.target)
        return outcome.pending

    # Steps

    def _try(self, step: Step, outcome: Outcome, *, quietly: bool = False) -> None:
        try:
            self._do(step, outcome)
        except BpflinkdError as error:
            if isinstance(step, Detach):
                log.error("link %r is declared no more and cannot be detached: %s", step.name, error)
            else:
                self._refuse(step.wanted, error, outcome, quietly=quietly)

    def _refuse(
        self, wanted: Wanted, error: BpflinkdError, outcome: Outcome, *, quietly: bool = False
    ) -> None:
        if isinstance(wanted.program, PinnedProgram) and wanted.name not in self._links:
            self._late[wanted.name] = wanted
        if quietly:
            return
        sentence = f"{wanted.place}: link {wanted.name!r}: {error}"
        log.error("refused: %s", sentence)
        outcome.refused.append(Refused(file=wanted.file, name=wanted.name, sentence=sentence, log=error.log))

    def _do(self, step: Step, outcome: Outcome) -> None:
        match step:
            case Detach(name=name):
                self._manager.end(name, "it is declared no more")
                outcome.done["detached"] += 1
            case Settle(wanted=wanted):
                self._manager.settle(wanted)
                outcome.done["changed"] += 1
            case Replace(wanted=wanted):
                self._put(wanted, self._replace, "replaced", outcome)
            case Move(wanted=wanted):
                self._put(wanted, self._move, "moved", outcome)
            case Attach(wanted=wanted):
                self._put(wanted, self._attach, "attached", outcome)
            case _:
                assert_never(step)

    def _put(self, wanted: Wanted, how: _Put, counts_as: str, outcome: Outcome) -> None:
        """Put a program in place, now or when it was compiled."""
        program = self._openable(wanted.program)
        if not isinstance(program, SourceText):
            how(wanted, program, None)
            outcome.done[counts_as] += 1
            return
        reload = self._reloads

        def compiled(loaded: Program) -> None:
            if reload != self._reloads:
                loaded.close()  # a later reload has seen to this link
                return
            how(wanted, program, loaded)
            self._compiling.discard(wanted.name)
            outcome.done[counts_as] += 1

        def failed(error: BpflinkdError) -> None:
            self._compiling.discard(wanted.name)
            self._refuse(wanted, error, outcome)

        self._compiling.add(wanted.name)
        entry = self._links.get(wanted.name) if counts_as == "replaced" else None
        running = entry.held.program if entry is not None else None
        checked = Checked(wanted.target, None, None, replaces=running, wishes=wanted.maps)
        outcome.pending.append(Pending(source=program, checked=checked, compiled=compiled, failed=failed))

    def _attach(self, wanted: Wanted, program: WantedProgram, loaded: Program | None) -> None:
        request = AttachRequest(
            caller=ROOT_CALLER,
            name=wanted.name,
            target=wanted.target,
            program=program,
            policy=wanted.policy,
            lifetime=wanted.lifetime,
            wait=True,
            owner=wanted.owner,
            force=True,
            origin=wanted.origin,
        )
        self._manager.attach(request, Loaded(loaded) if loaded else None)

    def _replace(self, wanted: Wanted, program: WantedProgram, loaded: Program | None) -> None:
        self._manager.settle(wanted, program_too=False)
        self._manager.replacing.replace(
            ReplaceRequest(
                caller=ROOT_CALLER,
                name=wanted.name,
                program=program,
                ours=True,
                origin=wanted.origin,
                maps=wanted.maps,
            ),
            Loaded(loaded) if loaded else None,
        )

    def _move(self, wanted: Wanted, program: WantedProgram, loaded: Program | None) -> None:
        # A program that cannot be loaded must not cost the link that there is.
        given = isinstance(wanted.target, CgroupTarget)
        loaded = loaded or self._kernel.open_program(program, wanted.target, given=given)
        try:
            self._manager.end(wanted.name, f"it is declared on {wanted.target} now")
        except BaseException:
            loaded.close()
            raise
        self._attach(wanted, program, loaded)

    def _openable(self, program: DeclaredProgram) -> WantedProgram:
        """With its bytes, where only our store has them."""
        if not isinstance(program, KeptObject | KeptSource):
            return program
        data = self._store.image(program.sha256)
        if data is None:
            raise BadProgram(
                f"the store has no object {program.sha256[:12]}: no link uses it; name a file instead"
            )
        return with_bytes(program, data)
