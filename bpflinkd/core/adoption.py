"""Adopt: own what somebody else attached. Runs on the worker thread, and only there.

A bpf_link goes on as it is: we hold and pin it as well, so there is no gap. A program that was attached by
netlink must leave before a bpf_link can take its hook: the time between is measured and told.
"""

import logging
from dataclasses import replace

from bpflinkd.core import checks, names, plan
from bpflinkd.core.access import Access
from bpflinkd.core.actions import Action as Step
from bpflinkd.core.actions import HoldLink, Promote, SaveDone, SaveIntent, StageProgram, TakeOver
from bpflinkd.core.callers import Action
from bpflinkd.core.errors import BadOption, HookBusy, HookGone, NameTaken, NotAuthorized
from bpflinkd.core.events import LinkAdded
from bpflinkd.core.executor import Executor, Held
from bpflinkd.core.links import Entry, Links
from bpflinkd.core.model import Health, LinkView, Occupant, Record, State
from bpflinkd.core.ownership import Ownership
from bpflinkd.core.ports import Clock, Kernel, Link, Pins, Program, Publish, Store
from bpflinkd.core.requests import AdoptRequest
from bpflinkd.core.sources import ProgramById
from bpflinkd.core.targets import Hook, Target, XdpMode, XdpTarget

log = logging.getLogger(__name__)


class Adoption:
    """Takes links over from others."""

    def __init__(
        self,
        links: Links,
        access: Access,
        ownership: Ownership,
        kernel: Kernel,
        pins: Pins,
        store: Store,
        executor: Executor,
        publish: Publish,
        clock: Clock,
    ) -> None:
        self._links = links
        self._access = access
        self._ownership = ownership
        self._kernel = kernel
        self._pins = pins
        self._store = store
        self._executor = executor
        self._publish = publish
        self._clock = clock

    def adopt(self, request: AdoptRequest) -> LinkView:
        """Make a link of ours from what is there. Nothing of it changes but who answers for it."""
        self._access.administer(request.caller, Action.ADOPT, "adopt what others attached")
        if request.pin is not None and request.caller.uid != 0:
            raise NotAuthorized(
                "only root may name a pin: we would open it; adopt the link by its id instead"
            )
        checks.name_is_free(names.check(request.name), self._links, self._pins)
        if request.interface is not None:
            return self._adopt_program(request, request.interface)
        return self._adopt_link(request)

    def _adopt_link(self, request: AdoptRequest) -> LinkView:
        found = self._kernel.find_link(request.link_id, request.pin)
        try:
            self._check(request, found.target, found.link)
            came = f"pin {request.pin}" if request.pin else f"bpf_link {found.link.id}"
            message = f"adopted from {came}"
            record = plan.adopted(request, found.target, found.program, found.hook, self._clock(), message)
            steps = (
                SaveIntent(record=record, image=None),
                StageProgram(name=record.name, program=found.program),
                HoldLink(name=record.name, link=found.link),
                SaveDone(record=record),
                Promote(name=record.name),
            )
            held = self._run(steps, record, found.program)
        except BaseException:
            found.link.close()
            found.program.close()
            raise
        return self._add(record, held)

    def _adopt_program(self, request: AdoptRequest, interface: str) -> LinkView:
        hook, occupant = self._on(interface)
        target = XdpTarget(interface=interface, mode=occupant.mode or XdpMode.AUTO)
        self._check(request, target, None)
        program = self._kernel.hold_program(occupant.program.id, ProgramById(id=occupant.program.id))
        try:
            record = plan.adopted(request, target, program, None, self._clock(), "being adopted from netlink")
            steps = (
                SaveIntent(record=record, image=None),
                StageProgram(name=record.name, program=program),
                SaveDone(record=record),
                Promote(name=record.name),
            )
            held = self._run(steps, record, program)
        except BaseException:
            program.close()
            raise
        try:
            step = TakeOver(name=record.name, hook=hook, occupant=occupant, program=program)
            held = self._executor.run((step,), target, held)
        except BaseException:
            # The program is on its hook again, or still: only our part ends.
            self._executor.run(plan.detach(record.name), target, held, healing=True)
            program.close()
            raise
        gap = held.gap_ns / 1_000_000
        message = f"adopted from netlink; the hook was empty for {gap:.3f} ms"
        record = replace(record, hook=hook, generation=replace(record.generation, message=message))
        assert held.link is not None
        self._store.explain(record, held.link.id)
        return self._add(record, Held(link=held.link, program=program))

    def _on(self, interface: str) -> tuple[Hook, Occupant]:
        """The hook of an interface, and the program that is attached there by netlink."""
        target = XdpTarget(interface=interface)
        hook = self._kernel.resolve(target)
        if hook is None:
            raise HookGone(plan.gone(target))
        occupant = self._kernel.occupant(hook)
        if occupant is None:
            raise BadOption(f"nothing is attached to {target}, so there is nothing to adopt; use attach")
        if occupant.link_id is not None:
            raise HookBusy(
                f"{target} is held by {occupant}: adopt that bpf_link by its id, which leaves no gap"
            )
        return hook, occupant

    def _check(self, request: AdoptRequest, target: Target, link: Link | None) -> None:
        owner = request.owner or request.caller.user
        self._ownership.check_new(request.caller, owner, request.name, target, force=request.force)
        if link is None:
            return
        for name, entry in self._links.items():
            if entry.held.link is not None and entry.held.link.id == link.id:
                raise NameTaken(f"bpf_link {link.id} is our own link {name!r} already")

    def _run(self, steps: tuple[Step, ...], record: Record, program: Program) -> Held:
        return self._executor.run(steps, record.target, Held(link=None, program=program))

    def _add(self, record: Record, held: Held) -> LinkView:
        health = Health(state=State.ACTIVE, reason="", since=record.created)
        entry = Entry(record=record, health=health, held=held)
        self._links.add(entry)
        if held.link is not None:
            held.link.facts()
            held.link.mark_good()
        self._publish(LinkAdded(view=entry.view()))
        return entry.view()
