"""The text of a file, apart at its `[[link]]` or `[[grant]]` lines: one changed table is parsed alone."""

import re
import tomllib
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from bpflinkd.config import place, tables
from bpflinkd.config.checks import Fault
from bpflinkd.config.place import Place
from bpflinkd.config.tables import Form
from bpflinkd.config.trust import Unfit

_Wanted = TypeVar("_Wanted")
_WHERE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class BadText(Unfit):
    """A file that is not TOML."""

    def __init__(self, sentence: str, where: Place) -> None:
        super().__init__(sentence)
        self.place = where


class Entry(NamedTuple, Generic[_Wanted]):
    """What one table asks for."""

    at: int
    """Its index in the piece."""
    line: int
    """From 1 where the piece begins."""
    wanted: _Wanted


@dataclass(frozen=True, slots=True)
class Piece(Generic[_Wanted]):
    """A part of a file that is TOML by itself, with what it asks for. Where it begins is told apart."""

    text: str
    entries: tuple[Entry[_Wanted], ...]
    faults: tuple[Fault, ...]


class Placed(NamedTuple, Generic[_Wanted]):
    """A piece and how many lines there are before it."""

    before: int
    piece: Piece[_Wanted]


Pieces: TypeAlias = tuple[Placed[_Wanted], ...]


def read(data: bytes, form: Form[_Wanted], known: Pieces[_Wanted] | None = None) -> Pieces[_Wanted]:
    """Parse a file, or `BadText`. Pieces that are as in `known` are not parsed again."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        fine = data[: error.start].decode()
        raise BadText("the file is not UTF-8", _end(fine)) from None
    return _apart(text, form, known or ()) or _whole(text, form)


def header(word: str) -> re.Pattern[str]:
    """What matches the lines `[[word]]`."""
    return re.compile(rf"^[ \t]*\[\[[ \t]*{word}[ \t]*\]\]", re.MULTILINE)


def _apart(text: str, form: Form[_Wanted], known: Pieces[_Wanted]) -> Pieces[_Wanted] | None:
    """A piece a table; None where the text cannot be taken apart.

    Each piece being TOML by itself that holds one `[[word]]` and nothing else, all together mean what the
    text means: no string runs over from one to the next, and each begins with the header of an array.
    """
    starts = [match.start() for match in header(form.word).finditer(text)]
    if not starts:
        return None
    before = {placed.piece.text: placed.piece for placed in known}
    found = []
    try:
        if tomllib.loads(text[: starts[0]]):
            return None
        lines = text.count("\n", 0, starts[0])
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
            part = text[start:end]
            piece = before.get(part)
            if piece is None:
                document = tomllib.loads(part)
                if len(document) != 1 or len(document[form.word]) != 1:
                    return None
                piece = _piece(part, form, document, (1,))
            found.append(Placed(lines, piece))
            lines += part.count("\n")
    except (ValueError, RecursionError):
        return None
    return tuple(found)


def _whole(text: str, form: Form[_Wanted]) -> Pieces[_Wanted]:
    """The text as one piece."""
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise BadText("the file nests arrays or tables too deeply", Place(1, 1)) from None
    except ValueError as error:  # TOMLDecodeError, and what int() says of 5,000 digits
        raise _syntax(text, str(error)) from None
    if not document:
        return ()
    places = place.places(text)
    array = document.get(form.word)
    count = len(array) if isinstance(array, list) else 0
    lines = tuple(places[form.word, at].line for at in range(count))
    return (Placed(0, _piece(text, form, document, lines)),)


def _syntax(text: str, said: str) -> BadText:
    match = _WHERE.search(said)
    if match is None:
        return BadText(f"this is not TOML: {said}", Place(1, 1))
    where = Place(int(match[1]), int(match[2])) if match[1] else _end(text)
    gist = said[: match.start()]
    return BadText(f"this is not TOML: {gist[:1].lower()}{gist[1:]}", where)


def _end(text: str) -> Place:
    """Just behind the text."""
    return Place(text.count("\n") + 1, len(text) - text.rfind("\n"))


def _piece(
    text: str, form: Form[_Wanted], document: dict[str, Any], lines: tuple[int, ...]
) -> Piece[_Wanted]:
    fine, faults = tables.read(document, form)
    return Piece(text, tuple(Entry(at, lines[at], wanted) for at, wanted in fine.items()), faults)
