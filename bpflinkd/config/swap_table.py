"""What a `[[swap]]` table of a file for `bpflinkctl apply` asks for. Looks at nothing outside of it."""

from dataclasses import dataclass
from typing import Any, Final

from bpflinkd.config.checks import ARRAY, FLAG, NUMBER, TABLE, TEXT, Fault, Kind, shown, typed
from bpflinkd.config.link_table import unfit
from bpflinkd.config.place import KeyPath
from bpflinkd.config.tables import Form, TableReader
from bpflinkd.core import names
from bpflinkd.core.errors import BadName


@dataclass(frozen=True, slots=True)
class WantedSwap:
    """Links that are to run a program."""

    links: tuple[str, ...]
    kind: str
    """`object`, `source`, `pin`, `id`, `builtin` or `generation`."""
    value: str | int
    name: str | None
    constants: tuple[tuple[str, str], ...]
    expect: int | None
    maps: tuple[tuple[str, str], ...]
    fresh_maps: bool


_KEYS: Final = {
    "link": TEXT,
    "links": ARRAY,
    "program": TABLE,
    "expect": NUMBER,
    "maps": TABLE,
    "fresh-maps": FLAG,
}
_TEXTS: Final = ("object", "source", "pin", "builtin")
_NUMBERS: Final = ("id", "generation")
_PROGRAM_KEYS: Final[dict[str, Kind]] = {
    **dict.fromkeys(_TEXTS, TEXT),
    **dict.fromkeys(_NUMBERS, NUMBER),
    "name": TEXT,
    "constants": TABLE,
}
_CHOICES: Final = ("keep", "fresh")


def read(table: dict[str, Any], path: KeyPath) -> tuple[WantedSwap | None, list[Fault]]:
    """See `tables.Read`."""
    reader = _Reader(table, path, _KEYS)
    return reader.swap(), reader.faults


SWAPS: Final = Form("swap", "swaps", read)


class _Reader(TableReader):
    def swap(self) -> WantedSwap | None:
        """The swap, unless something is wrong with it."""
        links = self._links()
        program = self._program()
        maps = self._maps()
        expect = self._values.get("expect")
        if expect is not None and expect < 1:
            self._fault(f"expect is a generation, a number from 1 on, not {expect}", "expect")
        if self.faults or program is None:
            return None
        kind = next(key for key in (*_TEXTS, *_NUMBERS) if key in program)
        constants = tuple(program.get("constants", {}).items())
        fresh = self._values.get("fresh-maps", False)
        return WantedSwap(links, kind, program[kind], program.get("name"), constants, expect, maps, fresh)

    def _links(self) -> tuple[str, ...]:
        if ("link" in self._given) == ("links" in self._given):
            self._fault(
                'a swap has a link, such as link = "edge-filter", or links, an array of names: one of both'
            )
            return ()
        if "link" in self._values:
            found: list[tuple[Any, tuple[str | int, ...]]] = [(self._values["link"], ("link",))]
        else:
            found = [(each, ("links", at)) for at, each in enumerate(self._values.get("links", ()))]
            if self._values.get("links") == []:
                self._fault("links is empty; name one at least", "links")
        for name, keys in found:
            if not isinstance(name, str):
                self._fault(f"the name of a link must be a string, not {shown(name)}", *keys)
                continue
            try:
                names.check(name)
            except BadName as error:
                self._fault(str(error), *keys)
        return tuple(name for name, _ in found)

    def _program(self) -> dict[str, Any] | None:
        if "program" not in self._given:
            self._fault('the swap has no program; give it one, such as program = { object = "filter.bpf.o" }')
        table = self._values.get("program")
        if table is None:
            return None
        values = typed(table, _PROGRAM_KEYS, "a program", (*self._path, "program"), self.faults)
        kinds = [key for key in table if key in (*_TEXTS, *_NUMBERS)]
        if len(kinds) != 1:
            got = " and ".join(kinds) if kinds else "none"
            known = ", ".join((*_TEXTS, *_NUMBERS))
            self._fault(f"a program has exactly one of {known}; this has {got}", "program")
            return None
        kind = kinds[0]
        if kind not in values:
            return None
        if kind in _NUMBERS and values[kind] < 1:
            self._fault(f"{kind} must be a number from 1 on, not {values[kind]}", "program", kind)
        sentence = unfit(kind, values[kind]) if kind in _TEXTS else ""
        if sentence:
            self._fault(sentence, "program", kind)
        if "name" in table and kind not in ("object", "source"):
            self._fault(f"with {kind} the program is known; leave the name out", "program", "name")
        if "constants" in table and kind != "object":
            self._fault(f"constants are an object's; with {kind} leave them out", "program", "constants")
        values["constants"] = self._constants(values.get("constants", {}))
        return values

    def _constants(self, table: dict[str, Any]) -> dict[str, str]:
        fine = {}
        for name, value in table.items():
            if isinstance(value, bool):
                fine[name] = str(value).lower()
            elif isinstance(value, int | str):
                fine[name] = str(value)
            else:
                sentence = f"{name} must be a number, a string, true or false, not {shown(value)}"
                self._fault(sentence, "program", "constants", name)
        return fine

    def _maps(self) -> tuple[tuple[str, str], ...]:
        table = self._values.get("maps", {})
        for name, choice in table.items():
            if choice not in _CHOICES:
                self._fault(f'map {name[:80]!r} can be "keep" or "fresh"', "maps", name)
        return tuple(table.items())
