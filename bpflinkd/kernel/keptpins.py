"""Programs of generations before: `kept/<generation>/program` and `maps/...` in a link's directory.

They stay loaded for as long as they are pinned there, so that going back to one is a swap and nothing else.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bpflinkd.core import names
from bpflinkd.core.errors import BpflinkdError
from bpflinkd.core.sources import Source
from bpflinkd.kernel import libbpf, mapdirs, mending, standing
from bpflinkd.kernel import program as programs
from bpflinkd.kernel.mappins import PinnedMaps
from bpflinkd.kernel.program import HeldProgram

KEPT: Final = "kept"
_PROGRAM, _MAPS = "program", "maps"


class KeptPins:
    """Of one link. Every method may raise OSError."""

    def __init__(self, home: Path, aside: Path) -> None:
        """
        Args:
            home: the link's directory.
            aside: the directory for what is not ours.
        """
        self._home = str(home)
        self._place = home / KEPT
        self._first: int | None = None
        """No generation before this one is kept; None: not known."""
        self._aside = aside

    def keep(self, number: int, program: HeldProgram, maps: PinnedMaps | None) -> None:
        """Pin the program of a generation, with its maps; whatever is pinned for that number goes."""
        self.drop(number)
        if self._first is not None:
            self._first = min(self._first, number)
        place = self._place / str(number)
        standing.make_directory(self._place, self._aside)
        place.mkdir(mode=0o700)
        mending.pin_here(program.fd, place / _PROGRAM, self._aside)
        if maps is not None and maps.ids:
            (place / _MAPS).mkdir(mode=0o700)
            for name in maps.ids:
                with maps.opened(name) as fd:
                    mending.pin_here(fd, place / _MAPS / names.encode(name), self._aside)

    def keep_bare(self, number: int, program: HeldProgram) -> None:
        """`keep` a program without maps, with as few system calls as that takes."""
        place = f"{self._home}/{KEPT}/{number}"
        try:
            os.mkdir(place, 0o700)  # one of a thousand
        except (FileExistsError, FileNotFoundError):
            self.keep(number, program, None)
        else:
            mending.pin_here(program.fd, f"{place}/{_PROGRAM}", self._aside)

    def drop_below(self, first: int) -> None:
        """`drop_before`, which looks for what is kept only once: after that we know."""
        if self._first is None:
            self._first = min(self.numbers(), default=first)
        while self._first < first:
            self._drop_bare(self._first)
            self._first += 1

    def _drop_bare(self, number: int) -> None:
        place = f"{self._home}/{KEPT}/{number}"
        try:
            os.unlink(f"{place}/{_PROGRAM}")
            os.rmdir(place)
        except OSError:  # it has maps, or is not there
            self.drop(number)

    def open(self, number: int, source: Source) -> HeldProgram | None:
        """The program of a generation, and its maps; None where it is not kept."""
        place = self._place / str(number)
        found = standing.look(place / _PROGRAM)
        if found is None or found.kind != "program":
            return None
        with contextlib.ExitStack() as undo:
            fds: dict[str, int] = {}
            for encoded in mapdirs.names_in(place / _MAPS):
                fd = libbpf.obj_get(str(place / _MAPS / encoded))
                undo.callback(os.close, fd)
                fds[names.decode(encoded)] = fd
            try:
                program = programs.from_pin(str(place / _PROGRAM), source)
            except BpflinkdError:
                return None
            program.take_maps(fds)
            undo.pop_all()
            return program

    def numbers(self) -> Iterator[int]:
        """Generations that are kept."""
        try:
            found = os.listdir(self._place)
        except (FileNotFoundError, NotADirectoryError):
            return
        yield from (int(name) for name in found if name.isascii() and name.isdecimal())

    def drop_before(self, first: int) -> None:
        """Let go of every generation before one."""
        for number in list(self.numbers()):
            if number < first:
                self.drop(number)

    def tidy(self, first: int, present: int) -> None:
        """Let go of what a crash left: generations before the first that is kept, and those not yet past."""
        for number in list(self.numbers()):
            if not first <= number < present:
                self.drop(number)
        self._remove_if_empty()

    def drop(self, number: int) -> None:
        """Let go of one; nothing there is no error."""
        place = self._place / str(number)
        if standing.look(place) is None:
            return
        mapdirs.clear(place / _MAPS, None, self._aside)
        (place / _PROGRAM).unlink(missing_ok=True)
        for stranger in os.listdir(place):
            mending.clear(place / stranger, self._aside)
        place.rmdir()
        self._remove_if_empty()

    def remove(self) -> None:
        """Let go of all; what is not ours is moved aside."""
        for number in list(self.numbers()):
            self.drop(number)
        self._remove_if_empty()
        if standing.look(self._place) is not None:
            mending.clear(self._place, self._aside)

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if not os.listdir(self._place):
                self._place.rmdir()
