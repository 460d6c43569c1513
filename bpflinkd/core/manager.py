"""Fetch - decide - execute: one method a verb. Runs on the worker thread, and only there.

What readers see goes out as news; nothing here waits for a reader.
"""

import logging
from dataclasses import replace

from bpflinkd.core import checks, names, plan
from bpflinkd.core.access import Access
from bpflinkd.core.adoption import Adoption
from bpflinkd.core.callers import Action, Caller
from bpflinkd.core.checking import Checking
from bpflinkd.core.checks import Checked, Loaded
from bpflinkd.core.declared import Declarations
from bpflinkd.core.declarer import Declarer, Outcome
from bpflinkd.core.errors import HookGone, NameTaken
from bpflinkd.core.events import (
    InterfaceChanged,
    LinkAdded,
    LinkAmended,
    LinkRemoved,
    OwnerOverridden,
    Tiding,
)
from bpflinkd.core.executor import Executor, Held
from bpflinkd.core.grants import Grants
from bpflinkd.core.history import History
from bpflinkd.core.inspection import Inspection
from bpflinkd.core.links import Entry, Links
from bpflinkd.core.many import Many
from bpflinkd.core.model import Confinement, Health, LinkView, Record, State
from bpflinkd.core.observer import Observer
from bpflinkd.core.ownership import Ownership, Receiver
from bpflinkd.core.pending import Pending
from bpflinkd.core.ports import Clock, Kernel, Nanos, Pins, Program, Publish, Sentinel, Store, Ticks
from bpflinkd.core.replacing import Replacing
from bpflinkd.core.requests import AttachRequest, DetachRequest
from bpflinkd.core.statistics import Statistics
from bpflinkd.core.takeback import TakeBack
from bpflinkd.core.targets import (
    CgroupTarget,
    Hook,
    Target,
    WantedTarget,
    XdpTarget,
)
from bpflinkd.core.templates import Wanted
from bpflinkd.core.together import Together
from bpflinkd.core.trials import Trials
from bpflinkd.core.witness import Witness

log = logging.getLogger(__name__)


