"""A foreign change is told once, by whichever source knows most of it. For the worker thread only."""

from collections.abc import Sequence
from dataclasses import replace

from bpflinkd.core.events import ChangeKind, ForeignChange, Touch
from bpflinkd.core.ids import ProgId
from bpflinkd.core.links import Entry, Guess
from bpflinkd.core.model import Health, ProgramInfo, State
from bpflinkd.core.ports import Clock, Publish, Ticks
from bpflinkd.core.reconcile import Change, Verdict
from bpflinkd.core.touches import BESIDE, meaning
from bpflinkd.core.witness import Witness


class Telling:
    """Publishes foreign changes.

    The sentinel tells of each change and who made it. The other sources see only how things are by now, so
    what they find is told where no touch explains it.
    """

    def __init__(self, witness: Witness, publish: Publish, clock: Clock, ticks: Ticks) -> None:
        self._witness = witness
        self._publish = publish
        self._clock = clock
        self._ticks = ticks

    def look(
        self, entry: Entry, verdict: Verdict, touches: Sequence[Touch], source: str, *, first: bool
    ) -> None:
        """Tell what a look at a link brought to light.

        Args:
            touches: what the sentinel has to tell of it.
            first: the look of a start, where a link that is as it should be is no news.
        """
        kinds = self._touches(entry, verdict.health, touches)
        change = verdict.change
        if change is None or (first and verdict.health.state is State.ACTIVE):
            return
        if self._witness.told_by_it(change.kind):
            # The kernel shows a change a moment before the sentinel's record of it is complete.
            if not first and not kinds - BESIDE:
                kinds |= self._touches(entry, verdict.health, self._witness.await_(entry))
            if kinds - BESIDE:
                return
            entry.guess = Guess(change.kind, _id(change.after), self._ticks())
        deadly = None
        if change.kind is ChangeKind.TARGET_GONE:
            deadly, entry.deadly = entry.deadly, None
        self.tell(entry, verdict.health, change, source, deadly)

    def tell(
        self, entry: Entry, health: Health, change: Change, source: str, touch: Touch | None = None
    ) -> None:
        """Publish one change."""
        running = health.running
        found = running is not None and change.after is not None and running.program.id == change.after.id
        self._publish(
            ForeignChange(
                view=replace(entry.view(), health=health),
                kind=change.kind,
                sentence=change.sentence,
                by=running if found else None,
                source=source,
                seen=self._clock(),
                before=change.before,
                after=change.after,
                who=touch.by if touch else None,
                delay=type(touch.at)(max(0, self._ticks() - touch.at)) if touch else None,
            )
        )

    def _touches(self, entry: Entry, health: Health, touches: Sequence[Touch]) -> set[ChangeKind]:
        """Tell of each; the kinds that were told, now or by a guess before."""
        link = entry.held.link
        means = meaning(entry.record, link.id if link else None, _runs(entry))
        told = set()
        for touch in touches:
            if touch.dying:
                entry.deadly = touch
            change = means(touch)
            if change is None:
                continue
            told.add(change.kind)
            guess = entry.guess
            if (
                guess is not None
                and (guess.kind, guess.after) == (change.kind, _id(change.after))
                and touch.at <= guess.told
            ):
                entry.guess = None
                continue
            self.tell(entry, health, change, "sentinel", touch)
        return told


def _id(program: ProgramInfo | None) -> ProgId | None:
    return program.id if program else None


def _runs(entry: Entry) -> ProgramInfo | None:
    """What ran before, as far as we knew."""
    if entry.health.running is not None:
        return entry.health.running.program
    ours = entry.held.program
    return ours.info if ours is not None and entry.health.state is State.ACTIVE else None
