"""How links are: looked at when a watcher said something, when a sweep comes round, after a start.

Reads the kernel, has `reconcile` judge, does what policy says, and tells. For the worker thread only.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, assert_never

from bpflinkd.core.errors import BpflinkdError, HookBusy, StorageFailed
from bpflinkd.core.events import (
    CgroupAppeared,
    CgroupGone,
    ChangeKind,
    InterfaceChanged,
    InterfaceGone,
    LinkAdded,
    LinkRemoved,
    ModuleChanged,
    PinsTouched,
    StateChanged,
    Tiding,
)
from bpflinkd.core.executor import Executor
from bpflinkd.core.ids import Micros
from bpflinkd.core.links import Entry, Links, status_of
from bpflinkd.core.model import Health, Record, State, Told
from bpflinkd.core.neighbours import Neighbours
from bpflinkd.core.ports import Clock, Kernel, Pins, PinTrouble, Publish, Store, Ticks
from bpflinkd.core.reconcile import Change, Fight, Verdict, judge
from bpflinkd.core.targets import (
    KprobeHook,
    KprobeMultiTarget,
    KprobeTarget,
    XdpHook,
    XdpTarget,
)
from bpflinkd.core.telling import Telling
from bpflinkd.core.witness import Witness

log = logging.getLogger(__name__)

_DEATH: Final = Micros(100_000)
"""What may lie between the end of an interface's name and that of its XDP program: a grace period of RCU."""
_PIN_PATIENCE: Final = 8
"""So often pins are put back at once: `rm -r` of a directory of them takes a few rounds."""


