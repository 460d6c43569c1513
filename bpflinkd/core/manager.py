"""Fetch - decide - execute: one method a verb. Runs on the worker thread, and only there.

What readers see goes out as news; nothing here waits for a reader.
"""

import difflib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, assert_never

from bpflinkd.core import names, plan, recovery
from bpflinkd.core.errors import BpflinkdError, HookBusy, NameTaken, NoSuchLink
from bpflinkd.core.events import (
    ForeignChange,
    Healed,
    InterfaceChanged,
    InterfaceGone,
    LinkAdded,
    LinkRemoved,
    ModuleChanged,
    ProgramReplaced,
    StateChanged,
    Tiding,
)
from bpflinkd.core.executor import Executor, Held
from bpflinkd.core.model import (
    NO_PROGRAM,
    Feature,
    Foreign,
    Health,
    LinkView,
    Occupant,
    Record,
    Source,
    SourceFile,
    State,
    Status,
    StoredObject,
    StoredSource,
    UnixMicros,
)
from bpflinkd.core.ports import Clock, Kernel, Pins, Program, Publish, Store, Stored
from bpflinkd.core.reconcile import NO_FIGHT, Change, Fight, Verdict, judge
from bpflinkd.core.requests import AttachRequest, Caller, DetachRequest, ReplaceRequest
from bpflinkd.core.targets import (
    CgroupTarget,
    Hook,
    IfIndex,
    KprobeHook,
    KprobeMultiTarget,
    KprobeTarget,
    Target,
    WantedTarget,
    XdpHook,
    XdpTarget,
)

log = logging.getLogger(__name__)

FEATURES_HOLD: Final = 5_000_000
"""Microseconds for which what the kernel can do is taken to stay so."""


@dataclass(slots=True)
class _Entry:
    """All we know of one link between two calls."""

    record: Record
    health: Health
    held: Held
    fight: Fight = NO_FIGHT


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else "; 'bpflinkctl list' shows all"


def _close(program: Program | None) -> None:
    if program is not None:
        program.close()


