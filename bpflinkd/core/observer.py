"""How links are: looked at when a watcher said something, when a sweep comes round, after a start.

Reads the kernel, has `reconcile` judge, does what policy says, and tells. For the worker thread only.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from bpflinkd.core.errors import BpflinkdError, HookBusy
from bpflinkd.core.events import (
    CgroupAppeared,
    CgroupGone,
    ForeignChange,
    InterfaceChanged,
    InterfaceGone,
    LinkAdded,
    LinkRemoved,
    ModuleChanged,
    StateChanged,
    Tiding,
)
from bpflinkd.core.executor import Executor
from bpflinkd.core.links import Entry, Links, status_of
from bpflinkd.core.model import Health, Record, State
from bpflinkd.core.ports import Clock, Kernel, Publish, Ticks
from bpflinkd.core.reconcile import Change, Verdict, judge
from bpflinkd.core.targets import IfIndex, KprobeHook, KprobeMultiTarget, KprobeTarget, XdpHook, XdpTarget

log = logging.getLogger(__name__)


class Observer:
    """Looks at the links of one host."""

    def __init__(
        self,
        links: Links,
        kernel: Kernel,
        executor: Executor,
        publish: Publish,
        clock: Clock,
        ticks: Ticks,
        yielded: Callable[[Record], None],
    ) -> None:
        """`yielded` is called with a link that was let go to a stranger."""
        self._links = links
        self._kernel = kernel
        self._executor = executor
        self._publish = publish
        self._clock = clock
        self._ticks = ticks
        self._yielded = yielded

    def hear(self, tiding: Tiding) -> None:
        """A watcher saw something change: look at the links that it may concern."""
        match tiding:
            case ModuleChanged(module=module):
                self._hear_module(module)
            case InterfaceGone() | InterfaceChanged():
                self._hear_interface(tiding)
            case CgroupAppeared(path=path) | CgroupGone(path=path):
                for name in self._links.on_cgroup(path):
                    self.observe(name, "inotify")
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
            self.look(name, source)
        except BpflinkdError as error:
            log.error("link %r could not be looked at: %s", name, error)

    def look(self, name: str, source: str, *, first: bool = False) -> None:
        """The same, and what goes wrong comes out; `first` is the look of a start."""
        entry = self._links[name]
        if entry.held.program is None:
            return
        verdict = self._judge(entry, None if first else entry.health)
        if verdict.change is not None and not (first and verdict.health.state is State.ACTIVE):
            self._tell(entry, verdict, verdict.change, source)
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

    def show(self, entry: Entry, health: Health, *, first: bool) -> None:
        """Take a new health, and tell if it differs."""
        before, entry.health = entry.health, health
        if health.state is State.ACTIVE and entry.held.link is not None:
            entry.held.link.mark_good()
        if first:
            self._publish(LinkAdded(view=entry.view()))
        elif (before.state, before.reason) != (health.state, health.reason):
            self._publish(StateChanged(view=entry.view(), old=before.state))

    def _judge(self, entry: Entry, before: Health | None) -> Verdict:
        assert entry.held.program is not None
        return judge(
            entry.record,
            before,
            status_of(self._kernel, entry),
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

    def _tell(self, entry: Entry, verdict: Verdict, change: Change, source: str) -> None:
        view = replace(entry.view(), health=verdict.health)
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
