"""Other programs for links that there are. Runs on the worker thread, and only there, but for `load`."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from bpflinkd.core import checks, plan
from bpflinkd.core.access import Access
from bpflinkd.core.callers import Action, Caller
from bpflinkd.core.checks import Checked, Loaded
from bpflinkd.core.events import OfOneLink, OwnerOverridden, ProgramReplaced, StateChanged
from bpflinkd.core.executor import Executor, Held
from bpflinkd.core.links import Entry, Links, status_of
from bpflinkd.core.model import LinkView, Outcome, Record, State
from bpflinkd.core.ports import Clock, Kernel, Program, Publish
from bpflinkd.core.requests import ReplaceRequest
from bpflinkd.core.sources import WantedProgram
from bpflinkd.core.trials import Trials


class Ready(NamedTuple):
    """A generation that can be put in place: every check that can refuse it has passed."""

    entry: Entry
    after: Record
    program: Program
    """Loaded, and ours."""
    left: Outcome
    """What becomes of the generation before."""
    overrides: Caller | None = None
    """An administrator who asked for it, though another owns the link."""


class Replacing:
    """Swaps the programs of links."""

    def __init__(
        self,
        links: Links,
        access: Access,
        kernel: Kernel,
        executor: Executor,
        publish: Publish,
        clock: Clock,
        trials: Trials,
        observe: Callable[[str, str], None],
    ) -> None:
        """`observe` looks at a link whose state was not `active`."""
        self._links = links
        self._access = access
        self._kernel = kernel
        self._executor = executor
        self._publish = publish
        self._clock = clock
        self._trials = trials
        self._observe = observe

    def check(self, request: ReplaceRequest) -> Checked:
        """Every refusal that does not need the program."""
        entry = self._links.named(request.name)
        record = entry.record
        confined, overrides = None, False
        if not request.ours:
            caller, verb = request.caller, "replace its program"
            overrides = self._access.change(caller, record, verb, force=request.force)
            action = Action.CHANGE_ANY if overrides else Action.ATTACH
            confined = self._access.put(caller, record.target, request.program, None, action=action)
            self._trials.check_none(record)
        plan.check_expected(record, request.expect)
        running = entry.held.program
        return Checked(record.target, record.hook, confined, overrides, replaces=running, wishes=request.maps)

    def replace(self, request: ReplaceRequest, loaded: Loaded | None = None) -> LinkView:
        """Swap the program of a link, atomically. Returns the link at its new generation.

        Args:
            loaded: the program, where it was loaded elsewhere because that takes long.
        """
        return self.put(self.ready(request, self.check(request), loaded))

    def ready(self, request: ReplaceRequest, checked: Checked, loaded: Loaded | None = None) -> Ready:
        """The last checks, with the program, which is ours from now on. Arguments as for `replace`.

        Args:
            checked: what `check` found just now.
        """
        program = loaded.program if loaded else None
        try:
            checks.loaded_as_allowed(loaded, checked.confined)
            entry = self._links.named(request.name)
            checks.maps_are_current(loaded, request.name, entry.held.program)
            program = program or self.load(request.program, checked)
            after = plan.replacement(entry.record, request, program, self._clock(), checked.confined)
            after = self._trials.begun(
                after, entry.record, program, request.confirm_within, request.confirm_if
            )
        except BaseException:
            if program is not None:
                program.close()
            raise
        overrides = request.caller if checked.overrides else None
        return Ready(entry, after, program, Outcome.REPLACED, overrides)

    def load(self, program: WantedProgram, checked: Checked) -> Program:
        """Load a program. Where that takes long, on another thread: it touches no link."""
        return self._kernel.open_program(
            program,
            checked.target,
            given=checked.given,
            confined=checked.confined,
            replaces=checked.replaces,
            wishes=checked.wishes,
        )

    def put(self, ready: Ready) -> LinkView:
        """Put a generation in place, whose program is loaded and fits."""
        entry, after, program, left, _ = ready
        running = entry.held.program
        try:
            expected = running.info if running else entry.record.generation.program
            status = status_of(self._kernel, entry, for_swap=True)
            after, actions = plan.swap(after, status, program, expected, running, left)
            held = self._executor.run(actions, after.target, entry.held)
        except BaseException:
            program.close()
            raise
        for news in self.settle(ready, after, held):
            self._publish(news)
        self.look_after(ready.entry)
        return ready.entry.view()

    @staticmethod
    def settle(ready: Ready, after: Record, held: Held) -> Iterator[OfOneLink]:
        """A generation is in place: take it. Yields what is to be told.

        Args:
            after: as it is recorded.
        """
        entry, before, was = ready.entry, ready.entry.record, ready.entry.state
        link = held.link if entry.still is not None and held.link is entry.held.link else None
        entry.record = after
        entry.hold(held._replace(program=ready.program))
        if link is not None:
            # It was as it should be, and is so still: nobody need look.
            link.mark_good(after.generation.program.id)
            entry.still = link.unchanged
        view = entry.view()
        yield ProgramReplaced(view=view, old=before.generation)
        if view.state is not was:
            yield StateChanged(view=view, old=was)
        if ready.overrides is not None:
            yield OwnerOverridden(view=view, by=ready.overrides.actor, verb="replaced")

    def look_after(self, entry: Entry) -> None:
        """Look at a link that has a new generation, where it was not active."""
        if entry.health.state is not State.ACTIVE:
            self._observe(entry.record.name, "replace")
