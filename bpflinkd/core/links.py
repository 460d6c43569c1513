"""The links that we hold, with what was last known of each. For the worker thread only."""

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from bpflinkd.core.errors import NoSuchLink
from bpflinkd.core.events import ChangeKind, SlotHook, Touch
from bpflinkd.core.executor import Held
from bpflinkd.core.ids import NO_PROGRAM, Micros, ProgId
from bpflinkd.core.model import Health, LinkView, Occupant, Record, State, Status, Told, state_of
from bpflinkd.core.ports import Company, Kernel
from bpflinkd.core.reconcile import NO_FIGHT, Fight
from bpflinkd.core.targets import (
    CgroupHook,
    CgroupTarget,
    Hook,
    IfIndex,
    KprobeMultiTarget,
    KprobeTarget,
    Target,
    XdpHook,
    XdpTarget,
)

_LONGEST_HINT: Final = 40
"""Characters of a name that is compared with others."""
_MOST_HINTS: Final = 20


class Guess(NamedTuple):
    """A change that was told before the sentinel did."""

    kind: ChangeKind
    after: ProgId | None
    told: Micros


@dataclass(slots=True)
class Entry:
    """All we know of one link between two calls."""

    record: Record
    health: Health
    held: Held
    still: Callable[[], bool] | None = None
    """Asks the kernel whether all is as it was when the link was found active; None: it must be looked at."""
    fight: Fight = NO_FIGHT
    """About the hook."""
    pin_fight: Fight = NO_FIGHT
    """About our pins."""
    place: Hook | None = None
    """The hook that the target stood for when it was looked at last."""
    company: Company | None = None
    """What was attached to the cgroup when it was counted last, ours among it."""
    neighbours: Counter[ProgId] | None = None
    """Programs of others beside ours there, as last counted; None: not counted yet."""
    told: Told | None = None
    """What the store has of its state."""
    guess: Guess | None = None
    deadly: Touch | None = None
    """The end of the interface, as the sentinel saw it."""

    def hooks(self) -> set[XdpHook | CgroupHook | SlotHook]:
        """Where a change concerns this link."""
        slot = self.held.link.slot_hook if self.held.link else None
        places = (self.record.hook, self.place, slot)
        return {place for place in places if isinstance(place, XdpHook | CgroupHook | SlotHook)}

    @property
    def state(self) -> State:
        """As shown to people."""
        return state_of(self.record, self.health)

    def view(self) -> LinkView:
        """What readers may see."""
        link, program = self.held.link, self.held.program
        return LinkView(
            record=self.record,
            health=self.health,
            link_id=link.id if link else None,
            maps=tuple(program.maps) if program else (),
            misses=link.misses if link else None,
        )

    def hold(self, held: Held) -> None:
        """Take new handles and close those that they replace."""
        before, self.held = self.held, held
        self.still = None
        if before.link is not None and before.link is not held.link:
            before.link.close()
        if before.program is not None and before.program is not held.program:
            before.program.close()

    def meet(self, company: Company | None) -> None:
        """Take another company and close the one before."""
        if self.company is not None:
            self.company.close()
        self.company = company


class Links(dict[str, Entry]):
    """Every link by name."""

    def __init__(self) -> None:
        super().__init__()
        self._by_cgroup: dict[str, set[str]] = {}
        self._by_kind: dict[type[Target], set[str]] = {}
        self.dropped = 0
        """How many links ended."""

    def add(self, entry: Entry) -> None:
        """Take a link in."""
        name, target = entry.record.name, entry.record.target
        self[name] = entry
        if isinstance(target, CgroupTarget):
            self._by_cgroup.setdefault(target.path, set()).add(name)
        self._by_kind.setdefault(type(target), set()).add(name)

    def on_cgroup(self, path: str) -> tuple[str, ...]:
        """Names of the links on a cgroup. There may be thousands, and cgroups come and go in bursts."""
        return tuple(self._by_cgroup.get(path, ()))

    def on(self, *kinds: type[Target]) -> list[str]:
        """Names of the links on targets of these kinds."""
        return [name for kind in kinds for name in self._by_kind.get(kind, ())]

    def unsettled(self, interfaces: Mapping[str, IfIndex]) -> list[str]:
        """Names of the links that are not, or may not be, as they should be. One system call a link."""
        moved = (
            name
            for name in self.on(XdpTarget)
            if self[name].record.hook != XdpHook(interfaces.get(_interface(self[name]), IfIndex(0)))
        )
        changed = (name for name, entry in self.items() if entry.still is None or not entry.still())
        return list(dict.fromkeys((*moved, *changed)))

    def named(self, name: str) -> Entry:
        """The link that a caller names, or `NoSuchLink` with the name that was perhaps meant."""
        entry = self.get(name)
        if entry is None:
            close = difflib.get_close_matches(name, self._similar(name), n=1)
            hint = f"did you mean {close[0]!r}?" if close else "'bpflinkctl list' shows all"
            raise NoSuchLink(f"there is no link {name!r}; {hint}")
        return entry

    def _similar(self, name: str) -> Iterable[str]:
        """A few names that may have been meant. Anybody may ask, and comparing long names takes long."""
        if len(name) > _LONGEST_HINT:
            return ()
        begins_or_ends = (n for n in self if n[:2] == name[:2] or n[-2:] == name[-2:])
        return islice((n for n in begins_or_ends if len(n) <= _LONGEST_HINT), _MOST_HINTS)

    def name_of(self, occupant: Occupant) -> str | None:
        """The link of ours that this is after all."""
        for name, entry in self.items():
            if entry.held.link is not None and entry.held.link.id == occupant.link_id:
                return name
        return None

    def drop(self, name: str) -> None:
        """Forget a link, and close its handles."""
        self.dropped += 1
        entry = self.take_out(name)
        entry.hold(Held(link=None, program=None))
        entry.meet(None)

    def take_out(self, name: str) -> Entry:
        """Forget a link, which goes on under another name."""
        entry = self.pop(name)
        target = entry.record.target
        self._by_kind[type(target)].discard(name)
        if isinstance(target, CgroupTarget):
            on_it = self._by_cgroup[target.path]
            on_it.discard(name)
            if not on_it:
                del self._by_cgroup[target.path]
        return entry


def _interface(entry: Entry) -> str:
    assert isinstance(entry.record.target, XdpTarget)
    return entry.record.target.interface


def status_of(kernel: Kernel, entry: Entry, *, for_swap: bool = False) -> Status:
    """Read the kernel: as little as tells how the link is.

    For a swap of a link that is attached the target's name does not matter.
    """
    target, ours = entry.record.target, entry.held.program
    facts = entry.held.link.facts() if entry.held.link else None
    if facts is not None and facts.hook is not None:
        if ours is not None and facts.prog_id != ours.info.id:
            stranger = kernel.identify(facts, entry.health.running) if facts.prog_id != NO_PROGRAM else None
            return Status(link=facts, hook=facts.hook, occupant=stranger)
        if for_swap:
            return Status(link=facts, hook=facts.hook)
        # A kernel function that we are on cannot come to be called otherwise.
        if isinstance(target, KprobeTarget | KprobeMultiTarget):
            return Status(link=facts, hook=facts.hook, switched_off=kernel.kprobes_off())
    hook = kernel.resolve(target)
    if hook is None or (facts is not None and facts.hook == hook):
        return Status(link=facts, hook=hook)
    return Status(link=facts, hook=hook, occupant=kernel.occupant(hook, entry.health.running))
