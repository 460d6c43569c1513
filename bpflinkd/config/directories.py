"""Directories of files that hold arrays of tables: which count, what is refused and where."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar

from bpflinkd.config import pieces, place
from bpflinkd.config.checks import Fault
from bpflinkd.config.files import Files
from bpflinkd.config.listing import Listing
from bpflinkd.config.pieces import BadText, Pieces, Placed
from bpflinkd.config.tables import Form
from bpflinkd.config.trust import Trust, Unfit
from bpflinkd.core.declared import Refused

MAX_FILE: Final = 4 << 20
"""Bytes of the largest file: some 25,000 links."""
_MOST_TOLD: Final = 10
"""Faults of one file that are told one by one."""

_Wanted = TypeVar("_Wanted")
_Made = TypeVar("_Made")


class At(Exception):
    """A fault at keys of the table that is looked at."""

    def __init__(self, sentence: str, *keys: str) -> None:
        super().__init__(sentence)
        self.keys = keys


class Stand(NamedTuple):
    """Where a table begins."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class _Fault(NamedTuple, Generic[_Wanted]):
    """A fault, and the piece that it is in."""

    placed: Placed[_Wanted]
    fault: Fault


class Directories(Generic[_Wanted]):
    """Files of one form. What has not changed between two readings is not parsed again.

    A file takes the place of one of the same name in an earlier directory. A fault refuses the file that
    it is in; the others are read all the same.
    """

    def __init__(self, form: Form[_Wanted], where: Sequence[Path], files: Sequence[Path]) -> None:
        """Of these directories, and of these files besides."""
        self._form = form
        self._where = [os.path.abspath(directory) for directory in where]
        self._files = [os.path.abspath(file) for file in files]
        self._texts: Files[Pieces[_Wanted]] = Files("file", MAX_FILE, self._parse)
        self.accepted: tuple[str, ...] = ()
        """The files that were not refused when they were read last, in their order."""

    def read(
        self, trust: Trust, make: Callable[[_Wanted, Stand], _Made]
    ) -> tuple[list[_Made], list[Refused]]:
        """Read all files as they are now: what is made of their tables, and what is refused.

        `make` may raise `At`. It is called for the tables of files that have faults elsewhere, too.
        """
        self._texts.begin()
        found = Listing(trust)
        for directory in self._where:
            found.add(directory)
        made: list[_Made] = []
        refused = list(found.refused)
        accepted = []
        for file in (*found.files(), *self._files):
            whole, faults = self._read_file(file, trust, make)
            refused += faults
            if not faults:
                made += whole
                accepted.append(file)
                continue
            # Or what it replaces would look as if nobody wanted it.
            for other in found.replaced(file):
                why = f"{file}, which takes its place, was refused"
                refused.append(_refused(other, None, why))
        self.accepted = tuple(accepted)
        return made, refused

    def _parse(self, data: bytes, before: Pieces[_Wanted] | None) -> Pieces[_Wanted]:
        return pieces.read(data, self._form, before)

    def _read_file(
        self, file: str, trust: Trust, make: Callable[[_Wanted, Stand], _Made]
    ) -> tuple[list[_Made], list[Refused]]:
        """What is made of a file, and why it is refused."""
        try:
            text = self._texts.read(file, trust)
        except BadText as error:
            return [], [_refused(file, error.place, str(error))]
        except Unfit as error:
            return [], [_refused(file, None, str(error))]
        made = []
        faults = []
        for placed in text:
            faults += [_Fault(placed, fault) for fault in placed.piece.faults]
            for at, line, wanted in placed.piece.entries:
                try:
                    made.append(make(wanted, Stand(file, placed.before + line)))
                except At as error:
                    fault = Fault((self._form.word, at, *error.keys), str(error))
                    faults.append(_Fault(placed, fault))
        return made, _told(file, faults)


def _told(file: str, faults: Sequence[_Fault[_Wanted]]) -> list[Refused]:
    """A sentence a fault, by where they stand, and one for those beyond the first few."""
    told = []
    places: dict[str, place.Places] = {}
    for placed, fault in faults[:_MOST_TOLD]:
        text = placed.piece.text
        if text not in places:
            places[text] = place.places(text)
        line, column = place.of(places[text], fault.path)
        told.append((place.Place(placed.before + line, column), fault.sentence))
    found = [_refused(file, where, sentence) for where, sentence in sorted(told)]
    if len(faults) > _MOST_TOLD:
        found.append(_refused(file, None, f"and {len(faults) - _MOST_TOLD} faults more"))
    return found


def _refused(file: str, where: place.Place | None, sentence: str) -> Refused:
    stands = f"{file}:{where.line}:{where.column}" if where else file
    return Refused(file=file, sentence=f"{stands}: {sentence}")
