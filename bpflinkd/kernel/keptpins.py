"""Programs of generations before: `kept/program_<generation>`, and `kept/maps_<generation>/...` where they
have maps, in a link's directory.

They stay loaded for as long as they are pinned there, so that going back to one is a swap and nothing else.
"""

import contextlib
import os
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
        self._place = home / KEPT
        self._path = str(self._place)
        self._aside = aside
        self._known: dict[int, bool] | None = None
        """Generations that we kept, and whether they have maps; None while we have not looked."""

    def keep(self, number: int, program: HeldProgram, maps: PinnedMaps | None) -> None:
        """Pin the program of a generation, with its maps; whatever is pinned for that number goes."""
        known = self._look()
        try:
            libbpf.obj_pin(program.fd, self._program(number))  # one of a thousand: nothing is asked first
        except (FileExistsError, FileNotFoundError, NotADirectoryError):
            self.drop(number)
            standing.make_directory(self._place, self._aside)
            mending.pin_here(program.fd, self._program(number), self._aside)
        known[number] = False
        if maps is not None and maps.ids:
            place = self._maps(number)
            mapdirs.clear(place, None, self._aside)
            place.mkdir(mode=0o700)
            known[number] = True
            for name in maps.ids:
                with maps.opened(name) as fd:
                    mending.pin_here(fd, place / names.encode(name), self._aside)

    def open(self, number: int, source: Source) -> HeldProgram | None:
        """The program of a generation, and its maps; None where it is not kept."""
        maps = self._maps(number)
        with contextlib.ExitStack() as undo:
            fds: dict[str, int] = {}
            for encoded in mapdirs.names_in(maps):
                fd = libbpf.obj_get(str(maps / encoded))
                undo.callback(os.close, fd)
                fds[names.decode(encoded)] = fd
            try:
                program = programs.from_pin(self._program(number), source)
            except BpflinkdError:
                return None
            program.take_maps(fds)
            undo.pop_all()
            return program

    def numbers(self) -> frozenset[int]:
        """Generations that are kept."""
        return frozenset(self._there())

    def drop_before(self, first: int) -> None:
        """Let go of every generation before one."""
        known = self._look()
        for number in [number for number in known if number < first]:
            self._drop(number, has_maps=known.pop(number))

    def tidy(self, first: int, present: int) -> None:
        """Let go of what a crash left: generations before the first that is kept, and those not yet past."""
        for number in self._there():
            if not first <= number < present:
                self.drop(number)
        self._remove_if_empty()

    def drop(self, number: int) -> None:
        """Let go of one; nothing there is no error."""
        if self._known is not None:
            self._known.pop(number, None)
        self._drop(number, has_maps=True)
        self._remove_if_empty()

    def remove(self) -> None:
        """Let go of all; what is not ours is moved aside."""
        for number in self._there():
            self.drop(number)
        if standing.look(self._place) is not None:
            mending.clear(self._place, self._aside)

    # Pieces

    def _program(self, number: int) -> str:
        return f"{self._path}/{_PROGRAM}_{number}"

    def _maps(self, number: int) -> Path:
        return self._place / f"{_MAPS}_{number}"

    def _look(self) -> dict[int, bool]:
        if self._known is None:
            self._known = self._there()
        return self._known

    def _there(self) -> dict[int, bool]:
        """The numbers of what is there, and whether there are maps."""
        found: dict[int, bool] = {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in os.listdir(self._place):
                pin, _, number = name.partition("_")
                if pin in (_PROGRAM, _MAPS) and number.isascii() and number.isdecimal():
                    found[int(number)] = found.get(int(number), False) or pin == _MAPS
        return found

    def _drop(self, number: int, *, has_maps: bool) -> None:
        if has_maps:
            mapdirs.clear(self._maps(number), None, self._aside)
        try:
            os.unlink(self._program(number))
        except IsADirectoryError:
            mending.clear(Path(self._program(number)), self._aside)
        except FileNotFoundError:
            pass

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if not os.listdir(self._place):
                self._place.rmdir()