class Manager:
    """The links of one host."""

    def __init__(self, kernel: Kernel, pins: Pins, store: Store, publish: Publish, clock: Clock) -> None:
        self._kernel = kernel
        self._pins = pins
        self._store = store
        self._publish = publish
        self._clock = clock
        self._executor = Executor(kernel, pins, store)
        self._links: dict[str, _Entry] = {}
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
        program: Program | None = None
        try:
            hook = self.check_attach(request)
            given = isinstance(request.target, CgroupTarget)
            program = loaded or self._kernel.open_program(request.program, request.target, given=given)
            target = plan.settle_target(request.target, program)
            occupant = self._kernel.occupant(hook) if hook else None
            if occupant is not None:
                raise plan.busy(target, occupant, self._name_of(occupant))
            record, actions = plan.attach(request, target, program, hook, self._clock())
            held = self._executor.run(actions, target, Held(link=None, program=program))
        except BaseException:
            _close(program or loaded)
            raise
        health = Health(state=State.ACTIVE, reason="", since=record.created)
        if hook is None:
            reason = f"{plan.gone(target)}; we attach when it appears"
            health = replace(health, state=State.WAITING, reason=reason)
        self._links[record.name] = _Entry(record=record, health=health, held=held)
        view = self._view(record.name)
        self._publish(LinkAdded(view=view))
        return view

    def check_replace(self, request: ReplaceRequest) -> Target:
        """Every refusal that does not need the program; returns the link's target."""
        plan.authorize(request.caller, "replace programs")
        entry = self._entry(request.name)
        plan.check_expected(entry.record, request.expect)
        return entry.record.target

    def replace(self, request: ReplaceRequest, loaded: Program | None = None) -> LinkView:
        """Swap the program of a link, atomically. Returns the link at its new generation.

        Args:
            loaded: as for `attach`.
        """
        program: Program | None = None
        try:
            target = self.check_replace(request)
            entry = self._entry(request.name)
            running = entry.held.program
            program = loaded or self._kernel.open_program(request.program, target)
            after = plan.replacement(entry.record, request, program, self._clock())
            expected = running.info if running else entry.record.generation.program
            status = self._status(entry, for_swap=True)
            after, actions = plan.swap(after, status, program, expected)
            held = self._executor.run(actions, after.target, entry.held)
        except BaseException:
            _close(program or loaded)
            raise
        old = entry.record.generation
        entry.record = after
        self._hold(entry, replace(held, program=program))
        self._publish(ProgramReplaced(view=self._view(request.name), old=old))
        if entry.health.state is not State.ACTIVE:
            self.observe(request.name, "replace")
        return self._view(request.name)

    def detach(self, request: DetachRequest) -> None:
        """End a link: our program leaves the hook, pins and record go."""
        plan.authorize(request.caller, "detach links")
        entry = self._entry(request.name)
        view = self._view(request.name)
        self._executor.run(plan.detach(request.name), entry.record.target, entry.held)
        self._drop(request.name)
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
        return tuple(self._view(name) for name in self._links)

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
        for handle in (pinned.link, pinned.program, pinned.staged_link, pinned.staged_program):
            if handle is not None and handle not in (held.link, held.program):
                handle.close()
        record = decision.record
        if record is None:
            return
        unknown = Health(state=State.WAITING, reason="", since=self._clock())
        entry = _Entry(record=record, health=unknown, held=held)
        self._links[name] = entry
        if held.program is None:
            try:
                self._find_program(entry)
            except BpflinkdError as error:
                self._show(entry, replace(unknown, state=State.FAILED, reason=str(error)), first=True)
                return
        self._observe(name, "start", first=True)

    def _find_program(self, entry: _Entry) -> None:
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
        entry = _Entry(record=record, health=health, held=Held(link=None, program=None))
        self._links[record.name] = entry
        self._show(entry, health, first=True)

    # Watching

    def hear(self, tiding: Tiding) -> None:
        """A watcher saw something change: look at the links that it may concern."""
        match tiding:
            case ModuleChanged(module=module):
                self._hear_module(module)
            case InterfaceGone() | InterfaceChanged():
                self._hear_interface(tiding)
            case _:
                assert_never(tiding)

    def _hear_module(self, module: str) -> None:
        """Look at the kprobes in a module, and at those that wait for one."""
        for name, entry in tuple(self._links.items()):
            if not isinstance(entry.record.target, KprobeTarget | KprobeMultiTarget):
                continue
            hook = entry.record.hook
            if entry.health.state is not State.ACTIVE or (
                isinstance(hook, KprobeHook) and hook.module == module
            ):
                self.observe(name, "uevent")

    def _hear_interface(self, tiding: InterfaceChanged | InterfaceGone) -> None:
        for name, entry in tuple(self._links.items()):
            target, hook = entry.record.target, XdpHook(tiding.ifindex)
            if not isinstance(target, XdpTarget):
                continue
            if entry.record.hook != hook and target.interface != tiding.name:
                continue
            match tiding:
                case InterfaceGone(moved=False) if entry.record.hook == hook:
                    # Its number may be given to another interface: forget that it was ours.
                    entry.record = replace(entry.record, hook=None)
                case InterfaceGone() | InterfaceChanged():
                    pass
            self.observe(name, "netlink")

    def sweep(self) -> None:
        """Look at every link, whatever the watchers said."""
        interfaces = self._kernel.interfaces()
        for name, entry in tuple(self._links.items()):
            if entry.health.state is State.ACTIVE and entry.held.link is not None:
                target = entry.record.target
                in_place = not isinstance(target, XdpTarget) or (
                    entry.record.hook == XdpHook(interfaces.get(target.interface, IfIndex(0)))
                )
                if in_place and entry.held.link.unchanged():
                    continue
            self.observe(name, "sweep")

    def observe(self, name: str, source: str) -> None:
        """Ask the kernel how a link is, judge, and do what policy says."""
        try:
            self._observe(name, source)
        except BpflinkdError as error:
            log.error("link %r could not be looked at: %s", name, error)

    def _observe(self, name: str, source: str, *, first: bool = False) -> None:
        entry = self._links[name]
        if entry.held.program is None:
            return
        verdict = self._judge(entry, None if first else entry.health)
        if verdict.change is not None and not (first and verdict.health.state is State.ACTIVE):
            self._tell(entry, verdict, verdict.change, source)
        if verdict.let_go:
            view = self._view(name)
            self._executor.run(verdict.actions, entry.record.target, entry.held)
            self._drop(name)
            self._publish(LinkRemoved(view=view, reason="policy yield: let go to a stranger"))
            return
        if verdict.fight is not None:
            # Two steps for readers too: what it was like, and that we put it back.
            entry.fight = verdict.fight
            self._show(entry, verdict.health, first=first)
            first = False
        self._show(entry, self._act(entry, verdict) if verdict.actions else verdict.health, first=first)

    def _show(self, entry: _Entry, health: Health, *, first: bool) -> None:
        """Take a new health, and tell if it differs."""
        before, entry.health = entry.health, health
        if health.state is State.ACTIVE and entry.held.link is not None:
            entry.held.link.mark_good()
        if first:
            self._publish(LinkAdded(view=self._view(entry.record.name)))
        elif (before.state, before.reason) != (health.state, health.reason):
            self._publish(StateChanged(view=self._view(entry.record.name), old=before.state))

    def _judge(self, entry: _Entry, before: Health | None) -> Verdict:
        assert entry.held.program is not None
        return judge(
            entry.record,
            before,
            self._status(entry),
            entry.held.program,
            fight=entry.fight,
            now=self._clock(),
        )

    def _act(self, entry: _Entry, verdict: Verdict) -> Health:
        """Do what the verdict asks; returns the health that results."""
        try:
            record = verdict.record or entry.record
            held = self._executor.run(verdict.actions, record.target, entry.held)
        except BpflinkdError as error:
            state = State.DISPLACED if isinstance(error, HookBusy) else State.FAILED
            since = entry.health.since if entry.health.state is state else verdict.health.since
            return Health(state=state, reason=str(error), since=since)
        entry.record = record
        self._hold(entry, held)
        if held.link is not None:
            held.link.facts()
        return Health(state=State.ACTIVE, reason="", since=self._clock())

    def _tell(self, entry: _Entry, verdict: Verdict, change: Change, source: str) -> None:
        view = replace(self._view(entry.record.name), health=verdict.health)
        self._publish(
            ForeignChange(
                view=view,
                kind=change.kind,
                sentence=change.sentence,
                by=verdict.health.running,
                source=source,
                seen=self._clock(),
            )
        )

    # Parts

    def _entry(self, name: str) -> _Entry:
        entry = self._links.get(name)
        if entry is None:
            raise NoSuchLink(f"there is no link {name!r}{_suggestion(name, self._links)}")
        return entry

    def _name_of(self, occupant: Occupant) -> str | None:
        """The link of ours that this is after all."""
        for name, entry in self._links.items():
            if entry.held.link is not None and entry.held.link.id == occupant.link_id:
                return name
        return None

    def _status(self, entry: _Entry, *, for_swap: bool = False) -> Status:
        """Read the kernel: as little as tells how the link is.

        For a swap of a link that is attached the target's name does not matter.
        """
        target, ours = entry.record.target, entry.held.program
        facts = entry.held.link.facts() if entry.held.link else None
        if facts is not None and facts.hook is not None:
            if ours is not None and facts.prog_id != ours.info.id:
                stranger = self._kernel.identify(facts) if facts.prog_id != NO_PROGRAM else None
                return Status(link=facts, hook=facts.hook, occupant=stranger)
            # A kernel function that we are on cannot come to be called otherwise.
            if for_swap or isinstance(target, KprobeTarget | KprobeMultiTarget):
                return Status(link=facts, hook=facts.hook)
        hook = self._kernel.resolve(target)
        if hook is None or (facts is not None and facts.hook == hook):
            return Status(link=facts, hook=hook)
        return Status(link=facts, hook=hook, occupant=self._kernel.occupant(hook))

    def _hold(self, entry: _Entry, held: Held) -> None:
        """Take new handles and close those that they replace."""
        before = entry.held
        entry.held = held
        if before.link is not None and before.link is not held.link:
            before.link.close()
        if before.program is not None and before.program is not held.program:
            before.program.close()

    def _drop(self, name: str) -> None:
        entry = self._links.pop(name)
        self._hold(entry, Held(link=None, program=None))

    def _view(self, name: str) -> LinkView:
        entry = self._links[name]
        link, program = entry.held.link, entry.held.program
        return LinkView(
            record=entry.record,
            health=entry.health,
            link_id=link.id if link else None,
            maps=tuple(program.maps) if program else (),
            misses=link.misses if link else None,
        )