class Observer:
    """Looks at the links of one host."""

    def __init__(
        self,
        links: Links,
        kernel: Kernel,
        pins: Pins,
        store: Store,
        executor: Executor,
        witness: Witness,
        publish: Publish,
        clock: Clock,
        ticks: Ticks,
        yielded: Callable[[Record], None],
    ) -> None:
        """`yielded` is called with a link that was let go to a stranger."""
        self._links = links
        self._kernel = kernel
        self._pins = pins
        self._store = store
        self._executor = executor
        self._witness = witness
        self._publish = publish
        self._clock = clock
        self._ticks = ticks
        self._yielded = yielded
        self._telling = Telling(witness, publish, clock, ticks)
        self._neighbours = Neighbours(links, kernel)
        self._kprobes_off = False
        self._pins_wait: set[str] = set()
        """Links whose pins were touched during a pause of a fight about them."""

    def witness(self) -> None:
        """The sentinel saw something: tell it, and look at the links that it concerns."""
        self._witness.read()
        self._look_at_touched()

    def _look_at_touched(self) -> None:
        for name in self._witness.touched():
            self.observe(name, "sentinel")
            entry = self._links.get(name)
            if entry is not None:
                self._neighbours.count(entry)  # those that came or went have been told

    def begin(self, entry: Entry) -> None:
        """A link is there: what is beside it now is no news."""
        self._neighbours.count(entry)

    def hear(self, tiding: Tiding) -> None:
        """A watcher saw something change: look at the links that it may concern."""
        self._witness.read_all()
        self._hear(tiding)
        self._look_at_touched()

    def _hear(self, tiding: Tiding) -> None:
        match tiding:
            case ModuleChanged(module=module):
                self._hear_module(module)
            case InterfaceGone() | InterfaceChanged():
                self._hear_interface(tiding)
            case CgroupAppeared(path=path) | CgroupGone(path=path):
                for name in self._links.on_cgroup(path):
                    self.observe(name, "inotify")
            case PinsTouched(link=name):
                self._mend_pins(name)
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
            names = (tiding.name, *tiding.altnames)
            if entry.record.hook != hook and target.interface not in names:
                continue
            match tiding:
                case InterfaceGone(moved=False) if entry.record.hook == hook:
                    # Its number may be given to another interface: forget that it was ours.
                    entry.record = replace(entry.record, hook=None)
                case InterfaceGone() | InterfaceChanged():
                    pass
            self.observe(name, "netlink")

    def _mend_pins(self, name: str) -> None:
        """Put back what somebody took from, or put into, a link's directory."""
        entry = self._links.get(name)
        if entry is None:
            return
        if self._ticks() < entry.pin_fight.not_before:
            self._pins_wait.add(name)
            return
        try:
            troubles = self._pins.mend(name, entry.held.link, entry.held.program)
        except BpflinkdError as error:
            log.error("the pins of link %r cannot be looked at: %s", name, error)
            return
        if troubles:
            entry.pin_fight = entry.pin_fight.next_round(self._ticks(), patience=_PIN_PATIENCE)
        for trouble in troubles:
            self._telling.tell(entry, entry.health, _of_pin(trouble, entry.pin_fight), "inotify")

    def sweep(self) -> None:
        """Look at every link, whatever the watchers said."""
        self._witness.read_all()
        self._look_at_touched()
        lost = self._witness.lost()
        if lost:
            log.warning("the sentinel had no room for %d records; looking at every link", lost)
        self._sweep_kprobes()
        if lost or not self._witness.told_by_it(ChangeKind.NEIGHBOUR_ADDED):
            self._sweep_neighbours(self._links.values() if lost else self._neighbours.turn())
        waiting, self._pins_wait = self._pins_wait, set()
        for name in waiting:
            self._mend_pins(name)
        for name in self._links.unsettled(self._kernel.interfaces()):
            self.observe(name, "sweep")
        self._witness.tidy()

    def _sweep_neighbours(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            for change in self._neighbours.count(entry):
                self._telling.tell(entry, entry.health, change, "sweep")

    def _sweep_kprobes(self) -> None:
        probes = self._links.on(KprobeTarget, KprobeMultiTarget)
        if not probes or self._kernel.kprobes_off() is self._kprobes_off:
            return
        self._kprobes_off = not self._kprobes_off
        for name in probes:
            self.observe(name, "sweep")

    def observe(self, name: str, source: str) -> None:
        """Ask the kernel how a link is, judge, and do what policy says."""
        try:
            self.look(name, source)
        except BpflinkdError as error:
            log.error("link %r could not be looked at: %s", name, error)

    def look(self, name: str, source: str, *, first: bool = False) -> None:
        """The same, and what goes wrong comes out; `first` is the look of a start."""
        entry = self._links[name]
        touches = self._witness.take(entry)
        if entry.held.program is None:
            return
        if entry.neighbours is None:
            self.begin(entry)
        before = None if first and entry.told is None else entry.health
        verdict = self._judge(entry, before)
        if self._may_be_dying(entry, verdict) and not any(touch.dying for touch in touches):
            touches += self._witness.await_(entry, _DEATH)
            verdict = self._judge(entry, before)
        self._telling.look(entry, verdict, touches, source, first=first)
        if verdict.let_go:
            if first:
                self.show(entry, verdict.health, first=True)
            view = entry.view()
            self._executor.run(verdict.actions, entry.record.target, entry.held)
            self._links.drop(name)
            self._publish(LinkRemoved(view=view, reason=verdict.let_go))
            if verdict.health.state is not State.WAITING:
                self._yielded(view.record)
            return
        if verdict.fight is not None:
            # Two steps for readers too: what it was like, and that we put it back.
            entry.fight = verdict.fight
            self.show(entry, verdict.health, first=first)
            first = False
        self.show(entry, self._act(entry, verdict) if verdict.actions else verdict.health, first=first)

    def _may_be_dying(self, entry: Entry, verdict: Verdict) -> bool:
        """Whether the sentinel may tell in a moment who deletes the interface.

        Its name is gone before its XDP program is, which looks as if it was renamed.
        """
        change, hook = verdict.change, entry.record.hook
        return (
            change is not None
            and change.kind is ChangeKind.TARGET_GONE
            and isinstance(hook, XdpHook)
            and self._witness.told_by_it(ChangeKind.LINK_DETACHED)
            and self._kernel.described_interface(hook.ifindex) is None
        )

    def show(self, entry: Entry, health: Health, *, first: bool) -> None:
        """Take a new health, and tell if it differs."""
        was = entry.state
        before, entry.health = entry.health, health
        self._note_told(entry)
        if health.state is State.ACTIVE and entry.held.link is not None:
            entry.held.link.mark_good()
            entry.still = entry.held.link.unchanged
        else:
            entry.still = None
        if first:
            self._publish(LinkAdded(view=entry.view()))
        elif (before.state, before.reason) != (health.state, health.reason):
            self._publish(StateChanged(view=entry.view(), old=was))

    def _note_told(self, entry: Entry) -> None:
        told = _told_of(entry.health)
        if told == entry.told:
            return
        entry.told = told
        try:
            self._store.note_told(entry.record.name, told)
        except StorageFailed as error:
            log.error("how link %r is will be told again by the next start: %s", entry.record.name, error)

    def _judge(self, entry: Entry, before: Health | None) -> Verdict:
        assert entry.held.program is not None
        status = status_of(self._kernel, entry)
        entry.place = status.hook
        self._witness.expect(status.hook)
        return judge(
            entry.record,
            before,
            status,
            entry.held.program,
            fight=entry.fight,
            now=self._clock(),
            ticks=self._ticks(),
        )

    def _act(self, entry: Entry, verdict: Verdict) -> Health:
        """Do what the verdict asks; returns the health that results."""
        try:
            record = verdict.record or entry.record
            held = self._executor.run(verdict.actions, record.target, entry.held, healing=True)
        except BpflinkdError as error:
            state = State.DISPLACED if isinstance(error, HookBusy) else State.FAILED
            since = entry.health.since if entry.health.state is state else verdict.health.since
            return Health(state=state, reason=str(error), since=since)
        entry.record = record
        entry.hold(held)
        if held.link is not None:
            held.link.facts()
        return Health(state=State.ACTIVE, reason="", since=self._clock())


def _of_pin(trouble: PinTrouble, fight: Fight) -> Change:
    """What somebody did to a pin, and what became of it."""
    kind = ChangeKind.PIN_REPLACED if trouble.replaced else ChangeKind.PIN_REMOVED
    instead = f" and put {trouble.by} in its place" if trouble.replaced else ""
    aside = f", which is at {trouble.aside} now" if trouble.aside else ""
    back = f"ours cannot be put back: {trouble.failure}" if trouble.failure else "ours is back"
    sentence = f"somebody removed our pin {trouble.pin!r}{instead}{aside}; {back}"
    if fight.restores > _PIN_PATIENCE:
        sentence += f"; contended, we put pins back {fight.restores} times"
    return Change(kind=kind, sentence=sentence)


def _told_of(health: Health) -> Told | None:
    """What the next daemon must know, so as not to tell it again."""
    if health.state is State.ACTIVE:
        return None
    return Told(health.state, health.since, health.running.program if health.running else None)
