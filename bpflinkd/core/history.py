"""Generations of links before the present one, and the way back to them. For the worker thread only."""

import logging
from typing import NamedTuple

from bpflinkd.core import checks, plan, trials
from bpflinkd.core.access import Access
from bpflinkd.core.callers import ROOT_CALLER, Action
from bpflinkd.core.checks import Checked, Loaded
from bpflinkd.core.errors import BadOption, BadProgram, BpflinkdError, NoSuchGeneration
from bpflinkd.core.links import Entry, Links
from bpflinkd.core.maps import MapWishes
from bpflinkd.core.model import Generation, LinkView, Outcome
from bpflinkd.core.pending import Pending
from bpflinkd.core.ports import Clock, Kernel, Pins, Program, Store
from bpflinkd.core.replacing import Ready, Replacing
from bpflinkd.core.requests import RollbackRequest
from bpflinkd.core.sources import Builtin, ObjectImage, SourceText, StoredObject, StoredSource, with_bytes

log = logging.getLogger(__name__)


class Past(NamedTuple):
    """A generation, and whether one can go back to it."""

    generation: Generation
    outcome: str
    """`running`, `trial`, or how it ended: see `model.Outcome`."""
    way_back: str
    """`loaded`: by a swap; `stored`: it is loaded again first; empty: there is none."""


class Wanted(NamedTuple):
    """What a rollback takes."""

    checked: Checked
    source: ObjectImage | SourceText | None
    """What is to be loaded elsewhere first, because that takes long; None where nothing is."""