class Manager:
    """The links of one host."""

    def __init__(
        self,
        kernel: Kernel,
        pins: Pins,
        store: Store,
        publish: Publish,
        clock: Clock,
        ticks: Ticks,
        uptime: Ticks,
        receiver: Receiver,
        sentinel: Sentinel,
        nanos: Nanos,
    ) -> None:
        """`receiver` tells in which groups a new owner is. `uptime` is as for `Trials`."""
        self._kernel = kernel
        self._pins = pins
        self._store = store
        self._publish = publish
        self._clock = clock
        self._ticks = ticks
        self._links = Links()
        self._witness = Witness(sentinel, self._links)
        self._executor = Executor(kernel, pins, store, self._witness.expect)
        self._access = Access()
        self.ownership = Ownership(self, self._links, self._access, store, publish, receiver)
        """Transfer, claim, and the end of links that live with a connection."""
        self.adoption = Adoption(
            self._links, self._access, self.ownership, kernel, pins, store, self._executor, publish, clock
        )
        """Owning what somebody else attached."""
        self.inspection = Inspection(self._links, self._access, kernel, store, ticks, pins)
        """What not everybody may see, and what takes a look at the kernel."""
        self.trials = Trials(self._links, self._access, kernel, store, publish, clock, uptime)
        """Confirmation of generations that wait for it."""
        self.statistics = Statistics(self._links, self._access, kernel, ticks)
        """How often programs ran."""
        self.checking = Checking(self, self._links, self._access, kernel, store, self.inspection)
        """What would become of an attach or a replace."""
        self._declarer = Declarer(self, self._links, kernel, store)
        self._observer = Observer(
            self._links,
            kernel,
            pins,
            store,
            self._executor,
            self._witness,
            publish,
            clock,
            ticks,
            self._declarer.decline,
        )
        self.replacing = Replacing(
            self._links,
            self._access,
            kernel,
            self._executor,
            publish,
            clock,
            self.trials,
            self._observer.observe,
        )
        """Other programs for links that there are."""
        self.history = History(
            self._links, self._access, kernel, pins, store, clock, self.replacing, self.trials
        )
        """Generations before, and the way back to them."""
        together = Together(kernel, pins, store, nanos)
        self.many = Many(self.replacing, self.history, kernel, together, publish)
        """Other programs for several links, all or none."""
        self._take_back = TakeBack(
            self._links, kernel, pins, store, self._executor, self._observer, publish, clock
        )

    # Verbs

    def check_attach(self, request: AttachRequest) -> Checked:
        """Every refusal that does not need the program."""
        target = request.target
        confined = self._check_rights(request, target)
        name = names.check(request.name)
        checks.name_is_free(name, self._links, self._pins)
        if confined is not None:
            checks.name_is_no_files(name, self._declarer.declares(name))
        checks.lifetime_fits(request, confined)
        hook = self._kernel.resolve(target)
        plan.check_target_there(target, hook, wait=request.wait)
        return Checked(target, hook, confined, given=isinstance(target, CgroupTarget))

    def _check_rights(self, request: AttachRequest, target: WantedTarget) -> Confinement | None:
        caller, put = request.caller, self._access.put
        confined = put(caller, target, request.program, request.policy, action=Action.ATTACH)
        if request.held is not None and request.held.fallback is not None:
            put(caller, target, request.held.fallback, request.policy, action=Action.ATTACH)
        owner = request.owner or caller.user
        self.ownership.check_new(caller, owner, request.name, target, force=request.force)
        return confined

    def attach(self, request: AttachRequest, loaded: Loaded | None = None) -> LinkView:
        """Make a link. Refusals: see `plan.attach`; nothing is touched before the last check.

        Args:
            loaded: the program, where it was loaded elsewhere because that takes long.
        """
        program = loaded.program if loaded else None
        fallback: Program | None = None
        try:
            checked = self.check_attach(request)
            hook, confined = checked.hook, checked.confined
            checks.loaded_as_allowed(loaded, confined)
            program = program or self.replacing.load(request.program, checked)
            target = plan.settle_target(request.target, program)
            if confined is not None:
                # The attach type is known now, where only the program told.
                self._check_rights(request, target)
            if request.held is not None and request.held.fallback is not None:
                fallback = self.replacing.load(
                    request.held.fallback, Checked(target, hook, confined, given=True)
                )
                plan.settle_target(target, fallback)
            occupant = self._kernel.occupant(hook) if hook else None
            if occupant is not None:
                ours = self._links.name_of(occupant)
                if ours is not None or not request.origin.file:
                    raise plan.busy(target, occupant, ours)
                hook = None  # declared is promised: what policy says of strangers is done below
            try:
                record, held = self._make(request, target, program, hook, confined, fallback)
            except HookGone:
                if not request.wait:
                    raise
                hook = None  # it went just now
                record, held = self._make(request, target, program, hook, confined, fallback)
        except BaseException:
            if program is not None:
                program.close()
            raise
        finally:
            if fallback is not None:
                fallback.close()
        health = Health(state=State.ACTIVE, reason="", since=record.created)
        if hook is None:
            reason = f"{plan.gone(target)}; we attach when it appears"
            if occupant is not None:
                reason = str(plan.busy(target, occupant))
            health = replace(health, state=State.WAITING, reason=reason)
        entry = Entry(record=record, health=health, held=held)
        self._links.add(entry)
        self._observer.begin(entry)
        self._publish(LinkAdded(view=entry.view()))
        if occupant is not None:
            self._observer.observe(record.name, "reload")
        return entry.view()

    def _make(
        self,
        request: AttachRequest,
        target: Target,
        program: Program,
        hook: Hook | None,
        confined: Confinement | None,
        fallback: Program | None,
    ) -> tuple[Record, Held]:
        record, actions = plan.attach(request, target, program, hook, self._clock(), confined, fallback)
        return record, self._executor.run(actions, target, Held(link=None, program=program))

    def detach(self, request: DetachRequest) -> None:
        """End a link: our program leaves the hook, pins and record go."""
        view = self._links.named(request.name).view()
        overrides = self._access.change(request.caller, view.record, "detach it", force=request.force)
        self.end(request.name, f"detached by {request.caller.actor}")
        if overrides:
            self._publish(OwnerOverridden(view=view, by=request.caller.actor, verb="detached"))
        self._declarer.decline(view.record)

    def end(self, name: str, reason: str) -> None:
        """The same, for what files say."""
        entry = self._links.named(name)
        view = entry.view()
        self._executor.run(plan.detach(name), entry.record.target, entry.held)
        self._links.drop(name)
        self._publish(LinkRemoved(view=view, reason=reason))

    def rename(self, name: str, wanted: Wanted) -> None:
        """Call a link of a template as its target is called now; what it does in the kernel goes on."""
        entry = self._links.named(name)
        assert isinstance(wanted.target, XdpTarget)
        if wanted.name in self._links or self._pins.taken(wanted.name):
            raise NameTaken(f"there is a link {wanted.name!r} already")
        before = entry.view()
        after = replace(entry.record, name=wanted.name, target=wanted.target)
        self._executor.run(plan.rename(name, after), after.target, entry.held)
        self._links.take_out(name)
        entry.record = after
        self._links.add(entry)
        self._publish(LinkRemoved(view=before, reason=f"its interface was renamed: it is {after.name} now"))
        self._publish(LinkAdded(view=entry.view()))

    def settle(self, wanted: Wanted, *, program_too: bool = True) -> None:
        """Let a link be as its declaration says, all but what is in the kernel.

        Args:
            program_too: the declared program is in place; False where it has yet to be put there.
        """
        entry = self._links.named(wanted.name)
        origin = wanted.origin
        if not program_too:
            origin = replace(origin, program=entry.record.origin.program)
        after = replace(
            entry.record,
            owner=wanted.owner,
            policy=wanted.policy,
            lifetime=wanted.lifetime,
            origin=origin,
        )
        if after != entry.record:
            self._store.settle(after)
            entry.record = after
            self._publish(LinkAmended(view=entry.view()))

    def check_reload(self, caller: Caller) -> None:
        """Whether this caller may have the files applied."""
        self._access.administer(caller, Action.RELOAD, "reload what is declared")

    def reload(self, read: Declarations, grants: Grants) -> Outcome:
        """Apply the difference between what files declare and what there is.

        Args:
            grants: those that are in force from now on. Links that were made under others stay.
        """
        self._access.grants = grants
        return self._declarer.reload(read)

    def views(self) -> tuple[LinkView, ...]:
        """Every link."""
        return tuple(entry.view() for entry in self._links.values())

    def cgroup_patterns(self) -> frozenset[str]:
        """Where cgroups may appear that templates are for."""
        return self._declarer.cgroup_patterns

    # Watching

    def hear(self, tiding: Tiding) -> list[Pending]:
        """A watcher saw something: look at the links that it may concern, and make those it asks for."""
        if isinstance(tiding, InterfaceChanged):
            self._declarer.follow(tiding.ifindex, tiding.name)
        self._observer.hear(tiding)
        return self._declarer.hear(tiding)

    def witness(self) -> None:
        """The sentinel saw something."""
        self._observer.witness()

    def sweep(self) -> list[Pending]:
        """Look at everything, whatever the watchers said."""
        self._observer.sweep()
        self._take_back.try_again()
        return self._declarer.sweep()

    def start(self, boot: str) -> list[Pending]:
        """Take back every link of the store from its pins; finish or undo what a crash left.

        Args:
            boot: which boot of the kernel this is.
        """
        self._witness.read_all()
        self.trials.boot = boot
        try:
            return [*self._take_back.all(boot), *self.history.expire_all()]
        finally:
            self._witness.begun()
            self._observer.witness()
