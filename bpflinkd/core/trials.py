"""Generations that wait for confirmation: without it the one before comes back. For the worker thread only.

The time runs on the clock that counts from the boot, which nobody can set, and which goes on while the
machine is suspended. A reboot within the time ends a trial: who rebooted may have had to.
"""

from dataclasses import replace
from typing import Final

from bpflinkd.core import judging
from bpflinkd.core.access import Access
from bpflinkd.core.callers import Caller
from bpflinkd.core.errors import BpflinkdError, InTrial, NotInTrial
from bpflinkd.core.events import LinkAmended, StateChanged
from bpflinkd.core.ids import Micros, UnixMicros
from bpflinkd.core.judging import Condition
from bpflinkd.core.links import Entry, Links
from bpflinkd.core.model import LinkView, Record, Trial
from bpflinkd.core.ports import Clock, Kernel, Program, Publish, Store, Ticks

_SECOND: Final = 1_000_000


class Trials:
    """Of all links."""

    def __init__(
        self,
        links: Links,
        access: Access,
        kernel: Kernel,
        store: Store,
        publish: Publish,
        clock: Clock,
        uptime: Ticks,
    ) -> None:
        """`uptime` is the time since the boot, that of a suspended machine included."""
        self._links = links
        self._access = access
        self._kernel = kernel
        self._store = store
        self._publish = publish
        self._clock = clock
        self._uptime = uptime
        self.boot = ""
        """Which boot this is; known once links are taken back."""
        self._looks: dict[str, tuple[Micros, tuple[int, ...]]] = {}
        """When each judged trial was looked at last, and what its counters said."""

    @staticmethod
    def check_none(record: Record) -> None:
        """Refuse to replace what waits for confirmation. `InTrial`."""
        if record.trial is not None:
            raise InTrial(
                f"generation {record.generation.number} of link {record.name!r} waits for confirmation; "
                f"confirm it first ('bpflinkctl confirm {record.name}'), or go back ('bpflinkctl rollback "
                f"{record.name}')"
            )

    def begun(
        self,
        after: Record,
        before: Record,
        program: Program,
        within: Micros | None,
        conditions: tuple[Condition, ...] = (),
    ) -> Record:
        """The record of a generation that is put on trial, where that is asked for. `BadOption`.

        Args:
            program: its program, loaded.
            within: the time to confirm; None where it goes on no trial.
        """
        if within is None:
            return after
        trial = Trial(
            boot=self.boot,
            deadline=Micros(self._uptime() + within),
            within=within,
            until=UnixMicros(self._clock() + within),
            back_to=before.generation.number,
            conditions=tuple(map(str, conditions)),
            baseline=tuple(
                self._kernel.read_counter(each.counter, program, before.hook) for each in conditions
            ),
        )
        return replace(after, trial=trial)

    def confirm(self, caller: Caller, name: str) -> LinkView:
        """Keep the generation that is on trial. `NotInTrial`, `NotOwner`."""
        entry = self._links.named(name)
        record = entry.record
        self._access.change(caller, record, "confirm it")
        number = record.generation.number
        if record.trial is None:
            raise NotInTrial(
                f"link {name!r} is at generation {number}, which does not wait for confirmation: it was "
                "confirmed, or the time was over and the generation before came back; 'bpflinkctl history "
                f"{name}' tells"
            )
        if self.overdue(record):
            raise NotInTrial(
                f"the time to confirm generation {number} of link {name!r} is over: the generation before "
                "comes back"
            )
        return self.keep(entry)

    def keep(self, entry: Entry) -> LinkView:
        """The same, without asking whether somebody may."""
        before = entry.state
        after = replace(entry.record, trial=None)
        self._store.settle(after)
        entry.record = after
        view = entry.view()
        changed = view.state is not before
        self._publish(StateChanged(view=view, old=before) if changed else LinkAmended(view=view))
        return view

    def overdue(self, record: Record) -> bool:
        """Whether the time of its trial is over."""
        trial = record.trial
        return trial is not None and (trial.boot != self.boot or self._uptime() >= trial.deadline)

    def verdict(self, entry: Entry) -> str:
        """Why a generation on trial cannot stay, by its conditions; empty while nothing is against it.

        Limits are looked at over the time since the last look, and over all of it; what must be reached is
        asked at the end only.
        """
        record, program = entry.record, entry.held.program
        trial = record.trial
        if trial is None or not trial.conditions or program is None:
            return ""
        now, started = self._uptime(), trial.deadline - trial.within
        conditions = judging.parse_all(list(trial.conditions))
        try:
            values = tuple(
                self._kernel.read_counter(each.counter, program, record.hook) for each in conditions
            )
        except BpflinkdError as error:
            return str(error)
        looked, last = self._looks.get(record.name, (Micros(started), trial.baseline))
        over = now >= trial.deadline
        if now - looked >= _SECOND or over:
            self._looks[record.name] = now, values
        else:
            looked, last = Micros(started), trial.baseline
        for condition, value, first, previous in zip(conditions, values, trial.baseline, last, strict=True):
            broken = ""
            if condition.is_limit and condition.per_second and now - looked >= _SECOND:
                broken = condition.broken(value - previous, now - looked)
            if over or (condition.is_limit and not condition.per_second):
                broken = broken or condition.broken(value - first, now - started)
            if broken:
                return broken
        return ""

    def forget(self, name: str) -> None:
        """The trial of a link is over."""
        self._looks.pop(name, None)

    def ended(self) -> tuple[str, ...]:
        """Names of the links whose time is over."""
        return tuple(name for name, entry in self._links.items() if self.overdue(entry.record))


def reason(trial: Trial) -> str:
    """Why a generation came back, in words."""
    return f"not confirmed within {trial.within / _SECOND:g} s"
