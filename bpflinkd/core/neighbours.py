"""Programs that run beside ours on the same cgroup. For the worker thread only."""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Final

from bpflinkd.core.events import ChangeKind
from bpflinkd.core.ids import ProgId
from bpflinkd.core.links import Entry, Links
from bpflinkd.core.ports import Kernel
from bpflinkd.core.reconcile import Change
from bpflinkd.core.targets import CgroupTarget
from bpflinkd.core.touches import neighbour_added, neighbour_removed

_TRIES: Final = 8
"""So often at most is counted again while somebody changes what is there."""
_SHARE: Final = 100
_TURNS: Final = 8
"""A sweep counts for so many links, or, where that is more, for one in eight: counting takes twice as long
as looking at a link."""


class Neighbours:
    """Counts them; the kernel announces none of them."""

    def __init__(self, links: Links, kernel: Kernel) -> None:
        self._links = links
        self._kernel = kernel
        self._due = deque[str]()
        """Links that have yet to be counted in this round."""
        self._share = _SHARE

    def turn(self) -> Sequence[Entry]:
        """Those that are to be counted next, so that many links do not make each sweep long."""
        if not self._due:
            self._due.extend(name for name, entry in self._links.items() if entry.company is not None)
            self._share = max(_SHARE, len(self._due) // _TURNS + 1)
        now = [self._due.popleft() for _ in range(min(self._share, len(self._due)))]
        return [self._links[name] for name in now if name in self._links]

    def count(self, entry: Entry) -> list[Change]:
        """Count again; what came and went since the last time. Nothing the first time."""
        if entry.company is not None and entry.company.unchanged():
            return []
        target = entry.record.target
        if not isinstance(target, CgroupTarget):
            return []
        before, entry.neighbours = entry.neighbours, self._beside(entry, target)
        if before is None or entry.neighbours is None:
            return []  # or they went with the cgroup, which is told by itself
        return [
            *(self._removed(entry, prog_id) for prog_id in (before - entry.neighbours).elements()),
            *(self._added(entry, prog_id) for prog_id in (entry.neighbours - before).elements()),
        ]

    def _beside(self, entry: Entry, target: CgroupTarget) -> Counter[ProgId] | None:
        """Programs that no link of ours runs; None where the cgroup is gone."""
        for _ in range(_TRIES):
            company = self._kernel.company(target)
            entry.meet(company)
            if company is None:
                return None
            found = Counter(company.programs)
            found.subtract(self._ours(target))
            if company.unchanged():  # or somebody swapped one of ours between the two
                break
        return +found

    def _ours(self, target: CgroupTarget) -> list[ProgId]:
        """What our links run on this hook, whoever put it there."""
        found = []
        for name in self._links.on_cgroup(target.path):
            entry = self._links[name]
            if entry.record.target == target and entry.held.link is not None:
                facts = entry.held.link.facts()
                if facts.hook is not None:
                    found.append(facts.prog_id)
        return found

    def _added(self, entry: Entry, prog_id: ProgId) -> Change:
        program = self._kernel.describe(prog_id)
        sentence = neighbour_added(entry.record, program)
        return Change(kind=ChangeKind.NEIGHBOUR_ADDED, sentence=sentence, after=program)

    def _removed(self, entry: Entry, prog_id: ProgId) -> Change:
        program = self._kernel.describe(prog_id)
        sentence = neighbour_removed(entry.record, program)
        return Change(kind=ChangeKind.NEIGHBOUR_REMOVED, sentence=sentence, before=program)