class History:
    """Of all links."""

    def __init__(
        self,
        links: Links,
        access: Access,
        kernel: Kernel,
        pins: Pins,
        store: Store,
        clock: Clock,
        replacing: Replacing,
        ongoing: trials.Trials,
    ) -> None:
        self._links = links
        self._access = access
        self._kernel = kernel
        self._pins = pins
        self._store = store
        self._clock = clock
        self._replacing = replacing
        self._trials = ongoing

    def read(self, name: str) -> tuple[Past, ...]:
        """The generations that are kept, the oldest first, the present one last."""
        record = self._links.named(name).record
        kept = self._pins.kept_generations(name)
        return tuple(
            self._past(each, record.generation.number, record.trial is not None, kept)
            for each in self._of(name)
        )

    def check(self, request: RollbackRequest) -> Wanted:
        """Every refusal that needs no program, and what is to be loaded elsewhere."""
        entry = self._links.named(request.name)
        record = entry.record
        overrides = False
        if not request.ours:
            overrides = self._access.change(
                request.caller, record, "go back to a generation before", force=request.force
            )
            action = Action.CHANGE_ANY if overrides else Action.ATTACH
            # A program that was let there once. Whose grant has ended since may not put it there again.
            self._access.put(request.caller, record.target, Builtin(name="pass"), None, action=action)
        plan.check_expected(record, request.expect)
        generation = self._chosen(entry, request.generation)
        checked = Checked(
            record.target,
            record.hook,
            generation.confinement,
            overrides,
            given=True,
            replaces=entry.held.program,
            wishes=request.maps,
        )
        return Wanted(checked, self._slow(request.name, generation))

    def rollback(self, request: RollbackRequest, loaded: Loaded | None = None) -> LinkView:
        """Let a generation before run again, as a new one. One swap, where its program is still loaded.

        Args:
            loaded: its program, where it was loaded elsewhere.
        """
        return self._replacing.put(self.ready(request, self.check(request).checked, loaded))

    def ready(self, request: RollbackRequest, checked: Checked, loaded: Loaded | None = None) -> Ready:
        """The last checks, with the program, which is ours from now on. Arguments as for `rollback`.

        Args:
            checked: what `check` found just now.
        """
        program = loaded.program if loaded else None
        try:
            entry = self._links.named(request.name)
            checks.maps_are_current(loaded, request.name, entry.held.program)
            generation = self._chosen(entry, request.generation)
            program = program or self._open(entry, generation, request.maps)
            after = plan.returned(entry.record, request, generation, program, self._clock())
            if request.confirm_within is not None:
                self._trials.check_none(entry.record)
            after = self._trials.begun(
                after, entry.record, program, request.confirm_within, request.confirm_if
            )
        except BaseException:
            if program is not None:
                program.close()
            raise
        overrides = request.caller if checked.overrides else None
        return Ready(entry, after, program, request.left, overrides)

    def expire(self, name: str) -> list[Pending]:
        """Look at a generation on trial: where its time is over, or a condition is broken, go back.

        What must be loaded first is handed back. Where one cannot go back the generation stays, and the log
        says why.
        """
        entry = self._links.get(name)
        trial = entry.record.trial if entry is not None else None
        if entry is None or trial is None:
            self._trials.forget(name)
            return []
        over, broken = self._trials.overdue(entry.record), self._trials.verdict(entry)
        if not over and not broken:
            return []
        self._trials.forget(name)
        if trial.conditions and not broken and trial.boot == self._trials.boot:
            self._trials.keep(entry)
            log.info("link %r keeps generation %d: all conditions held", name, entry.record.generation.number)
            return []
        request = RollbackRequest(
            caller=ROOT_CALLER,
            name=name,
            generation=trial.back_to,
            ours=True,
            message=broken or trials.reason(trial),
            left=Outcome.EXPIRED,
        )

        def failed(error: BpflinkdError) -> None:
            log.error("link %r cannot go back to generation %d: %s", name, trial.back_to, error)

        def compiled(program: Program) -> None:
            if entry.record.trial is trial and self._links.get(name) is entry:
                self.rollback(request, Loaded(program, wanted.checked.confined, wanted.checked.replaces))
            else:
                program.close()

        try:
            wanted = self.check(request)
            if wanted.source is not None:
                return [
                    Pending(source=wanted.source, checked=wanted.checked, compiled=compiled, failed=failed)
                ]
            self.rollback(request)
        except BpflinkdError as error:
            failed(error)
        return []

    def expire_all(self) -> list[Pending]:
        """The same for every link whose time is over."""
        return [pending for name in self._trials.ended() for pending in self.expire(name)]

    # Pieces

    def _past(self, each: Generation, current: int, on_trial: bool, kept: frozenset[int]) -> Past:
        if each.number == current:
            return Past(each, "trial" if on_trial else "running", "")
        way_back = "loaded" if each.number in kept else "stored" if plan.can_be_loaded(each.source) else ""
        return Past(each, str(each.outcome or Outcome.REPLACED), way_back)

    def _of(self, name: str) -> tuple[Generation, ...]:
        current = self._links.named(name).record.generation.number
        return tuple(each for each in self._store.history(name) if each.number <= current)

    def _chosen(self, entry: Entry, number: int | None) -> Generation:
        """The generation that is meant: by its number, or the one before. `NoSuchGeneration`."""
        record = entry.record
        current = record.generation.number
        if number is None:
            number = record.trial.back_to if record.trial is not None else current - 1
        if number == current:
            raise BadOption(
                f"link {record.name!r} runs generation {number}, so there is nothing to go back to"
            )
        found = self._store.generation(record.name, number) if number < current else None
        if found is None:
            known = [str(each.number) for each in self._of(record.name) if each.number != current]
            raise NoSuchGeneration(
                f"generation {number} of link {record.name!r} is not kept; those before the present one, "
                f"{current}, that are: {', '.join(known) or 'none'}"
            )
        return found

    def _slow(self, name: str, generation: Generation) -> ObjectImage | SourceText | None:
        """What another process compiles or loads again, unless it is loaded still."""
        source = generation.source
        if not plan.is_loaded_elsewhere(generation):
            return None
        if generation.number in self._pins.kept_generations(name):
            return None
        assert isinstance(source, StoredSource | StoredObject)
        return with_bytes(source, self._data(generation, source.sha256))

    def _data(self, generation: Generation, sha256: str) -> bytes:
        data = self._store.image(sha256)
        if data is None:
            raise NoSuchGeneration(
                f"the file of generation {generation.number} is not kept any more; replace the program "
                "instead"
            )
        return data

    def _open(self, entry: Entry, generation: Generation, wishes: MapWishes) -> Program:
        """Its program, which is loaded still, or loaded again. `NoSuchGeneration`."""
        name, source = entry.record.name, generation.source
        kept = self._pins.open_kept(name, generation.number, source)
        if kept is not None:
            if (kept.info.name, kept.info.tag) == (generation.program.name, generation.program.tag):
                return kept
            kept.close()
            log.warning(
                "what is pinned as generation %d of link %r is another program", generation.number, name
            )
        image = self._data(generation, source.sha256) if isinstance(source, StoredObject) else None
        try:
            return self._kernel.reload_program(
                source,
                image,
                entry.record.target,
                generation.confinement,
                replaces=entry.held.program,
                wishes=wishes,
            )
        except BadProgram as error:
            raise NoSuchGeneration(
                f"generation {generation.number} of link {name!r} is gone: {error}"
            ) from None
