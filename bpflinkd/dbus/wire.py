"""The core's types as what travels on the bus."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, assert_never

from gi.repository import GLib

from bpflinkd.core import chronicle, names
from bpflinkd.core.attach_types import ProgramType
from bpflinkd.core.callers import Actor
from bpflinkd.core.declarer import Outcome
from bpflinkd.core.findings import Finding
from bpflinkd.core.history import Past
from bpflinkd.core.model import Foreign, Hold, LinkView, Misses, Occupant, ProgramInfo, Trial
from bpflinkd.core.sources import (
    Builtin,
    PinnedProgram,
    ProgramById,
    ProgramFd,
    Source,
    StoredObject,
    StoredSource,
)
from bpflinkd.core.targets import (
    CgroupHook,
    Hook,
    KprobeHook,
    KprobeMultiHook,
    KprobeMultiTarget,
    KprobeTarget,
    Target,
    XdpHook,
)
from bpflinkd.dbus import contract


def path_of(name: str) -> str:
    """Object path of a link."""
    return contract.LINKS + names.encode(name)


# GLib.Variant's constructor that parses a type string is many times slower than these, and
# structs are cheaper than dictionaries for GIO at both ends: a thousand links are one message.

_string = GLib.Variant.new_string
_u32 = GLib.Variant.new_uint32
_u64 = GLib.Variant.new_uint64
_tuple = GLib.Variant.new_tuple
_SV: Final = GLib.VariantType("a{sv}")
_PROCESS: Final = GLib.VariantType("(us)")
_STRINGS: Final = GLib.VariantType("as")


@functools.lru_cache(maxsize=256)
def _word(text: str) -> GLib.Variant:
    """A string of which there are few: keys, states, types. One variant serves all links."""
    return _string(text)


def vardict(values: Mapping[str, GLib.Variant]) -> GLib.Variant:
    """An a{sv} of ready variants."""
    builder = GLib.VariantBuilder.new(_SV)
    for key, value in values.items():
        builder.add_value(GLib.Variant.new_dict_entry(_word(key), GLib.Variant.new_variant(value)))
    return builder.end()


_NOBODY: Final = vardict({})


def target(value: Target) -> GLib.Variant:
    """(sss): see `chronicle.described`."""
    kind, place, detail = chronicle.described(value)
    return _tuple(_word(kind), _string(place), _word(detail))


@functools.lru_cache(maxsize=256)
def _source(value: Source) -> GLib.Variant:
    match value:
        case StoredObject(sha256=sha256):
            kind, detail = "object", sha256
        case StoredSource(sha256=sha256):
            kind, detail = "source", sha256
        case PinnedProgram(path=path):
            kind, detail = "pin", path
        case ProgramById(id=prog_id):
            kind, detail = "id", str(prog_id)
        case ProgramFd():
            kind, detail = "fd", ""
        case Builtin(name=name):
            kind, detail = "builtin", name
        case _:
            assert_never(value)
    return _tuple(_word(kind), _string(detail))


@functools.lru_cache(maxsize=256)
def program(info: ProgramInfo) -> GLib.Variant:
    """(usss): id, name, tag, type. Many links often run one program, and then share this."""
    known = info.type in ProgramType.__members__.values()
    kind = ProgramType(info.type).name.lower() if known else f"type {info.type}"
    return _tuple(_u32(info.id), _string(info.name), _string(info.tag), _word(kind))


def _occupant(value: Occupant) -> dict[str, GLib.Variant]:
    told = {"program": program(value.program)}
    if value.link_id is not None:
        told["link_id"] = _u32(value.link_id)
    if value.mode is not None:
        told["mode"] = _word(value.mode)
    if value.processes:
        found = [_tuple(_u32(process.pid), _string(process.comm)) for process in value.processes]
        told["processes"] = GLib.Variant.new_array(_PROCESS, found)
    return told


def running(value: Occupant | None) -> GLib.Variant:
    """The property Running: a{sv}, empty where nobody is in our place."""
    return vardict(_occupant(value)) if value is not None else _NOBODY


def foreign(values: tuple[Foreign, ...]) -> GLib.Variant:
    """What ListForeign returns: aa{sv}."""
    rows = [vardict({"target": target(value.target), **_occupant(value.occupant)}) for value in values]
    return GLib.Variant.new_array(_SV, rows)


def findings(values: tuple[Finding, ...]) -> GLib.Variant:
    """What Doctor returns: aa{sv}."""
    rows = [
        vardict(
            {
                "level": _word(value.level),
                "kind": _word(value.kind),
                "where": _string(value.where),
                "what": _string(value.what),
                "advice": _string(value.advice),
                "commands": GLib.Variant.new_array(_STRINGS, [*map(GLib.Variant.new_strv, value.commands)]),
            }
        )
        for value in values
    ]
    return GLib.Variant.new_array(_SV, rows)


def _hook(value: Hook | None) -> GLib.Variant:
    match value:
        case None:
            return _tuple(_word(""), _u64(0))
        case XdpHook(ifindex=ifindex):
            return _tuple(_word("ifindex"), _u64(ifindex))
        case CgroupHook(cgroup_id=cgroup_id):
            return _tuple(_word("cgroup_id"), _u64(cgroup_id))
        case KprobeHook(module=""):
            return _tuple(_word("kernel"), _u64(0))
        case KprobeHook(module=module, load=load):
            return _tuple(_string(f"module {module}"), _u64(load))
        case KprobeMultiHook(functions=functions):
            return _tuple(_word("functions"), _u64(functions))
        case _:
            assert_never(value)


def outcome(value: Outcome) -> GLib.Variant:
    """What Reload returns: (a{su}a(ssss))."""
    refused = [(r.file, r.name, r.sentence, r.log.replace("\0", " ")) for r in value.refused]
    return GLib.Variant("(a{su}a(ssss))", (value.done, refused))


def row(view: LinkView) -> GLib.Variant:
    """A link's row in the table of List: (sssstsst)."""
    record, health = view.record, view.health
    current = record.generation
    return _tuple(
        _string(record.name),
        _string(str(record.target)),
        _word(view.state),
        _word(str(record.owner)),
        _u64(current.number),
        _string(current.program.name),
        _string(current.program.tag),
        _u64(health.since),
    )


