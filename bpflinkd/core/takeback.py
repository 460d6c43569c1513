"""A start takes every link back: from its pins, or, where they are gone, from what the store keeps."""

import logging
from dataclasses import replace
from functools import partial

from bpflinkd.core import plan, recovery
from bpflinkd.core.callers import ROOT_CALLER
from bpflinkd.core.checks import Checked
from bpflinkd.core.errors import BpflinkdError, StorageFailed
from bpflinkd.core.events import Healed
from bpflinkd.core.executor import Executor, Held
from bpflinkd.core.ids import LinkId, ProgId
from bpflinkd.core.links import Entry, Links
from bpflinkd.core.model import Health, Occupant, Outcome, Record, State, Told
from bpflinkd.core.observer import Observer
from bpflinkd.core.pending import Pending
from bpflinkd.core.ports import Clock, Kernel, Link, Pins, Program, Promised, Publish, Store, Stored
from bpflinkd.core.sources import PinnedProgram, StoredObject, StoredSource, with_bytes

log = logging.getLogger(__name__)


class TakeBack:
    """For the worker thread only."""

    def __init__(
        self,
        links: Links,
        kernel: Kernel,
        pins: Pins,
        store: Store,
        executor: Executor,
        observer: Observer,
        publish: Publish,
        clock: Clock,
    ) -> None:
        self._links = links
        self._kernel = kernel
        self._pins = pins
        self._store = store
        self._executor = executor
        self._observer = observer
        self._publish = publish
        self._clock = clock
        self._boot = ""

    def all(self, boot: str) -> list[Pending]:
        """Every link of the store. What must be compiled first is handed back."""
        self._boot = boot
        ended = self._store.begin_boot(boot)
        stored = self._store.load()
        pending: list[Pending] = []
        for item in stored:
            if item.latest.name in ended:
                continue
            try:
                pending += self._one(item)
            except BpflinkdError as error:
                log.error("link %r could not be taken back: %s", item.latest.name, error)
                self._adopt_failed(item.latest, str(error))
        self._pins.forget_kept()
        for directory in self._pins.strangers(item.latest.name for item in stored):
            log.warning("the pin directory %s belongs to no link that we know; left alone", directory)
        return pending

    def try_again(self) -> None:
        """Links whose program came from a pin that was not there: it may be by now."""
        for name, entry in [each for each in self._links.items() if each[1].still is None]:
            if entry.held.program is None and isinstance(entry.record.generation.source, PinnedProgram):
                try:
                    self._find_program(entry)
                except BpflinkdError:
                    continue  # it has been told already
                self._observer.observe(name, "sweep")

    def _one(self, item: Stored) -> list[Pending]:
        name = item.latest.name
        if item.was:
            if not self._pins.taken(name):
                self._pins.rename(item.was, name)
            self._store.forget_old_name(name)
        recorded = (record.generation.program.id for record in (item.record, item.intent) if record)
        target, program = item.latest.target, item.latest.generation.program
        promised = Promised(frozenset(recorded), item.link_id, program, partial(self._kernel.resolve, target))
        pinned = self._pins.open(name, item.latest.generation.source, promised)
        decision = recovery.recover(item, pinned)
        if decision.healed:
            self._publish(Healed(name=name, sentence=decision.healed))
        held = self._executor.run(decision.actions, item.latest.target, decision.held, healing=True)
        record = decision.record
        if record is not None and held.program is None:
            record = self._without_trial(record)
        # A kprobe's link ends with its last descriptor: none may stay open for a link that is no more.
        kept = (held.link, held.program) if record is not None else ()
        for handle in (pinned.link, pinned.program, pinned.staged_link, pinned.staged_program):
            if handle is not None and handle not in kept:
                handle.close()
        if record is None:
            return []
        present = record.generation.number
        self._pins.tidy_kept(record.name, present - self._store.kept + 1, present)
        unknown = Health(state=State.WAITING, reason="", since=self._clock())
        entry = Entry(record=record, health=_last_told(item.told) or unknown, held=held, told=item.told)
        self._links.add(entry)
        self._note_link(entry, item.link_id)
        if held.program is not None and self._runs(held.link, held.program.info.id):
            self._amend(entry, held.program)
        if held.program is None:
            waits = self._to_load(entry)
            if waits is not None:
                reason = f"its program is being loaded again from {entry.record.generation.source}"
                self._observer.show(entry, replace(unknown, state=State.FAILED, reason=reason), first=True)
                return [waits]
            try:
                self._find_program(entry)
            except BpflinkdError as error:
                failed = replace(unknown, state=State.FAILED, reason=str(error))
                self._observer.show(entry, failed, first=True)
                return []
        self._observer.look(name, "start", first=True)
        return []

    def _without_trial(self, record: Record) -> Record:
        """After a reboot within the time to confirm the generation before is the one that is loaded."""
        trial = record.trial
        if trial is None or trial.boot == self._boot:
            return record
        before = self._store.generation(record.name, trial.back_to)
        if before is None or not plan.can_be_loaded(before.source):
            return record
        reason = f"the machine was booted anew before generation {record.generation.number} was confirmed"
        after = plan.brought_back(record, before, ROOT_CALLER, reason, self._clock())
        try:
            self._store.intend(after, None)
            self._store.commit(after, None, Outcome.EXPIRED)
        except StorageFailed as error:
            log.error(
                "that link %r is back at generation %d is not recorded: %s", record.name, before.number, error
            )
        self._publish(Healed(name=record.name, sentence=f"{reason}; generation {before.number} is back"))
        return after

    def _note_link(self, entry: Entry, known: LinkId | None) -> None:
        """Write down which bpf_link is ours, where a daemon before us could not."""
        link = entry.held.link
        if link is None or link.id == known:
            return
        try:
            self._store.note_hook(entry.record, link.id)
        except StorageFailed as error:
            log.error("which bpf_link is that of %r is not recorded: %s", entry.record.name, error)

    def _find_program(self, entry: Entry) -> None:
        """Get a program whose pin is gone: from the link that still runs it, or from its source."""
        record, link = entry.record, entry.held.link
        generation = record.generation
        if self._still_runs(entry):
            assert link is not None
            maps = self._pins.maps(record.name)
            program = self._kernel.hold_program(generation.program.id, generation.source, maps)
            self._pins.put_back(record.name, program)
            entry.held = entry.held._replace(program=program)
            return
        source = generation.source
        image = self._store.image(source.sha256) if isinstance(source, StoredObject) else None
        self._take(entry, self._kernel.reload_program(source, image, record.target))

    def _still_runs(self, entry: Entry) -> bool:
        return self._runs(entry.held.link, entry.record.generation.program.id)

    @staticmethod
    def _runs(link: Link | None, prog_id: ProgId) -> bool:
        facts = link.facts() if link is not None else None
        return facts is not None and facts.hook is not None and facts.prog_id == prog_id

    def _amend(self, entry: Entry, program: Program) -> None:
        """Record which program it is that was loaded again, and so has another kernel id."""
        record = entry.record
        if record.generation.program == program.info:
            return
        entry.record = replace(record, generation=replace(record.generation, program=program.info))
        try:
            self._store.amend(entry.record)
        except StorageFailed as error:
            # The pin tells at the next start which program it is.
            log.error("link %r has its program again, which is not recorded: %s", record.name, error)

    def _take(self, entry: Entry, program: Program) -> None:
        """A program was loaded again: it has another kernel id, and pins of its own."""
        record = entry.record
        try:
            self._pins.discard_staged(record.name)
            self._pins.stage_program(record.name, program)
            self._pins.promote(record.name)
        except BaseException:
            program.close()
            raise
        entry.held = entry.held._replace(program=program)
        self._amend(entry, program)

    def _to_load(self, entry: Entry) -> Pending | None:
        """What a link waits for whose program another process compiles or loads again."""
        name, generation = entry.record.name, entry.record.generation
        source = generation.source
        if not plan.is_loaded_elsewhere(generation) or self._still_runs(entry):
            return None
        assert isinstance(source, StoredSource | StoredObject)
        data = self._store.image(source.sha256)
        if data is None:
            return None

        def compiled(program: Program) -> None:
            if self._links.get(name) is not entry or entry.held.program is not None:
                program.close()  # it was replaced or detached meanwhile
                return
            self._take(entry, program)
            self._observer.observe(name, "start")

        def failed(error: BpflinkdError) -> None:
            log.error("link %r cannot be attached again: %s", name, error)
            if self._links.get(name) is entry and entry.held.program is None:
                health = replace(entry.health, reason=str(error))
                self._observer.show(entry, health, first=False)

        return Pending(
            source=with_bytes(source, data),
            checked=Checked(entry.record.target, None, generation.confinement, given=True),
            compiled=compiled,
            failed=failed,
        )

    def _adopt_failed(self, record: Record, reason: str) -> None:
        health = Health(state=State.FAILED, reason=reason, since=self._clock())
        entry = Entry(record=record, health=health, held=Held(link=None, program=None))
        self._links.add(entry)
        self._observer.show(entry, health, first=True)


def _last_told(told: Told | None) -> Health | None:
    """How a link was, by what the daemon before us told."""
    if told is None:
        return None
    running = Occupant(program=told.running) if told.running else None
    return Health(state=told.state, reason="", since=told.since, running=running)
