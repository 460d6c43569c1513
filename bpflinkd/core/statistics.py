"""How often the programs of all links ran. Runs on the worker thread, and only there.

The kernel counts runs only while somebody has it do so, as that costs each run of each program of the host
some nanoseconds. Here is kept who that is.
"""

from dataclasses import dataclass

from bpflinkd.core.access import Access, owns
from bpflinkd.core.callers import Action, Caller
from bpflinkd.core.ids import Micros
from bpflinkd.core.links import Links
from bpflinkd.core.model import LinkView, Misses
from bpflinkd.core.ports import Kernel, Ticks
from bpflinkd.core.runs import RunCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkReading:
    """One link."""

    view: LinkView
    counts: RunCounts | None
    """None where no program is held, or the kernel did not answer."""
    misses: Misses | None
    """For kprobes that are attached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """All links, at one moment."""

    at: Micros
    """On the clock of `ports.Ticks`."""
    counting: bool
    """Whether the kernel counts runs now. While it does not, the counts stand still."""
    reason: str
    """A sentence on why it does not; empty while it does."""
    links: tuple[LinkReading, ...]
    """By name."""


class Statistics:
    """Reads what the kernel counted, and has it count while somebody wants that."""

    def __init__(self, links: Links, access: Access, kernel: Kernel, ticks: Ticks) -> None:
        self._links = links
        self._access = access
        self._kernel = kernel
        self._ticks = ticks
        self._askers: set[str] = set()

    def ask(self, caller: Caller, asker: str) -> Reading:
        """Read, and have the kernel count from before that until `end`.

        Every program of the host pays for it, so it is for administrators, and for owners of links.
        `Unsanctioned`.

        Args:
            asker: whom `end` will name.
        """
        if not any(owns(caller, entry.record.owner) for entry in self._links.values()):
            verb = "have the kernel count runs, as it owns no link"
            self._access.administer(caller, Action.VIEW, verb)
        self.begin(asker)
        return self.read()

    def begin(self, asker: str) -> None:
        """Somebody wants the kernel to count. Again is no error."""
        self._askers.add(asker)
        self._kernel.have_runs_counted(wanted=True)

    def end(self, asker: str) -> None:
        """Somebody wants it no longer; with the last one it ends. Not asked is no error."""
        self._askers.discard(asker)
        if not self._askers:
            self._kernel.have_runs_counted(wanted=False)

    def read(self) -> Reading:
        """What there is now. For everybody."""
        at = self._ticks()
        names = sorted(self._links)
        reason = self._kernel.runs_not_counted()
        links = tuple(self._read(name) for name in names)
        return Reading(at=at, counting=not reason, reason=reason, links=links)

    def _read(self, name: str) -> LinkReading:
        entry = self._links[name]
        view, held = entry.view(), entry.held
        misses = view.misses() if view.misses is not None else None
        counts = self._kernel.run_counts(held.link, held.program)
        if counts is not None and misses is not None:
            counts = counts._replace(missed=misses.empty + misses.suppressed)
        return LinkReading(view=view, counts=counts, misses=misses)
