"""Fetch - decide - execute: one method a verb. Runs on the worker thread, and only there.

What readers see goes out as news; nothing here waits for a reader.
"""

import logging
from dataclasses import replace
from typing import Final

from bpflinkd.core import names, plan, recovery
from bpflinkd.core.errors import BpflinkdError, NameTaken
from bpflinkd.core.events import (
    Healed,
    LinkAdded,
    LinkRemoved,
    ProgramReplaced,
)
from bpflinkd.core.executor import Executor, Held
from bpflinkd.core.links import Entry, Links, status_of
from bpflinkd.core.model import (
    Feature,
    Foreign,
    Health,
    LinkView,
    Record,
    Source,
    SourceFile,
    State,
    StoredObject,
    StoredSource,
    UnixMicros,
)
from bpflinkd.core.observer import Observer
from bpflinkd.core.ports import Clock, Kernel, Pins, Program, Publish, Store, Stored
from bpflinkd.core.requests import AttachRequest, Caller, DetachRequest, ReplaceRequest
from bpflinkd.core.targets import (
    CgroupTarget,
    Hook,
    Target,
    WantedTarget,
)

log = logging.getLogger(__name__)

FEATURES_HOLD: Final = 5_000_000
"""Microseconds for which what the kernel can do is taken to stay so."""


class Manager:
    """The links of one host."""

    def __init__(self, kernel: Kernel, pins: Pins, store: Store, publish: Publish, clock: Clock) -> None:
        self._kernel = kernel
        self._pins = pins
        self._store = store
        self._publish = publish
        self._clock = clock
        self._executor = Executor(kernel, pins, store)
        self._links = Links()
        self.observer = Observer(self._links, kernel, self._executor, publish, clock)
        """Looks at the links; watchers and the sweep talk to it."""
        self._features: tuple[Feature, ...] = ()
        self._features_known = UnixMicros(0)

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
                raise plan.busy(target, occupant, self._links.name_of(occupant))
            record, actions = plan.attach(request, target, program, hook, self._clock())
            held = self._executor.run(actions, target, Held(link=None, program=program))
        except BaseException:
            if program is not None:
                program.close()
            raise
        health = Health(state=State.ACTIVE, reason="", since=record.created)
        if hook is None:
            reason = f"{plan.gone(target)}; we attach when it appears"
            health = replace(health, state=State.WAITING, reason=reason)
        self._links[record.name] = Entry(record=record, health=health, held=held)
        view = self._links[record.name].view()
        self._publish(LinkAdded(view=view))
        return view

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
            self.observer.observe(request.name, "replace")
        return entry.view()

    def detach(self, request: DetachRequest) -> None:
        """End a link: our program leaves the hook, pins and record go."""
        plan.authorize(request.caller, "detach links")
        entry = self._links.named(request.name)
        view = entry.view()
        self._executor.run(plan.detach(request.name), entry.record.target, entry.held)
        self._links.drop(request.name)
        self._publish(LinkRemoved(view=view, reason=f"detached by uid {request.caller.uid}"))

    def compile(self, source: SourceFile, target: WantedTarget) -> Program:
        """Compile and load C source. The one method for another thread: it touches no link."""
        return self._kernel.open_program(source, target)

    def features(self) -> tuple[Feature, ...]:
        """What this kernel and host can do. Tried again only after a while: anybody may ask."""
        now = self._clock()
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

    # Start

    def start(self) -> None:
        """Take back every link of the store from its pins; finish or undo what a crash left."""
        stored = self._store.load()
        for item in stored:
            try:
                self._take_back(item)
            except BpflinkdError as error:
                log.error("link %r could not be taken back: %s", item.latest.name, error)
                self._adopt_failed(item.latest, str(error))
        for directory in self._pins.strangers(item.latest.name for item in stored):
            log.warning("the pin directory %s belongs to no link that we know; left alone", directory)

    def _take_back(self, item: Stored) -> None:
        name = item.latest.name
        pinned = self._pins.open(name, item.latest.generation.source)
        decision = recovery.recover(item, pinned)
        if decision.healed:
            self._publish(Healed(name=name, sentence=decision.healed))
        held = self._executor.run(decision.actions, item.latest.target, decision.held)
        record = decision.record
        # A kprobe's link ends with its last descriptor: none may stay open for a link that is no more.
        kept = (held.link, held.program) if record is not None else ()
        for handle in (pinned.link, pinned.program, pinned.staged_link, pinned.staged_program):
            if handle is not None and handle not in kept:
                handle.close()
        if record is None:
            return
        unknown = Health(state=State.WAITING, reason="", since=self._clock())
        entry = Entry(record=record, health=unknown, held=held)
        self._links[name] = entry
        if held.program is None:
            try:
                self._find_program(entry)
            except BpflinkdError as error:
                self.observer.show(entry, replace(unknown, state=State.FAILED, reason=str(error)), first=True)
                return
        self.observer.look(name, "start", first=True)

    def _find_program(self, entry: Entry) -> None:
        """Get a program whose pin is gone: from the link that still runs it, or from its source."""
        record, link = entry.record, entry.held.link
        generation = record.generation
        facts = link.facts() if link is not None else None
        if facts is not None and facts.prog_id == generation.program.id:
            maps = self._pins.maps(record.name)
            program = self._kernel.hold_program(facts.prog_id, generation.source, maps)
            self._pins.put_back(record.name, program)
        else:
            source = generation.source
            program = self._kernel.reload_program(source, self._image(source), record.target)
            entry.record = replace(record, generation=replace(generation, program=program.info))
            self._pins.stage_program(record.name, program)
            self._pins.promote(record.name)
            self._store.amend(entry.record)
        entry.held = replace(entry.held, program=program)

    def _image(self, source: Source) -> bytes | None:
        """What we keep of a source, to load it again."""
        return self._store.image(source.sha256) if isinstance(source, StoredObject | StoredSource) else None

    def _adopt_failed(self, record: Record, reason: str) -> None:
        health = Health(state=State.FAILED, reason=reason, since=self._clock())
        entry = Entry(record=record, health=health, held=Held(link=None, program=None))
        self._links[record.name] = entry
        self.observer.show(entry, health, first=True)
