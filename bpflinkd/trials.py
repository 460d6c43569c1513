"""The time of generations that wait for confirmation: a timer for each, on the main loop."""

import time
from collections.abc import Callable
from typing import Final

from gi.repository import GLib

from bpflinkd.core.events import (
    LinkAdded,
    LinkAmended,
    LinkRemoved,
    OfOneLink,
    ProgramReplaced,
    StateChanged,
)
from bpflinkd.core.ids import Micros
from bpflinkd.core.model import LinkView, Trial

_LOOK_MS: Final = 1000
"""GLib's timers stand still while the machine is suspended, and this clock does not: it is looked at."""


def uptime() -> Micros:
    """Microseconds since the boot, while the machine was suspended too. Nobody can set it."""
    return Micros(time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000)


class TrialClock:
    """For the main loop."""

    def __init__(self, look_at: Callable[[str], None]) -> None:
        """`look_at` is called with the name of a link whose time is over, and before that each second where
        its trial has conditions."""
        self._look_at = look_at
        self._trials: dict[str, Trial] = {}
        self._timers: dict[str, int] = {}

    def hear(self, news: OfOneLink) -> None:
        """The manager did something."""
        match news:
            case LinkRemoved(view=view):
                self._forget(view.record.name)
            case (
                LinkAdded(view=view)
                | ProgramReplaced(view=view)
                | LinkAmended(view=view)
                | StateChanged(view=view)
            ):
                self._follow(view)
            case _:
                pass

    def _follow(self, view: LinkView) -> None:
        name, trial = view.record.name, view.record.trial
        if self._trials.get(name) == trial:
            return
        self._forget(name)
        if trial is not None:
            self._trials[name] = trial
            self._wait(name)

    def _forget(self, name: str) -> None:
        self._trials.pop(name, None)
        timer = self._timers.pop(name, 0)
        if timer:
            GLib.source_remove(timer)

    def _wait(self, name: str) -> None:
        left = -(-(self._trials[name].deadline - uptime()) // 1000)
        self._timers[name] = GLib.timeout_add(max(0, min(left, _LOOK_MS)), self._look, name)

    def _look(self, name: str) -> bool:
        del self._timers[name]
        trial = self._trials[name]
        over = uptime() >= trial.deadline
        if not over:
            self._wait(name)
        if over or trial.conditions:
            self._look_at(name)
        return bool(GLib.SOURCE_REMOVE)
