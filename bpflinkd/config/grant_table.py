"""What a `[[grant]]` table gives, from the values that TOML has. Looks at nothing outside of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from bpflinkd.config.checks import ARRAY, FLAG, NUMBER, TEXT, Fault, Kind, shown
from bpflinkd.config.place import KeyPath
from bpflinkd.config.tables import Form, TableReader
from bpflinkd.core import patterns, requests, written
from bpflinkd.core.attach_types import ProgramType
from bpflinkd.core.callers import Unit
from bpflinkd.core.errors import BadTarget
from bpflinkd.core.grants import MAX_LINKS, MAX_MAPS, MAX_MEMORY, SOURCES, GrantedTarget
from bpflinkd.core.model import Policy
from bpflinkd.core.patterns import CgroupPattern, InterfacePattern
from bpflinkd.core.targets import CgroupPlace, CgroupTarget, KprobeMultiTarget, KprobeTarget, XdpTarget

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class WantedUser:
    """A user by name or uid."""

    user: str | int


@dataclass(frozen=True, slots=True)
class WantedGroup:
    """A group by name or gid."""

    group: str | int


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedGrant:
    """A grant that needs nothing but its holder to be found. The fields are those of `grants.Grant`."""

    holder: WantedUser | WantedGroup | Unit
    targets: tuple[GrantedTarget, ...]
    sources: frozenset[str]
    program_types: frozenset[ProgramType] | None
    policies: frozenset[Policy]
    kernel_memory: bool
    max_links: int
    max_maps: int
    max_memory: int


_HOLDERS: Final = ("user", "group", "unit")
KEYS: Final = {
    "user": Kind((str, int), "a user's name or a uid"),
    "group": Kind((str, int), "a group's name or a gid"),
    "unit": TEXT,
    "targets": ARRAY,
    "sources": ARRAY,
    "program-types": ARRAY,
    "policies": ARRAY,
    "kernel-memory": FLAG,
    "max-links": NUMBER,
    "max-maps": NUMBER,
    "max-memory": Kind((int, str), 'a number of bytes, or such as "64M"'),
}
_SOURCES: Final = {word: word for word in SOURCES}
_ROOTS: Final = {"pin": "a path", "id": "a number"}
"""Sources that cannot be granted, and what they name a program by."""
_POLICIES: Final = {policy.value: policy for policy in Policy}
_TYPES: Final = {program_type.name.lower(): program_type for program_type in ProgramType}
_MOST: Final = 2**31 - 1
_MOST_BYTES: Final = 2**63 - 1
_MEMORY: Final = re.compile(r"([0-9]{1,19})([KMG]?)", re.ASCII)
_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30}
"""By how many bits a letter moves the number."""


def read(table: dict[str, Any], path: KeyPath) -> tuple[WantedGrant | None, list[Fault]]:
    """See `tables.Read`."""
    reader = _Reader(table, path, KEYS)
    return reader.grant(), reader.faults


GRANTS: Final = Form("grant", "grants.d", read)


class _Reader(TableReader):
    def grant(self) -> WantedGrant | None:
        """The grant, unless something is wrong with it."""
        holder, targets = self._holder(), self._targets()
        sources = self._sources() or frozenset(SOURCES)
        program_types = self._program_types(targets)
        policies = self._words("policies", _POLICIES, "policy") or frozenset({Policy.ALERT})
        max_links = self._number("max-links", 1, MAX_LINKS)
        max_maps = self._number("max-maps", 0, MAX_MAPS)
        max_memory = self._memory()
        if self.faults or holder is None:
            return None
        return WantedGrant(
            holder=holder,
            targets=targets,
            sources=sources,
            program_types=program_types,
            policies=policies,
            kernel_memory=self._values.get("kernel-memory", False),
            max_links=max_links,
            max_maps=max_maps,
            max_memory=max_memory,
        )

    def _holder(self) -> WantedUser | WantedGroup | Unit | None:
        given = [key for key in _HOLDERS if key in self._given]
        if not given:
            self._fault('the grant is for nobody; give it a user, a group or a unit, such as user = "alice"')
        elif len(given) > 1:
            self._fault(
                f"a grant is for one user, group or unit, not for {' and '.join(given)}; make a grant each",
                given[1],
            )
        elif given[0] == "unit":
            name = self._values.get("unit")
            return None if name is None else self._unit(name, "unit")
        else:
            return self._account(given[0])
        return None

    def _account(self, key: str) -> WantedUser | WantedGroup | None:
        if key == "group":
            group = self._id("group", "gid")
            return None if group is None else WantedGroup(group)
        user = self._id("user", "uid")
        return None if user is None else WantedUser(user)

    def _array(self, key: str) -> list[tuple[int, str]]:
        """The strings of an array, with their indexes; none where it is not there."""
        values = self._values.get(key)
        if values is None:
            return []
        if not values:
            hint = "leave it out for the default" if key != "targets" else "give one, such as xdp:eth0"
            self._fault(f"{key} is empty, so the grant gives nothing; {hint}", key)
        strings = []
        seen: set[str] = set()
        for at, value in enumerate(values):
            if not isinstance(value, str):
                self._fault(f"{key} must be strings, not {shown(value)}", key, at)
            elif value in seen:
                self._fault(f"{value[:80]!r} is there twice; leave one out", key, at)
            else:
                seen.add(value)
                strings.append((at, value))
        return strings

    def _words(self, key: str, known: Mapping[str, _Value], what: str) -> frozenset[_Value]:
        """What the words of an array stand for; empty where it is not there."""
        found = [self._known(word, known, what, key, at) for at, word in self._array(key)]
        return frozenset(value for value in found if value is not None)

    def _sources(self) -> frozenset[str]:
        found = self._array("sources")
        for at, word in found:
            if word in _ROOTS:
                self._fault(
                    f"the source {word} cannot be granted: what is named by {_ROOTS[word]} is opened with "
                    'root\'s rights, so only root may; grant "fd", and let the holder open it',
                    "sources",
                    at,
                )
            else:
                self._known(word, _SOURCES, "source", "sources", at)
        return frozenset(word for _, word in found)

    def _targets(self) -> tuple[GrantedTarget, ...]:
        if "targets" not in self._given:
            self._fault('the grant has no targets; give it some, such as targets = ["xdp:eth0"]')
        found: dict[GrantedTarget, int] = {}
        for at, text in self._array("targets"):
            try:
                target = granted(text)
            except BadTarget as error:
                self._fault(str(error), "targets", at)
                continue
            if target in found:
                self._fault(
                    f"{text[:80]!r} is {target}, which is there already; leave one out", "targets", at
                )
            found[target] = at
        if not self._values.get("kernel-memory", False):
            self._refuse_kprobes(found)
        return tuple(found)

    def _refuse_kprobes(self, targets: Mapping[GrantedTarget, int]) -> None:
        for target, at in targets.items():
            if target.kind in written.KPROBE_KINDS:
                self._fault(
                    f"programs on {target.kind} targets can read all of the kernel's memory, and so what "
                    "belongs to others: keys, passwords, files; if that is meant, add kernel-memory = true",
                    "targets",
                    at,
                )

    def _program_types(self, targets: tuple[GrantedTarget, ...]) -> frozenset[ProgramType] | None:
        types = self._words("program-types", _TYPES, "program type")
        if self.faults:
            return None
        for at, word in self._array("program-types"):
            if not any(_TYPES[word] in target.program_types for target in targets):
                self._fault(f"no target of the grant takes programs of type {word}", "program-types", at)
        return types or None

    def _number(self, key: str, least: int, default: int) -> int:
        number: int = self._values.get(key, default)
        if not least <= number <= _MOST:
            self._fault(f"{key} must be from {least} to {_MOST}, not {number}", key)
        return number

    def _memory(self) -> int:
        given: str | int = self._values.get("max-memory", MAX_MEMORY)
        if isinstance(given, str):
            match = _MEMORY.fullmatch(given)
            if match is None:
                self._fault(
                    f"{given[:80]!r} is not an amount of memory; write it as 65536, 64K, 64M or 1G",
                    "max-memory",
                )
                return 0
            given = int(match[1]) << _UNITS[match[2]]
        if not 0 <= given <= _MOST_BYTES:
            self._fault(f"max-memory must be from 0 to {_MOST_BYTES} bytes, not {given}", "max-memory")
        return given


def granted(text: str) -> GrantedTarget:
    """A pattern of targets from its text, such as `cgroup:/web.slice/* egress`, or `BadTarget`."""
    kind, _, place = text.partition(":")
    # Elsewhere such a target is one function. What a pattern of functions may hold is the same.
    if kind in ("kprobe", "kretprobe") and patterns.is_pattern(place):
        try:
            requests.kprobe_multi_target(place)
        except BadTarget:
            sentence = f"{place[:80]!r} is not a pattern of kernel functions; write it as {kind}:tcp_*"
            raise BadTarget(sentence) from None
        return GrantedTarget(kind=kind, place=place)
    match written.target(text):
        case XdpTarget(interface=name) | InterfacePattern(name=name):
            return GrantedTarget(kind="xdp", place=name)
        case (
            CgroupTarget(path=path, attach_type=attach_type)
            | CgroupPattern(path=path, attach_type=attach_type)
        ):
            return GrantedTarget(kind="cgroup", place=path, attach_type=attach_type)
        case CgroupPlace(path=path):
            return GrantedTarget(kind="cgroup", place=path)
        case KprobeTarget(symbol=symbol, offset=offset):
            if offset:
                raise BadTarget(f"a grant is for all of a function; write it as {kind}:{symbol}")
            return GrantedTarget(kind=kind, place=symbol)
        case KprobeMultiTarget(pattern=pattern):
            return GrantedTarget(kind=kind, place=pattern)
