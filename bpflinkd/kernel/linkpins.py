"""The pins of one link: `link`, `slot`, `program` and `maps/...` in its directory, staged ones as `next_*`,
and those of generations before below `kept`.

Staged pins become current by `rename`, each atomic; a crash between two renames is healed at start.
What others pin among ours is never destroyed: it is moved aside where it is in our way.
"""

import contextlib
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from bpflinkd.core import names
from bpflinkd.core.ids import ProgId
from bpflinkd.core.ports import PinTrouble, Promised
from bpflinkd.core.sources import Source
from bpflinkd.kernel import mapdirs, mending, reopening, standing
from bpflinkd.kernel.dispatched import DispatchedLink
from bpflinkd.kernel.keptpins import KeptPins
from bpflinkd.kernel.link import HeldLink
from bpflinkd.kernel.mappins import PinnedMaps
from bpflinkd.kernel.mending import NEXT, Wanted
from bpflinkd.kernel.program import HeldProgram
from bpflinkd.kernel.standing import Found

_LINK, _SLOT, _PROGRAM, _MAPS = "link", "slot", "program", "maps"
_CURRENT: Final = (_MAPS, _SLOT, _LINK, _PROGRAM)
_STAGED: Final = tuple(NEXT + pin for pin in _CURRENT)
"""In the order in which they move. The program last, the link before it: while one of them is staged, a start
promotes again what was cut short."""


