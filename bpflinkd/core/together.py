"""Performs the swaps of several links, phase by phase, so that nothing lies between one swap and the next.

As for one link: an intent, pins, the swap, a record, the pins in their place; but each for all links before
the next. The records of all are one transaction, which is the point of no return: before it everything is
taken back, by us or by the next start, and after it everything is finished.
"""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bpflinkd.core.errors import BpflinkdError
from bpflinkd.core.ids import LinkId, ProgId
from bpflinkd.core.model import Outcome, Record
from bpflinkd.core.ports import Kernel, Nanos, Pins, Store
from bpflinkd.core.replacing import Ready
from bpflinkd.core.sources import StoredObject, StoredSource
from bpflinkd.core.swaps import Swap

log = logging.getLogger(__name__)


class Job(NamedTuple):
    """One link's part."""

    swap: Swap
    ready: Ready
    runs: ProgId | None
    """What is replaced; None where the target is not there, and only the record changes."""


class Together:
    """For the worker thread only."""

    def __init__(self, kernel: Kernel, pins: Pins, store: Store, nanos: Nanos) -> None:
        self._kernel = kernel
        self._pins = pins
        self._store = store
        self._nanos = nanos

    def run(self, jobs: Sequence[Job]) -> int:
        """Swap all, or none. Returns the nanoseconds between the end of the first swap and that of the last.

        Raises:
            BpflinkdError: why not, of the link that failed. All are as they were, but for those it names.
        """
        self._store.intend_together([job.ready.after for job in jobs], _images(jobs))
        begun: list[Job] = []
        swapped: list[Job] = []
        try:
            for job in jobs:
                begun.append(job)
                self._stage(job)
            skew = self._swap([job for job in jobs if job.runs is not None], swapped)
            self._store.commit_together([_done(job) for job in jobs])
        except BaseException as error:
            left = self._swap_back(swapped)
            self._forget(begun)
            if left and isinstance(error, BpflinkdError):
                raise type(error)(f"{error}, but for {left}", log=error.log) from None
            raise
        for job in jobs:
            self._promote(job)
        return skew

    def _stage(self, job: Job) -> None:
        entry, after, program, *_ = job.ready
        try:
            if entry.held.program is not None:
                self._pins.keep(after.name, after.generation.number - 1, entry.held.program)
            self._pins.stage_program(after.name, program)
        except BpflinkdError as error:
            raise job.swap.blame(error) from None

    def _swap(self, jobs: Sequence[Job], swapped: list[Job]) -> int:
        steps = [self._step(job) for job in jobs]
        first = last = 0
        for job, step in zip(jobs, steps, strict=True):
            try:
                step()
            except BpflinkdError as error:
                raise job.swap.blame(error) from None
            last = self._nanos()
            first = first or last
            swapped.append(job)
        return last - first

    def _step(self, job: Job) -> Callable[[], None]:
        entry, after, program, *_ = job.ready
        link, running = entry.held.link, entry.held.program
        assert link is not None
        assert running is not None
        assert job.runs is not None
        return self._kernel.prepare_swap(link, after.target, program, job.runs, running)

    def _swap_back(self, jobs: Sequence[Job]) -> str:
        """The last first. Says of which links that could not be done, and why."""
        left = []
        for job in reversed(jobs):
            entry, after, program, *_ = job.ready
            link, running = entry.held.link, entry.held.program
            assert link is not None
            assert running is not None
            try:
                self._kernel.swap(link, after.target, running, program.info.id)
            except BpflinkdError as error:
                left.append(f"link {after.name!r}, which could not be swapped back: {error}")
                log.error("link %r could not be swapped back: %s", after.name, error)
        return "; ".join(left)

    def _forget(self, jobs: Sequence[Job]) -> None:
        try:
            for job in jobs:
                after = job.ready.after
                self._pins.discard_staged(after.name)
                self._pins.drop_kept(after.name, after.generation.number - 1)
            self._store.forget_intents([job.ready.after.name for job in jobs])
        except BpflinkdError as error:
            log.error("what was prepared is left to the next start: %s", error)

    def _promote(self, job: Job) -> None:
        after = job.ready.after
        number = after.generation.number
        try:
            self._pins.promote(after.name)
            if number > self._store.kept:
                self._pins.drop_kept_before(after.name, number - self._store.kept + 1)
        except BpflinkdError as error:
            log.error("the pins of link %r are left to the next start: %s", after.name, error)


def _images(jobs: Sequence[Job]) -> dict[str, bytes]:
    """Files to keep, by sha256."""
    images = {}
    for job in jobs:
        program = job.ready.program
        if program.image is not None and isinstance(program.source, StoredObject | StoredSource):
            images[program.source.sha256] = program.image
    return images


def _done(job: Job) -> tuple[Record, LinkId | None, Outcome]:
    link = job.ready.entry.held.link
    return job.ready.after, link.id if link is not None else None, job.ready.left