_NO_KPROBE: Final = _tuple(_u64(0), _u64(0), _u64(0))


def _kprobe(view: LinkView) -> GLib.Variant:
    """(ttt): cookie, hits that found the slot empty, hits that the kernel suppressed."""
    target = view.record.target
    if not isinstance(target, KprobeTarget | KprobeMultiTarget):
        return _NO_KPROBE
    misses = view.misses() if view.misses is not None else Misses(0, 0)
    return _tuple(_u64(target.cookie), _u64(misses.empty), _u64(misses.suppressed))


@functools.lru_cache(maxsize=256)
def _actor(value: Actor) -> GLib.Variant:
    """(uuss): uid, pid, unit, executable."""
    return _tuple(_u32(value.uid), _u32(value.pid), _string(value.unit), _string(value.exe))


def _hold(value: Hold | None, until: int) -> GLib.Variant:
    """The property Hold: a{sv}, empty where the link lives with no connection."""
    if value is None:
        return _NOBODY
    told = {"holder": _string(value.holder), "grace": _u64(value.grace)}
    if value.fallback is not None:
        told["fallback"] = _source(value.fallback)
    if until:
        told["until"] = _u64(until)
    return vardict(told)


def _trial(value: Trial | None) -> GLib.Variant:
    """The property Trial: a{sv}, empty where nothing waits for confirmation."""
    if value is None:
        return _NOBODY
    told = {"until": _u64(value.until), "within": _u64(value.within), "back_to": _u64(value.back_to)}
    if value.conditions:
        told["conditions"] = GLib.Variant.new_strv(list(value.conditions))
    return vardict(told)


def history(values: Sequence[Past]) -> GLib.Variant:
    """What History returns: aa{sv}."""
    return GLib.Variant.new_array(_SV, [vardict(_past(value)) for value in values])


def _past(value: Past) -> dict[str, GLib.Variant]:
    generation = value.generation
    told = {
        "generation": _u64(generation.number),
        "program": program(generation.program),
        "source": _source(generation.source),
        "since": _u64(generation.since),
        "by": _actor(generation.by),
        "message": _word(generation.message),
        "outcome": _word(value.outcome),
        "way_back": _word(value.way_back),
    }
    if generation.of:
        told["of"] = _u64(generation.of)
    if isinstance(generation.source, StoredObject) and generation.source.constants:
        told["constants"] = GLib.Variant("a{ss}", dict(generation.source.constants))
    return told


class _Property(NamedTuple):
    """One that is made of a part of a view, and sent again only where that part is another one."""

    part: Callable[[LinkView], Any]
    made: Callable[[Any], GLib.Variant]


_PROPERTIES: Final[Mapping[str, _Property]] = {
    "Name": _Property(lambda view: view.record.name, _string),
    "Target": _Property(lambda view: view.record.target, target),
    "State": _Property(lambda view: view.state, _word),
    "Reason": _Property(lambda view: view.health.reason, _word),
    "StateSince": _Property(lambda view: view.health.since, _u64),
    "Owner": _Property(lambda view: view.record.owner, lambda owner: _word(str(owner))),
    "Policy": _Property(lambda view: view.record.policy, _word),
    "Lifetime": _Property(lambda view: view.record.lifetime, _word),
    "Origin": _Property(
        lambda view: (view.record.origin.file, view.record.origin.template),
        lambda origin: _tuple(*map(_word, origin)),
    ),
    "Created": _Property(lambda view: view.record.created, _u64),
    "Generation": _Property(lambda view: view.record.generation.number, _u64),
    "GenerationSince": _Property(lambda view: view.record.generation.since, _u64),
    "By": _Property(lambda view: view.record.generation.by, _actor),
    "Message": _Property(lambda view: view.record.generation.message, _word),
    "Program": _Property(lambda view: view.record.generation.program, program),
    "Source": _Property(lambda view: view.record.generation.source, _source),
    "Running": _Property(lambda view: view.health.running, running),
    "KernelLinkId": _Property(lambda view: view.link_id or 0, _u32),
    "Hook": _Property(lambda view: view.record.hook, _hook),
    "Hold": _Property(lambda view: view.record.hold, lambda hold: _hold(hold, 0)),
    "Trial": _Property(lambda view: view.record.trial, _trial),
    "Maps": _Property(lambda view: view.maps, lambda maps: GLib.Variant.new_strv(list(maps))),
}
"""Those of the Link interface that are told of when they change: all but `Kprobe`."""


def link_properties(view: LinkView, until: int = 0) -> dict[str, GLib.Variant]:
    """Every property of the Link interface.

    Args:
        until: when it ends by itself, microseconds since 1970; 0 where that is not settled.
    """
    made = {name: each.made(each.part(view)) for name, each in _PROPERTIES.items()}
    return {**made, "Hold": _hold(view.record.hold, until), "Kprobe": _kprobe(view)}


def changed_properties(before: LinkView, after: LinkView) -> dict[str, GLib.Variant]:
    """Those that are others than before, of the same link."""
    found = {}
    for name, (part, made) in _PROPERTIES.items():
        now = part(after)
        if part(before) != now:
            found[name] = made(now)
    return found