class LinkPins:
    """The directory of one link. Every method may raise OSError."""

    def __init__(self, home: Path, aside: Path) -> None:
        """
        Args:
            home: the directory, which need not be there.
            aside: the directory for what is not ours.
        """
        self.home = home
        self._path = str(home)
        self._aside = aside
        self._bare = False
        """A program is staged, and nothing else: it goes on using the maps that are pinned."""
        self.kept = KeptPins(home, aside)
        self._maps: PinnedMaps | None = None
        self._staged_maps: PinnedMaps | None = None

    def close(self) -> None:
        """Forget what we pinned."""
        for maps in (self._maps, self._staged_maps):
            if maps is not None:
                maps.close()
        self._maps = self._staged_maps = None

    # Opening

    def open_link(self, promised: Promised, prefix: str = "") -> HeldLink | None:
        """The pinned bpf_link; somebody else's is moved aside. `KernelRefused`."""
        path = self.home / (prefix + _LINK)
        link = reopening.open_link(path, self._aside)
        if link is not None and reopening.is_strange_link(link, self.home / (prefix + _PROGRAM), promised):
            link.close()
            mending.clear(path, self._aside)
            return None
        return link

    def open_programs(
        self,
        link: HeldLink | None,
        staged_link: HeldLink | None,
        source: Source,
        promised: Container[ProgId],
    ) -> tuple[HeldProgram | None, HeldProgram | None]:
        """The pinned program and the staged one, with the pinned links opened already. `BpflinkdError`."""
        if staged_link is None:
            # A slot is pinned before its link, and moved before it: alone it is what a crash left.
            self._clear([NEXT + _SLOT], None)
            if isinstance(link, DispatchedLink):
                reopening.warn(mending.mend([self._wanted_slot(link)], self._aside))
        mapdirs.tidy(self.home / _MAPS)
        # While a change is half done, maps and program may be of two generations.
        whole = not self._there(_STAGED)
        staged, current = self._open_program(NEXT, source, whole), self._open_program("", source, whole)
        if current is not None and whole and reopening.is_strange(current.program, link, promised):
            mending.clear(self.home / _PROGRAM, self._aside)
            current.close()
            current = None
        self.close()
        self._maps, self._staged_maps = current and current.maps, staged and staged.maps
        return current and current.program, staged and staged.program

    def _open_program(self, prefix: str, source: Source, whole: bool) -> reopening.Reopened | None:
        maps = self.home / (prefix + _MAPS)
        if not maps.exists():
            maps = self.home / _MAPS  # moved there already, before a crash
        pin = self.home / (prefix + _PROGRAM)
        return reopening.open_program(pin, maps, source, self._aside, whole=whole)

    def maps(self) -> tuple[str, ...]:
        """Names of the maps that are pinned now."""
        return tuple(map(names.decode, mapdirs.names_in(self.home / _MAPS)))

    # Changing

    def pin_link(self, link: HeldLink, prefix: str = "") -> None:
        """Pin a bpf_link, and the slot of a kprobe before it."""
        standing.make_directory(self.home, self._aside)
        self._bare = False
        if isinstance(link, DispatchedLink):
            self._pin(link.slot.fd, prefix + _SLOT)
        self._pin(link.fd, prefix + _LINK)

    def pin_program(self, program: HeldProgram) -> None:
        """Pin the current program, with its maps where they are not pinned any more."""
        standing.make_directory(self.home, self._aside)
        self._pin(program.fd, _PROGRAM)
        self.close()
        if program.maps:
            self._maps = reopening.open_maps(program, self.home / _MAPS, self._aside, whole=True)
        else:
            with program.opened_maps() as fds:
                self._pin_maps(self.home / _MAPS, fds)
                self._maps = PinnedMaps(program.fd, fds)
        program.know(self._maps.ids)

    def stage_program(self, program: HeldProgram) -> None:
        """Pin a program that is to be the current one, with the maps that were loaded with it."""
        try:
            mending.pin_here(program.fd, f"{self._path}/{NEXT}{_PROGRAM}", self._aside)
        except (FileNotFoundError, NotADirectoryError):
            standing.make_directory(self.home, self._aside)
            self._pin(program.fd, NEXT + _PROGRAM)
        self._forget_staged()
        self._staged_maps = PinnedMaps(program.fd, program.map_fds)
        # Maps come and go with their program. The directory is staged even where it stays
        # empty, if there is an older one that it must replace; not where all of it goes on being used.
        self._bare = self._maps is not None and self._maps.ids == self._staged_maps.ids
        if self._bare:
            return
        if program.map_fds or os.path.lexists(self.home / _MAPS):
            self._pin_maps(self.home / (NEXT + _MAPS), program.map_fds)

    def keep(self, number: int, program: HeldProgram) -> None:
        """Pin the current program, with its maps, as that of a generation before."""
        self.kept.keep(number, program, self._maps)

    def promote(self) -> None:
        """Staged pins take the places of the current ones."""
        bare, self._bare = self._bare, False
        if bare:
            with contextlib.suppress(OSError):  # whatever stands there is looked at
                os.rename(f"{self._path}/{NEXT}{_PROGRAM}", f"{self._path}/{_PROGRAM}")
                self._moved()
                return
        staged = self._there(_STAGED)
        for pin in staged:
            target = self.home / pin.removeprefix(NEXT)
            if target.name == _MAPS:
                ours = self._maps.ids.values() if self._maps is not None else None
                mapdirs.replace(target, self.home / pin, ours, self._aside)
            else:
                mending.move_here(self.home / pin, target, self._aside)
        if NEXT + _PROGRAM in staged:
            self._moved()

    def _moved(self) -> None:
        before, self._maps, self._staged_maps = self._maps, self._staged_maps, None
        if before is not None:
            before.close()

    def discard_staged(self) -> None:
        """Remove what is staged, and the directory where nothing else is in it."""
        self._bare = False
        self._clear(_STAGED, self._staged_maps)
        self._forget_staged()
        if self.home.is_dir() and not os.listdir(self.home):
            self.home.rmdir()

    def unpin_staged_link(self) -> None:
        """Remove the staged bpf_link."""
        self._clear([NEXT + _LINK, NEXT + _SLOT], None)

    def rename(self, home: Path) -> None:
        """Call the directory otherwise; nothing there is no error."""
        with contextlib.suppress(FileNotFoundError):
            self.home.rename(home)
        self.home = home
        self._path = str(home)
        self.kept = KeptPins(home, self._aside)

    def move_link(self, place: Path) -> None:
        """Move the bpf_link out of the directory, and the slot of a kprobe beside it."""
        (self.home / _LINK).rename(place)
        if self._there([_SLOT]):
            # Encoded names have an underscore only before two hexadecimal digits.
            (self.home / _SLOT).rename(place.with_name(f"{place.name}_{_SLOT}"))

    def remove(self) -> None:
        """Remove the directory; what is not ours is moved aside."""
        found = standing.look(self.home)
        if found is not None and found.kind != "directory":
            mending.clear(self.home, self._aside)
        elif found is not None:
            self._clear(_CURRENT, self._maps)
            self._clear(_STAGED, self._staged_maps)
            self.kept.remove()
            for stranger in os.listdir(self.home):
                mending.clear(self.home / stranger, self._aside)
            self.home.rmdir()
        self.close()

    # Mending

    def mend(self, link: HeldLink | None, program: HeldProgram | None) -> tuple[PinTrouble, ...]:
        """Put back what is gone or another; says what was wrong."""
        wanted = {pin.path.name: pin for pin in self._wanted(link, program)}
        for directory in (self.home, self.home / _MAPS):
            found = standing.look(directory)
            if found is not None and found.kind != "directory":
                mending.clear(directory, self._aside)
        self._settle_staged(wanted)
        maps = self._maps.wanted(self.home / _MAPS) if self._maps is not None else ()
        return mending.mend([*wanted.values(), *maps], self._aside)

    def _wanted(self, link: HeldLink | None, program: HeldProgram | None) -> Iterator[Wanted]:
        """What should be pinned now, but for maps."""
        if isinstance(link, DispatchedLink):
            yield self._wanted_slot(link)
        if link is not None:
            yield mending.of_fd(self.home / _LINK, Found("link", link.id), link.fd)
        if program is not None:
            yield mending.of_fd(self.home / _PROGRAM, Found("program", program.info.id), program.fd)

    def _wanted_slot(self, link: DispatchedLink) -> Wanted:
        """Without it the slot of a kprobe is emptied when we end."""
        return mending.of_fd(self.home / _SLOT, Found("map", link.slot_hook.map_id), link.slot.fd)

    def _settle_staged(self, wanted: Mapping[str, Wanted]) -> None:
        """Finish a `promote` that failed; what else is called like a staged pin is a stranger's."""
        staged = self._there(_STAGED)

        def is_ours(pin: str) -> bool:
            ours = wanted.get(pin.removeprefix(NEXT))
            return ours is not None and standing.look(self.home / pin) == ours.found

        if any(map(is_ours, staged)):
            self.promote()
        for pin in staged:
            if is_ours(pin):  # a hard link: to rename it to another one of the same pin does nothing
                (self.home / pin).unlink()
            else:
                mending.clear(self.home / pin, self._aside)

    # Pieces

    def _forget_staged(self) -> None:
        if self._staged_maps is not None:
            self._staged_maps.close()
            self._staged_maps = None

    def _there(self, pins: Sequence[str]) -> list[str]:
        """Those that are there, in the same order."""
        try:
            there = os.listdir(self.home)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [pin for pin in pins if pin in there]

    def _pin(self, fd: int, pin: str) -> None:
        mending.pin_here(fd, self.home / pin, self._aside)

    def _pin_maps(self, directory: Path, fds: Mapping[str, int]) -> None:
        standing.make_directory(directory, self._aside)
        for name, fd in fds.items():
            mending.pin_here(fd, directory / names.encode(name), self._aside)

    def _clear(self, pins: Sequence[str], maps: PinnedMaps | None) -> None:
        """Remove pins of ours, and a directory of maps where it is among them."""
        for pin in self._there(pins):
            path = self.home / pin
            if pin.removeprefix(NEXT) == _MAPS:
                mapdirs.clear(path, maps.ids.values() if maps is not None else None, self._aside)
            elif path.is_dir() and not path.is_symlink():
                mending.clear(path, self._aside)
            else:
                path.unlink()
