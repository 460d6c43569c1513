"""Files that hold an array of tables, `[[link]]` or `[[grant]]`: what reading them has in common."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar

from bpflinkd.config.checks import Fault, Kind, meant, shown, typed, unknown
from bpflinkd.config.place import KeyPath
from bpflinkd.core import requests
from bpflinkd.core.callers import Unit
from bpflinkd.core.errors import BadOption

_Wanted_co = TypeVar("_Wanted_co", covariant=True)
_Value = TypeVar("_Value")

MOST_ID: Final = 2**32 - 2
"""uid_t and gid_t are 32 bits, and all of them set means none."""
Read: TypeAlias = Callable[[dict[str, Any], KeyPath], tuple[_Wanted_co | None, list[Fault]]]
"""From a table and where it is: what it asks for, or else all that is wrong with it."""


@dataclass(frozen=True, slots=True)
class Form(Generic[_Wanted_co]):
    """A kind of file."""

    word: str
    """What each of its tables is: `link` for `[[link]]`."""
    directory: str
    """Where such files are, below the configuration: `links.d`."""
    read: Read[_Wanted_co]


def read(
    document: Mapping[str, Any], form: Form[_Wanted_co]
) -> tuple[dict[int, _Wanted_co], tuple[Fault, ...]]:
    """What the tables ask for that nothing is wrong with, by index, and all that is wrong with the others."""
    word = form.word
    faults = [
        Fault((key,), unknown(key, (word,), f"a file of {form.directory}")) for key in document if key != word
    ]
    tables = document.get(word, [])
    if not isinstance(tables, list):
        faults.append(Fault((word,), f"{word}s are an array of tables; begin each with [[{word}]]"))
        tables = []
    fine = {}
    for at, table in enumerate(tables):
        if isinstance(table, dict):
            wanted, wrong = form.read(table, (word, at))
            faults += wrong
            if wanted is not None:
                fine[at] = wanted
        else:
            faults.append(Fault((word, at), f"a {word} must be a table, not {shown(table)}"))
    return fine, tuple(faults)


class TableReader:
    """Reads one table, and notes all that is wrong with it."""

    def __init__(self, table: dict[str, Any], path: KeyPath, keys: Mapping[str, Kind]) -> None:
        self.faults: list[Fault] = []
        self._path = path
        self._given = table
        self._values: dict[str, Any] = typed(table, keys, f"a {path[0]}", path, self.faults)

    def _fault(self, sentence: str, *keys: str | int) -> None:
        self.faults.append(Fault((*self._path, *keys), sentence))

    def _word(self, key: str, known: Mapping[str, _Value], default: _Value) -> _Value:
        """What the word at a key stands for."""
        text = self._values.get(key)
        found = None if text is None else self._known(text, known, key, key)
        return default if found is None else found

    def _known(self, text: str, known: Mapping[str, _Value], what: str, *keys: str | int) -> _Value | None:
        """What a word stands for; None, with a fault, where it stands for nothing."""
        if text not in known:
            words = ", ".join(known)
            self._fault(f"{text[:80]!r} is not a {what}; {meant(text, known)}it is one of: {words}", *keys)
        return known.get(text)

    def _unit(self, name: str, *keys: str) -> Unit | None:
        """A unit by its name; None, with a fault, where it can be none that a process is in."""
        try:
            return requests.unit(name)
        except BadOption as error:
            self._fault(str(error), *keys)
            return None

    def _id(self, key: str, what: str) -> str | int | None:
        """A name, or the number that the kernel knows it by; None where there is neither."""
        given: str | int | None = self._values.get(key)
        if isinstance(given, int) and not 0 <= given <= MOST_ID:
            self._fault(f"{given} is not a {what}, a number from 0 to {MOST_ID}", key)
        elif given == "":
            self._fault(f"the {key} is empty; give a name or a {what}", key)
        return given
