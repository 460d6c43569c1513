"""Fetch - decide - execute: one method a verb. Runs on the worker thread, and only there.

What readers see goes out as news; nothing here waits for a reader.
"""

import logging
from dataclasses import replace
from typing import Final

from bpflinkd.core import names, plan
from bpflinkd.core.declared import Declarations
from bpflinkd.core.declarer import Declarer, Outcome
from bpflinkd.core.errors import BadProgram, HookGone, NameTaken
from bpflinkd.core.events import (
    InterfaceChanged,
    LinkAdded,
    LinkAmended,
    LinkRemoved,
    ProgramReplaced,
    Tiding,
)
from bpflinkd.core.executor import Executor, Held
from bpflinkd.core.ids import Micros
from bpflinkd.core.links import Entry, Links, status_of
from bpflinkd.core.model import Feature, Foreign, Health, LinkView, Record, State
from bpflinkd.core.observer import Observer
from bpflinkd.core.pending import Pending
from bpflinkd.core.ports import Clock, Kernel, Pins, Program, Publish, Store, Ticks
from bpflinkd.core.requests import AttachRequest, Caller, DetachRequest, ReplaceRequest
from bpflinkd.core.sources import ObjectImage, SourceFile, SourceText, StoredObject, StoredSource
from bpflinkd.core.takeback import TakeBack
from bpflinkd.core.targets import (
    CgroupTarget,
    Hook,
    Target,
    WantedTarget,
    XdpTarget,
)
from bpflinkd.core.templates import Wanted

log = logging.getLogger(__name__)

FEATURES_HOLD: Final = 5_000_000
"""Microseconds for which what the kernel can do is taken to stay so."""


