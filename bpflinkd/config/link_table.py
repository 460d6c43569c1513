"""What a `[[link]]` table asks for, from the values that TOML has. Looks at nothing outside of them."""

import re
from dataclasses import dataclass
from typing import Any, Final

from bpflinkd.config.checks import FLAG, NUMBER, TABLE, TEXT, Fault, Kind, typed
from bpflinkd.config.place import KeyPath
from bpflinkd.config.tables import Form, TableReader
from bpflinkd.core import names, patterns, requests, written
from bpflinkd.core.callers import Unit
from bpflinkd.core.errors import BadName, BadOption, BadTarget
from bpflinkd.core.maps import AS_USUAL, MapWishes
from bpflinkd.core.model import Lifetime, Policy
from bpflinkd.core.patterns import CgroupPattern, InterfacePattern, Pattern
from bpflinkd.core.sources import BUILTINS, Constants
from bpflinkd.core.targets import WantedTarget, XdpMode

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Asked:
    """A program as a file has it."""

    key: str
    """`object`, `source`, `pin`, `builtin`, `kept` or `kept-source`."""
    value: str
    name: str | None
    constants: Constants = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A link that needs nothing but its files and its owner to be found."""

    name: str
    target: WantedTarget | Pattern
    program: Asked
    policy: Policy
    lifetime: Lifetime
    owner: str | int | Unit
    """A user by name or uid, or a unit."""
    maps: MapWishes = AS_USUAL
    """What becomes of the maps of a program that it replaces."""


_LINK_KEYS: Final = {
    "name": TEXT,
    "target": TEXT,
    "match": TABLE,
    "mode": TEXT,
    "attach-type": TEXT,
    "cookie": NUMBER,
    "program": TABLE,
    "maps": TABLE,
    "fresh-maps": FLAG,
    "policy": TEXT,
    "lifetime": TEXT,
    "owner": Kind((str, int, dict), 'a user\'s name or a uid, or { unit = "NAME.service" }'),
}
_MATCH_KEYS: Final = dict.fromkeys(("name", "altname", "mac", "driver"), TEXT)
_KINDS: Final = ("object", "source", "pin", "builtin", "kept", "kept-source")
_PROGRAM_KEYS: Final = {**dict.fromkeys((*_KINDS, "name"), TEXT), "constants": TABLE}
_NAMED: Final = ("object", "source", "kept", "kept-source")
"""Kinds that can hold several programs."""
_WITH_CONSTANTS: Final = ("object", "kept")
_LIFETIMES: Final = {word.value: word for word in Lifetime if word is not Lifetime.OWNER}


def read(table: dict[str, Any], path: KeyPath) -> tuple[Wanted | None, list[Fault]]:
    """See `tables.Read`."""
    reader = _Reader(table, path, _LINK_KEYS)
    return reader.link(), reader.faults


LINKS: Final = Form("link", "links.d", read)


class _Reader(TableReader):
    def link(self) -> Wanted | None:
        """The link, unless something is wrong with it."""
        target = self._target()
        name = self._name(template=isinstance(target, InterfacePattern | CgroupPattern))
        program = self._program()
        policy = self._word("policy", {word.value: word for word in Policy}, Policy.ALERT)
        lifetime = self._lifetime()
        owner = self._owner()
        wishes = self._maps()
        if self.faults or target is None or program is None:
            return None
        return Wanted(name, target, program, policy, lifetime, owner, wishes)

    def _maps(self) -> MapWishes:
        choices = self._words("maps", self._values.get("maps", {}))
        try:
            return requests.map_wishes(choices, fresh=self._values.get("fresh-maps", False))
        except BadOption as error:
            self._fault(str(error), "maps")
            return AS_USUAL

    def _words(self, what: str, table: dict[str, Any], *path: str) -> dict[str, str]:
        """A table whose values are text, numbers and booleans, as text."""
        found: dict[str, str] = {}
        for key, value in table.items():
            if isinstance(value, bool):
                found[key] = str(value).lower()
            elif isinstance(value, str | int):
                found[key] = str(value)
            else:
                self._fault(f"{key} of {what} must be a text, a number, true or false", *path, what, key)
        return found

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
        sentence = unfit(key, values[key])
        if sentence:
            self._fault(sentence, "program", key)
        name = values.get("name")
        if name is not None and key not in _NAMED:
            self._fault(f"a {key} is one program; leave the name out", "program", "name")
        elif name == "":
            self._fault(
                "the program's name is empty; leave it out where there is only one", "program", "name"
            )
        constants = self._words("constants", values.get("constants", {}), "program")
        if constants and key not in _WITH_CONSTANTS:
            self._fault(f"a {key} has no constants to set; leave them out", "program", "constants")
        try:
            return Asked(key, values[key], name, requests.constants(constants))
        except BadOption as error:
            self._fault(str(error), "program", "constants")
            return None

    def _lifetime(self) -> Lifetime:
        if self._values.get("lifetime") == Lifetime.OWNER:
            self._fault(
                "the lifetime owner is for links that a D-Bus connection holds, and a file has none; "
                "make it pinned or ephemeral",
                "lifetime",
            )
            return Lifetime.OWNER
        return self._word("lifetime", _LIFETIMES, Lifetime.PINNED)

    def _owner(self) -> str | int | Unit:
        given = self._values.get("owner")
        if isinstance(given, dict):
            return self._owning_unit(given) or 0
        owner = self._id("owner", "uid")
        return 0 if owner is None else owner

    def _owning_unit(self, table: dict[str, Any]) -> Unit | None:
        values = typed(table, {"unit": TEXT}, "an owner", (*self._path, "owner"), self.faults)
        if not table:
            self._fault('the owner is empty; write { unit = "NAME.service" }', "owner")
        return self._unit(values["unit"], "owner", "unit") if "unit" in values else None


def unfit(key: str, value: str) -> str:
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
