"""An examination of the host, for the method Doctor: a look at it and a judgement, each on its thread."""

from collections.abc import Callable
from typing import Any, TypeAlias

from bpflinkd.core import doctor
from bpflinkd.core.callers import Caller
from bpflinkd.core.findings import Circumstances
from bpflinkd.core.ids import LinkId
from bpflinkd.core.inspection import Inspection
from bpflinkd.dbus import wire

_Done: TypeAlias = Callable[[Any, BaseException | None], None]
_Submit: TypeAlias = Callable[[Callable[[], Any], _Done], None]
_SubmitSlow: TypeAlias = Callable[[int, Callable[[], Any], _Done], None]


class Examination:
    """For the main loop."""

    def __init__(
        self,
        inspection: Inspection,
        submit: _Submit,
        submit_slow: _SubmitSlow,
        circumstances: Callable[[], Circumstances],
    ) -> None:
        """Arguments are those of `Verbs`."""
        self._inspection = inspection
        self._submit = submit
        self._submit_slow = submit_slow
        self._circumstances = circumstances

    def begin(self, caller: Caller, ours: frozenset[LinkId], done: _Done) -> None:
        """Examine; `done(findings, error)` follows, with findings as they travel.

        Args:
            ours: the bpf_links that are ours now.
        """

        def surveyed(survey: Any, error: BaseException | None) -> None:
            if error is not None:
                done(None, error)
                return
            about = self._circumstances()
            self._submit(lambda: self._inspection.facts(caller, survey, ours, about), gathered)

        def gathered(facts: Any, error: BaseException | None) -> None:
            if error is not None:
                done(None, error)
                return
            self._submit_slow(caller.uid, lambda: wire.findings(doctor.examine(facts)), done)

        # Neither the look nor the judgement touches a link, and where there is much they take seconds.
        self._submit_slow(caller.uid, self._inspection.survey, surveyed)
