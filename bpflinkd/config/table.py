"""What a `[[link]]` table asks for, from the values that TOML has. Looks at nothing outside of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from bpflinkd.config.checks import NUMBER, TABLE, TEXT, Fault, Kind, meant, shown, typed, unknown
from bpflinkd.core import names, patterns, written
from bpflinkd.core.errors import BadName, BadTarget
from bpflinkd.core.model import Lifetime, Policy
from bpflinkd.core.patterns import CgroupPattern, InterfacePattern, Pattern
from bpflinkd.core.sources import BUILTINS
from bpflinkd.core.targets import WantedTarget, XdpMode

_MOST_UID: Final = 2**32 - 2
"""uid_t is 32 bits, and all of them set means none."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_Word = TypeVar("_Word", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Asked:
    """A program as a file has it."""

    key: str
    """`object`, `source`, `pin`, `builtin`, `kept` or `kept-source`."""
    value: str
    name: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A link that needs nothing but its files and its owner to be found."""

    path: tuple[str, int]
    """In the document: `("link", 0)`."""
    name: str
    target: WantedTarget | Pattern
    program: Asked
    policy: Policy
    lifetime: Lifetime
    owner: str | int


_LINK_KEYS: Final = {
    "name": TEXT,
    "target": TEXT,
    "match": TABLE,
    "mode": TEXT,
    "attach-type": TEXT,
    "cookie": NUMBER,
    "program": TABLE,
    "policy": TEXT,
    "lifetime": TEXT,
    "owner": Kind((str, int), "a user's name or a uid"),
}
_MATCH_KEYS: Final = dict.fromkeys(("name", "altname", "mac", "driver"), TEXT)
_KINDS: Final = ("object", "source", "pin", "builtin", "kept", "kept-source")
_PROGRAM_KEYS: Final = dict.fromkeys((*_KINDS, "name"), TEXT)
_NAMED: Final = ("object", "source", "kept", "kept-source")
"""Kinds that can hold several programs."""


def read(document: Mapping[str, Any]) -> tuple[tuple[Wanted, ...], tuple[Fault, ...]]:
    """All links that nothing is wrong with, and all that is wrong with the others."""
    faults = [Fault((key,), unknown(key, ("link",), "a file")) for key in document if key != "link"]
    tables = document.get("link", [])
    if not isinstance(tables, list):
        faults.append(Fault(("link",), "links are an array of tables; begin each with [[link]]"))
        tables = []
    links = []
    for at, table in enumerate(tables):
        if isinstance(table, dict):
            reader = _Reader(table, ("link", at))
            wanted = reader.link()
            faults += reader.faults
            if wanted is not None:
                links.append(wanted)
        else:
            faults.append(Fault(("link", at), f"a link must be a table, not {shown(table)}"))
    return tuple(links), tuple(faults)


class _Reader:
    """Reads one table, and notes all that is wrong with it."""

    def __init__(self, table: dict[str, Any], path: tuple[str, int]) -> None:
        self.faults: list[Fault] = []
        self._path = path
        self._given = table
        self._values: dict[str, Any] = typed(table, _LINK_KEYS, "a link", path, self.faults)

    def link(self) -> Wanted | None:
        """The link, unless something is wrong with it."""
        target = self._target()
        name = self._name(template=isinstance(target, InterfacePattern | CgroupPattern))
        program = self._program()
        policy = self._word("policy", Policy, Policy.ALERT)
        lifetime = self._word("lifetime", Lifetime, Lifetime.PINNED)
        owner = self._owner()
        if self.faults or target is None or program is None:
            return None
        return Wanted(self._path, name, target, program, policy, lifetime, owner)

    def _fault(self, sentence: str, *keys: str) -> None:
        self.faults.append(Fault((*self._path, *keys), sentence))

    def _name(self, *, template: bool) -> str:
        name: str = self._values.get("name", "")
        if "name" not in self._given:
            self._fault('the link has no name; give it one, such as name = "edge-filter"')
        elif "name" in self._values:
            try:
                names.check(name)
            except BadName as error:
                self._fault(str(error), "name")
            else:
                if template and len(name) > patterns.MAX_TEMPLATE:
                    self._fault(
                        f"the name of a template has {patterns.MAX_TEMPLATE} characters at most, this one "
                        f"{len(name)}: its links are called NAME@INTERFACE or the like",
                        "name",
                    )
        return name

    def _target(self) -> WantedTarget | Pattern | None:
        given = self._given
        if ("target" in given) == ("match" in given):
            if "target" in given:
                self._fault("a link has a target or a match, not both; leave one out", "match")
            else:
                self._fault(
                    'the link has no target; give it one, such as target = "xdp:eth0", '
                    'or for a template match = { name = "veth*" }'
                )
            return None
        return self._matched() if "match" in given else self._written()

    def _written(self) -> WantedTarget | Pattern | None:
        text = self._values.get("target")
        if text is None:
            return None
        options = {
            key.replace("-", "_"): self._values[key]
            for key in ("mode", "attach-type", "cookie")
            if key in self._values
        }
        try:
            return written.target(text, **options)
        except BadTarget as error:
            self._fault(str(error), self._culprit(text, options))
            return None

    @staticmethod
    def _culprit(text: str, options: dict[str, Any]) -> str:
        """The key that is to blame: the target, or the first option that does not go with it."""
        for key in ("", *options):
            given = {key: options[key]} if key else {}
            try:
                written.target(text, **given)
            except BadTarget:
                return key.replace("_", "-") if key else "target"
        return "target"

    def _matched(self) -> Pattern | None:
        for key in ("attach-type", "cookie"):
            if key in self._given:
                self._fault(f"{key} does not go with match, which is for interfaces; leave it out", key)
        table = self._values.get("match")
        if table is None:
            return None
        match = typed(table, _MATCH_KEYS, "match", (*self._path, "match"), self.faults)
        if not table:
            self._fault('match is empty; say what interfaces are meant, such as { name = "veth*" }', "match")
            return None
        if len(match) != len(table):
            return None
        empty = [key for key, value in match.items() if not value]
        for key in empty:
            self._fault(f'{key} is empty, so no interface matches; leave it out, or write "*"', "match", key)
        try:
            mode = self._values.get("mode", XdpMode.AUTO)
            patterns.interface_pattern(mode=mode)
        except BadTarget as error:
            self._fault(str(error), "mode")
            return None
        for key, value in match.items():
            try:
                patterns.interface_pattern(**{key: value})
            except BadTarget as error:
                self._fault(str(error), "match", key)
        return None if self.faults else patterns.interface_pattern(mode=mode, **match)

    def _program(self) -> Asked | None:
        if "program" not in self._given:
            self._fault('the link has no program; give it one, such as program = { object = "filter.bpf.o" }')
        table = self._values.get("program")
        if table is None:
            return None
        values = typed(table, _PROGRAM_KEYS, "a program", (*self._path, "program"), self.faults)
        kinds = [key for key in table if key in _KINDS]
        if len(kinds) != 1:
            got = " and ".join(kinds) if kinds else "none"
            self._fault(f"a program has exactly one of {', '.join(_KINDS)}; this has {got}", "program")
            return None
        key = kinds[0]
        if key not in values:
            return None
        sentence = _unfit(key, values[key])
        if sentence:
            self._fault(sentence, "program", key)
        name = values.get("name")
        if name is not None and key not in _NAMED:
            self._fault(f"a {key} is one program; leave the name out", "program", "name")
        elif name == "":
            self._fault(
                "the program's name is empty; leave it out where there is only one", "program", "name"
            )
        return Asked(key, values[key], name)

    def _word(self, key: str, words: type[_Word], default: _Word) -> _Word:
        text = self._values.get(key)
        if text is None:
            return default
        try:
            return words(text)
        except ValueError:
            known = ", ".join(words)
            self._fault(f"{text[:80]!r} is not a {key}; {meant(text, words)}it is one of: {known}", key)
            return default

    def _owner(self) -> str | int:
        owner: str | int = self._values.get("owner", 0)
        if isinstance(owner, int) and not 0 <= owner <= _MOST_UID:
            self._fault(f"{owner} is not a uid, a number from 0 to {_MOST_UID}", "owner")
        elif owner == "":
            self._fault("the owner is empty; give a user's name or a uid, or leave it out for root", "owner")
        return owner


def _unfit(key: str, value: str) -> str:
    """What is wrong with a program's value; empty where nothing is."""
    if not value:
        return f"{key} is empty"
    match key:
        case "pin" if not value.startswith("/"):
            return f"the pin {value[:80]!r} must be an absolute path on a bpffs, such as /sys/fs/bpf/NAME"
        case "builtin" if value not in BUILTINS:
            return f"there is no built-in program {value[:80]!r}; there is: {', '.join(BUILTINS)}"
        case "kept" | "kept-source" if not _SHA256.fullmatch(value):
            return f"{key} must be a sha256, 64 digits of 0-9 and a-f, not {value[:80]!r}"
    return ""
