"""The links that we hold, with what was last known of each. For the worker thread only."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from bpflinkd.core.errors import NoSuchLink
from bpflinkd.core.executor import Held
from bpflinkd.core.ids import NO_PROGRAM
from bpflinkd.core.model import Health, LinkView, Occupant, Record, Status
from bpflinkd.core.ports import Kernel
from bpflinkd.core.reconcile import NO_FIGHT, Fight
from bpflinkd.core.targets import CgroupTarget, KprobeMultiTarget, KprobeTarget

_LONGEST_HINT: Final = 40
"""Characters of a name that is compared with others."""
_MOST_HINTS: Final = 20


@dataclass(slots=True)
class Entry:
    """All we know of one link between two calls."""

    record: Record
    health: Health
    held: Held
    fight: Fight = NO_FIGHT

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
        if before.link is not None and before.link is not held.link:
            before.link.close()
        if before.program is not None and before.program is not held.program:
            before.program.close()


class Links(dict[str, Entry]):
    """Every link by name."""

    def __init__(self) -> None:
        super().__init__()
        self._by_cgroup: dict[str, set[str]] = {}

    def add(self, entry: Entry) -> None:
        """Take a link in."""
        name, target = entry.record.name, entry.record.target
        self[name] = entry
        if isinstance(target, CgroupTarget):
            self._by_cgroup.setdefault(target.path, set()).add(name)

    def on_cgroup(self, path: str) -> tuple[str, ...]:
        """Names of the links on a cgroup. There may be thousands, and cgroups come and go in bursts."""
        return tuple(self._by_cgroup.get(path, ()))

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
        entry = self.pop(name)
        entry.hold(Held(link=None, program=None))
        if isinstance(entry.record.target, CgroupTarget):
            on_it = self._by_cgroup[entry.record.target.path]
            on_it.discard(name)
            if not on_it:
                del self._by_cgroup[entry.record.target.path]


def status_of(kernel: Kernel, entry: Entry, *, for_swap: bool = False) -> Status:
    """Read the kernel: as little as tells how the link is.

    For a swap of a link that is attached the target's name does not matter.
    """
    target, ours = entry.record.target, entry.held.program
    facts = entry.held.link.facts() if entry.held.link else None
    if facts is not None and facts.hook is not None:
        if ours is not None and facts.prog_id != ours.info.id:
            stranger = kernel.identify(facts) if facts.prog_id != NO_PROGRAM else None
            return Status(link=facts, hook=facts.hook, occupant=stranger)
        # A kernel function that we are on cannot come to be called otherwise.
        if for_swap or isinstance(target, KprobeTarget | KprobeMultiTarget):
            return Status(link=facts, hook=facts.hook)
    hook = kernel.resolve(target)
    if hook is None or (facts is not None and facts.hook == hook):
        return Status(link=facts, hook=hook)
    return Status(link=facts, hook=hook, occupant=kernel.occupant(hook))
