"""The programs of several links swapped together, all or none: everything is loaded and checked first.

For the worker thread only, but for `load`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, NamedTuple, TypeAlias

from bpflinkd.core import plan
from bpflinkd.core.access import Unsanctioned
from bpflinkd.core.checks import Checked, Loaded
from bpflinkd.core.errors import BpflinkdError, LimitExceeded
from bpflinkd.core.events import SwappedTogether
from bpflinkd.core.history import History
from bpflinkd.core.ids import ProgId
from bpflinkd.core.links import status_of
from bpflinkd.core.ports import Kernel, Program, Publish
from bpflinkd.core.replacing import Ready, Replacing
from bpflinkd.core.requests import ReplaceRequest
from bpflinkd.core.sources import (
    MAX_OBJECT,
    Builtin,
    ObjectFile,
    ObjectImage,
    SourceFile,
    SourceText,
    WantedProgram,
)
from bpflinkd.core.swaps import ReplaceManyRequest, Swap, Swapped, check_names
from bpflinkd.core.targets import CgroupPlace, XdpMode, XdpTarget
from bpflinkd.core.together import Job, Together

_TAKES_LONG: Final = (ObjectFile, ObjectImage, SourceFile, SourceText, Builtin)
"""What is loaded, where others are loaded already."""
_MOST_BYTES: Final = 4 * MAX_OBJECT
"""Of all files of one request."""


class ToLoad(NamedTuple):
    """A program that is loaded elsewhere, before the worker comes to swap."""

    at: int
    """Index of its swap."""
    source: WantedProgram
    checked: Checked


Early: TypeAlias = dict[int, Loaded]
"""Programs that were loaded elsewhere, by the index of their swap."""
_Checked: TypeAlias = tuple[WantedProgram | None, Checked]


class Many:
    """Of all links."""

    def __init__(
        self, replacing: Replacing, history: History, kernel: Kernel, together: Together, publish: Publish
    ) -> None:
        self._replacing = replacing
        self._history = history
        self._kernel = kernel
        self._together = together
        self._publish = publish

    def begin(self, request: ReplaceManyRequest) -> Swapped | tuple[ToLoad, ...]:
        """Every refusal that needs no program. Where nothing takes long, all is done; else: what is to
        be loaded before `replace`."""
        checked = self._check(request)
        waits = tuple(
            ToLoad(at, source, found)
            for at, (source, found) in enumerate(checked)
            if isinstance(source, _TAKES_LONG)
        )
        return waits or self._replace(request, checked, {})

    def load(self, request: ReplaceManyRequest, waits: tuple[ToLoad, ...]) -> Early:
        """Load all that is to be loaded, or nothing. On any thread: it touches no link."""
        loaded: Early = {}
        opening = _Opening(self._kernel, self._replacing.load)
        try:
            for at, source, checked in waits:
                with _blaming(request.swaps[at]):
                    program = opening.open(source, checked)
                loaded[at] = Loaded(program, checked.confined, checked.replaces)
        except BaseException:
            _close(each.program for each in loaded.values())
            raise
        return loaded

    def replace(self, request: ReplaceManyRequest, loaded: Early) -> Swapped:
        """Swap all, or none. `loaded` are ours from now on."""
        try:
            checked = self._check(request)
        except BaseException:
            _close(each.program for each in loaded.values())
            raise
        return self._replace(request, checked, loaded)

    # Pieces

    def _check(self, request: ReplaceManyRequest) -> list[_Checked]:
        """What each takes, and what is known of it before its program is."""
        check_names(request.swaps)
        found: list[_Checked] = []
        for swap in request.swaps:
            with _blaming(swap):
                wanted = swap.request
                if isinstance(wanted, ReplaceRequest):
                    found.append((wanted.program, self._replacing.check(wanted)))
                else:
                    checked, source = self._history.check(wanted)
                    found.append((source, checked))
        return found

    def _replace(self, request: ReplaceManyRequest, checked: list[_Checked], loaded: Early) -> Swapped:
        jobs: list[Job] = []
        opening = _Opening(self._kernel, self._replacing.load)
        try:
            for at, (swap, (source, found)) in enumerate(zip(request.swaps, checked, strict=True)):
                with _blaming(swap):
                    early = loaded.pop(at, None)
                    if early is None and source is not None:
                        early = Loaded(opening.open(source, found), found.confined)
                    jobs.append(self._job(swap, found, early))
            generations = tuple((job.ready.after.name, job.ready.after.generation.number) for job in jobs)
            if request.dry_run:
                _close(job.ready.program for job in jobs)
                return Swapped(generations, 0)
            skew = self._together.run(jobs)
        except BaseException:
            _close(job.ready.program for job in jobs)
            _close(each.program for each in loaded.values())
            raise
        swapped = Swapped(generations, skew)
        each = tuple(
            news
            for job in jobs
            for news in self._replacing.settle(job.ready, job.ready.after, job.ready.entry.held)
        )
        self._publish(SwappedTogether(swapped=swapped, by=request.caller.actor, each=each))
        for job in jobs:
            self._replacing.look_after(job.ready.entry)
        return swapped

    def _job(self, swap: Swap, checked: Checked, early: Loaded | None) -> Job:
        wanted = swap.request
        if isinstance(wanted, ReplaceRequest):
            ready = self._replacing.ready(wanted, checked, early)
        else:
            ready = self._history.ready(wanted, checked, early)
        try:
            return Job(swap, ready, self._runs(ready))
        except BaseException:
            ready.program.close()
            raise

    def _runs(self, ready: Ready) -> ProgId | None:
        entry = ready.entry
        running = entry.held.program
        if running is not None and entry.still is not None and entry.still():
            return running.info.id
        expected = running.info if running is not None else entry.record.generation.program
        status = status_of(self._kernel, entry, for_swap=True)
        return plan.swap_with_others(entry.record.name, status, expected, running)


class _Opening:
    """Opens programs for several links: a file is read once, and what has no maps is loaded once."""

    def __init__(self, kernel: Kernel, load: Callable[[WantedProgram, Checked], Program]) -> None:
        self._kernel = kernel
        self._load = load
        self._files: dict[object, ObjectImage | SourceText] = {}
        self._programs: dict[object, Program] = {}

    def open(self, source: WantedProgram, checked: Checked) -> Program:
        """A program of its own for each link."""
        source = self._read(source, sealed=checked.confined is not None)
        target = checked.target
        on_device = isinstance(target, XdpTarget) and target.mode is XdpMode.OFFLOAD
        if on_device or checked.wishes.choices or isinstance(target, CgroupPlace):
            return self._load(source, checked)
        key = source, target.attach_type, checked.confined, checked.given, checked.wishes
        if key in self._programs:
            return self._programs[key].again()
        program = self._load(source, checked)
        if not program.maps:
            self._programs[key] = program
        return program

    def _read(self, source: WantedProgram, *, sealed: bool) -> WantedProgram:
        if not isinstance(source, ObjectFile | SourceFile):
            return source
        key = type(source), source.fd, source.part, sealed
        if key not in self._files:
            read = self._kernel.read_program(source, sealed=sealed)
            assert isinstance(read, ObjectImage | SourceText)
            self._files[key] = read
            if sum(len(file.data) for file in self._files.values()) > _MOST_BYTES:
                raise LimitExceeded(
                    f"the files of all programs have more than {_MOST_BYTES >> 20} MiB together; "
                    "swap fewer links"
                )
        found = self._files[key]
        if isinstance(found, ObjectImage) and isinstance(source, ObjectFile):
            return replace(found, program=source.program, constants=source.constants)
        return replace(found, program=source.program)


class _blaming:  # noqa: N801  # used as a word
    """A context: refusals name the link."""

    __slots__ = ("_swap",)

    def __init__(self, swap: Swap) -> None:
        self._swap = swap

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Unsanctioned):
            raise Unsanctioned(error.action, self._swap.blame(error.refusal)) from None
        if isinstance(error, BpflinkdError):
            raise self._swap.blame(error) from None


def _close(programs: Iterator[Program]) -> None:
    for program in programs:
        program.close()