class Manager:
    """The links of one host."""

    def __init__(
        self, kernel: Kernel, pins: Pins, store: Store, publish: Publish, clock: Clock, ticks: Ticks
    ) -> None:
        self._kernel = kernel
        self._pins = pins
        self._store = store
        self._publish = publish
        self._clock = clock
        self._ticks = ticks
        self._executor = Executor(kernel, pins, store)
        self._links = Links()
        self._declarer = Declarer(self, self._links, kernel, store)
        self._observer = Observer(
            self._links, kernel, self._executor, publish, clock, ticks, self._declarer.decline
        )
        self._take_back = TakeBack(
            self._links, kernel, pins, store, self._executor, self._observer, publish, clock
        )
        self._features: tuple[Feature, ...] = ()
        self._features_known = Micros(0)

    # Verbs

    def check_attach(self, request: AttachRequest) -> Hook | None:
        """Every refusal that does not need the program; returns the hook, None while it is awaited."""
        plan.authorize(request.caller, "attach programs")
        name = names.check(request.name)
        if name in self._links:
            raise NameTaken(f"there is a link {name!r} already; replace or detach it")
        if self._pins.taken(name):
            raise NameTaken(
                f"the pin directory for {name!r} is in use, but not by a link we know; look into it "
                "and remove it, or choose another name"
            )
        hook = self._kernel.resolve(request.target)
        plan.check_target_there(request.target, hook, wait=request.wait)
        return hook

    def attach(self, request: AttachRequest, loaded: Program | None = None) -> LinkView:
        """Make a link. Refusals: see `plan.attach`; nothing is touched before the last check.

        Args:
            loaded: the program, where it took so long to load that it was done elsewhere.
        """
        program = loaded
        try:
            hook = self.check_attach(request)
            given = isinstance(request.target, CgroupTarget)
            program = program or self._kernel.open_program(request.program, request.target, given=given)
            target = plan.settle_target(request.target, program)
            occupant = self._kernel.occupant(hook) if hook else None
            if occupant is not None:
                ours = self._links.name_of(occupant)
                if ours is not None or not request.origin.file:
                    raise plan.busy(target, occupant, ours)
                hook = None  # declared is promised: what policy says of strangers is done below
            try:
                record, held = self._make(request, target, program, hook)
            except HookGone:
                if not request.wait:
                    raise
                hook = None  # it went just now
                record, held = self._make(request, target, program, hook)
        except BaseException:
            if program is not None:
                program.close()
            raise
        health = Health(state=State.ACTIVE, reason="", since=record.created)
        if hook is None:
            reason = f"{plan.gone(target)}; we attach when it appears"
            if occupant is not None:
                reason = str(plan.busy(target, occupant))
            health = replace(health, state=State.WAITING, reason=reason)
        entry = Entry(record=record, health=health, held=held)
        self._links.add(entry)
        self._publish(LinkAdded(view=entry.view()))
        if occupant is not None:
            self._observer.observe(record.name, "reload")
        return entry.view()

    def _make(
        self, request: AttachRequest, target: Target, program: Program, hook: Hook | None
    ) -> tuple[Record, Held]:
        record, actions = plan.attach(request, target, program, hook, self._clock())
        return record, self._executor.run(actions, target, Held(link=None, program=program))

    def check_replace(self, request: ReplaceRequest) -> Target:
        """Every refusal that does not need the program; returns the link's target."""
        plan.authorize(request.caller, "replace programs")
        entry = self._links.named(request.name)
        plan.check_expected(entry.record, request.expect)
        return entry.record.target

    def replace(self, request: ReplaceRequest, loaded: Program | None = None) -> LinkView:
        """Swap the program of a link, atomically. Returns the link at its new generation.

        Args:
            loaded: as for `attach`.
        """
        program = loaded
        try:
            target = self.check_replace(request)
            entry = self._links.named(request.name)
            running = entry.held.program
            program = program or self._kernel.open_program(request.program, target)
            after = plan.replacement(entry.record, request, program, self._clock())
            expected = running.info if running else entry.record.generation.program
            status = status_of(self._kernel, entry, for_swap=True)
            after, actions = plan.swap(after, status, program, expected)
            held = self._executor.run(actions, after.target, entry.held)
        except BaseException:
            if program is not None:
                program.close()
            raise
        old = entry.record.generation
        entry.record = after
        entry.hold(replace(held, program=program))
        self._publish(ProgramReplaced(view=entry.view(), old=old))
        if entry.health.state is not State.ACTIVE:
            self._observer.observe(request.name, "replace")
        return entry.view()

    def detach(self, request: DetachRequest) -> None:
        """End a link: our program leaves the hook, pins and record go."""
        plan.authorize(request.caller, "detach links")
        record = self._links.named(request.name).record
        self.end(request.name, f"detached by uid {request.caller.uid}")
        self._declarer.decline(record)

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
        del self._links[name]
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

    def reload(self, read: Declarations) -> Outcome:
        """Apply the difference between what files declare and what there is."""
        return self._declarer.reload(read)

    def compile(self, source: SourceFile | SourceText, target: WantedTarget) -> Program:
        """Compile and load C source. The one method for another thread: it touches no link."""
        return self._kernel.open_program(source, target)

    def features(self) -> tuple[Feature, ...]:
        """What this kernel and host can do. Tried again only after a while: anybody may ask."""
        now = self._ticks()
        if not self._features or now > self._features_known + FEATURES_HOLD:
            self._features, self._features_known = self._kernel.features(), now
        return self._features

    def list_foreign(self, caller: Caller) -> tuple[Foreign, ...]:
        """Programs that are not ours, on XDP hooks and on the cgroups of our links."""
        plan.authorize(caller, "list the programs of others")
        ours = frozenset(entry.held.link.id for entry in self._links.values() if entry.held.link)
        targets = (entry.record.target for entry in self._links.values())
        return self._kernel.foreign(targets, ours)

    def views(self) -> tuple[LinkView, ...]:
        """Every link."""
        return tuple(entry.view() for entry in self._links.values())

    def cgroup_patterns(self) -> frozenset[str]:
        """Where cgroups may appear that templates are for."""
        return self._declarer.cgroup_patterns

    def program_file(self, caller: Caller, name: str) -> ObjectImage | SourceText:
        """The file that a link's program was loaded from."""
        plan.authorize(caller, "read the files that programs were loaded from")
        source = self._links.named(name).record.generation.source
        data = self._store.image(source.sha256) if isinstance(source, StoredObject | StoredSource) else None
        if data is None or not isinstance(source, StoredObject | StoredSource):
            raise BadProgram(f"the program of link {name!r} came from {source}, not from a file that is kept")
        kind = ObjectImage if isinstance(source, StoredObject) else SourceText
        return kind(data=data, sha256=source.sha256, program=source.program)

    # Watching

    def hear(self, tiding: Tiding) -> list[Pending]:
        """A watcher saw something: look at the links that it may concern, and make those it asks for."""
        if isinstance(tiding, InterfaceChanged):
            self._declarer.follow(tiding.ifindex, tiding.name)
        self._observer.hear(tiding)
        return self._declarer.hear(tiding)

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
        return self._take_back.all(boot)
