"""Keys and types of tables in files, and the sentences on those that do not fit."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from bpflinkd.config.place import KeyPath


class Fault(NamedTuple):
    """What is wrong at a key."""

    path: KeyPath
    sentence: str


class Kind(NamedTuple):
    """What a value must be."""

    types: tuple[type, ...]
    must: str


TEXT: Final = Kind((str,), "a string")
NUMBER: Final = Kind((int,), "a number")
TABLE: Final = Kind((dict,), "a table")
FLAG: Final = Kind((bool,), "true or false")
ARRAY: Final = Kind((list,), "an array of strings")
_BITS: Final = 64

_TYPES: Final = (
    (bool, "a boolean"),
    (str, "a string"),
    (int, "a number"),
    (float, "a float"),
    (dict, "a table"),
    (list, "an array"),
)


def typed(
    table: Mapping[str, Any], kinds: Mapping[str, Kind], what: str, path: KeyPath, faults: list[Fault]
) -> dict[str, Any]:
    """The values of a table that have the type they must have; notes what is wrong with the others."""
    fine = {}
    for key, value in table.items():
        kind = kinds.get(key)
        if kind is None:
            faults.append(Fault((*path, key), unknown(key, kinds, what)))
        # To Python a boolean is a number.
        elif not isinstance(value, kind.types) or (isinstance(value, bool) and bool not in kind.types):
            faults.append(Fault((*path, key), f"{key} must be {kind.must}, not {shown(value)}"))
        # Written in hexadecimal a number may be so long that Python refuses to print it.
        elif isinstance(value, int) and value.bit_length() > _BITS:
            faults.append(Fault((*path, key), f"{key} has more than the {_BITS} bits that a number may have"))
        else:
            fine[key] = value
    return fine


def unknown(key: str, known: Iterable[str], what: str) -> str:
    """A sentence on a key that there is not."""
    return f"{what} has no key {key[:80]!r}; {meant(key, known)}it takes: {', '.join(known)}"


def meant(word: str, known: Iterable[str]) -> str:
    """`did you mean ...?` and a blank where a word comes close; else empty."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]}? " if near else ""


def shown(value: object) -> str:
    """The type of a value, as TOML calls it."""
    return next((name for known, name in _TYPES if isinstance(value, known)), "a date or time")
