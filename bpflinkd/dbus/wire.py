"""Between the core's types and what travels on the bus. Nothing untyped gets past here."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias, assert_never

from gi.repository import GLib

from bpflinkd.core import names, requests
from bpflinkd.core.attach_types import ProgramType
from bpflinkd.core.declarer import Outcome
from bpflinkd.core.errors import BadOption, BadProgram, BadTarget
from bpflinkd.core.events import ForeignChange
from bpflinkd.core.ids import ProgId
from bpflinkd.core.model import Foreign, Lifetime, LinkView, Misses, Occupant, Policy, ProgramInfo
from bpflinkd.core.sources import (
    Builtin,
    ObjectFile,
    PinnedProgram,
    ProgramById,
    ProgramFd,
    Source,
    SourceFile,
    StoredObject,
    StoredSource,
    WantedProgram,
)
from bpflinkd.core.targets import (
    CgroupHook,
    CgroupTarget,
    Hook,
    KprobeHook,
    KprobeMultiHook,
    KprobeMultiTarget,
    KprobeTarget,
    Target,
    WantedTarget,
    XdpHook,
    XdpTarget,
)
from bpflinkd.dbus import contract

Dict: TypeAlias = Mapping[str, Any]
Fds: TypeAlias = Callable[[int], int]
"""From the index in a message to an open descriptor."""

_U32_MAX: Final = 2**32 - 1


def path_of(name: str) -> str:
    """Object path of a link."""
    return contract.LINKS + names.encode(name)


# In


def wanted_target(given: Dict) -> WantedTarget:
    """Parse a target. `BadTarget` says what is wrong with it."""
    match dict(given):
        case {"xdp": str(interface), **rest} if _only(rest, {"mode": str}):
            return requests.xdp_target(interface, rest.get("mode", "auto"))
        case {"cgroup": str(path), **rest} if _only(rest, {"attach_type": str}):
            return requests.cgroup_target(path, rest.get("attach_type"))
        case {"kprobe": str(symbol), **rest} if _only(rest, {"offset": int, "cookie": int}):
            return requests.kprobe_target(symbol, **rest)
        case {"kretprobe": str(symbol), **rest} if _only(rest, {"cookie": int}):
            return requests.kprobe_target(symbol, at_return=True, **rest)
        case {"kprobe-multi": str(pattern), **rest} if _only(rest, {"cookie": int}):
            return requests.kprobe_multi_target(pattern, **rest)
        case {"kretprobe-multi": str(pattern), **rest} if _only(rest, {"cookie": int}):
            return requests.kprobe_multi_target(pattern, at_return=True, **rest)
    raise BadTarget(
        "the target must be one of {'xdp': interface, 'mode': mode}, {'cgroup': path, 'attach_type': type}, "
        "{'kprobe': function, 'offset': number, 'cookie': number}, {'kretprobe': function, "
        "'cookie': number}, {'kprobe-multi': pattern, 'cookie': number} and "
        "{'kretprobe-multi': pattern, 'cookie': number}; "
        f"got the keys: {_keys(given)}"
    )


def wanted_program(given: Dict, fds: Fds) -> WantedProgram:
    """Parse a program source. `BadProgram` says what is wrong with it."""
    match dict(given):
        case {"object": int(index), **rest} if _only(rest, {"name": str}):
            return ObjectFile(fd=fds(index), program=rest.get("name"))
        case {"source": int(index), **rest} if _only(rest, {"name": str}):
            return SourceFile(fd=fds(index), program=rest.get("name"))
        case {"pin": str(path), **rest} if not rest:
            return PinnedProgram(path=path)
        case {"id": int(number), **rest} if not rest and 0 < number <= _U32_MAX:
            return ProgramById(id=ProgId(number))
        case {"fd": int(index), **rest} if not rest:
            return ProgramFd(fd=fds(index))
        case {"builtin": str(name), **rest} if not rest:
            return Builtin(name=name)
    raise BadProgram(
        "the program must be exactly one of {'object': fd, 'name': string}, {'source': fd, 'name': string}, "
        f"{{'pin': path}}, {{'id': number}}, {{'fd': fd}}, {{'builtin': name}}; got the keys: {_keys(given)}"
    )


class AttachOptions(NamedTuple):
    """What may be said of a new link."""

    policy: Policy
    lifetime: Lifetime
    wait: bool


def attach_options(given: Dict) -> AttachOptions:
    """Parse them, or `BadOption`."""
    _check_options(given, {"policy": str, "lifetime": str, "wait": bool})
    return AttachOptions(
        requests.policy(given.get("policy", Policy.ALERT)),
        requests.lifetime(given.get("lifetime", Lifetime.PINNED)),
        given.get("wait", False),
    )


def replace_options(given: Dict) -> int | None:
    """The generation that the caller expects."""
    _check_options(given, {"expect": int})
    expect: int | None = given.get("expect")
    return expect


def no_options(given: Dict) -> None:
    """For methods that take none so far."""
    _check_options(given, {})


def _only(rest: Dict, allowed: Mapping[str, type]) -> bool:
    return all(key in allowed and isinstance(value, allowed[key]) for key, value in rest.items())


def _check_options(given: Dict, allowed: Mapping[str, type]) -> None:
    for key, value in given.items():
        if key not in allowed:
            known = ", ".join(allowed) or "none"
            raise BadOption(f"there is no option {key[:80]!r} here; known options: {known}")
        wrong_bool = isinstance(value, bool) and allowed[key] is not bool
        if not isinstance(value, allowed[key]) or wrong_bool:
            raise BadOption(f"the option {key!r} must be of type {allowed[key].__name__}")


def _keys(given: Dict) -> str:
    return ", ".join(repr(key[:40]) for key in list(given)[:8]) or "none"


# Out. GLib.Variant's constructor that parses a type string is many times slower than these, and
# structs are cheaper than dictionaries for GIO at both ends: a thousand links are one message.

_string = GLib.Variant.new_string
_u32 = GLib.Variant.new_uint32
_u64 = GLib.Variant.new_uint64
_tuple = GLib.Variant.new_tuple
_SV: Final = GLib.VariantType("a{sv}")
_PROCESS: Final = GLib.VariantType("(us)")


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
    """(sss): `xdp`, interface, mode; `cgroup`, path, attach type; `kprobe`, function, offset; or one
    of `kretprobe`, `kprobe-multi`, `kretprobe-multi`, function or pattern, nothing."""
    match value:
        case XdpTarget(interface=interface, mode=mode):
            return _tuple(_word("xdp"), _string(interface), _word(mode))
        case CgroupTarget(path=path, attach_type=attach_type):
            return _tuple(_word("cgroup"), _string(path), _word(attach_type.name))
        case KprobeTarget(symbol=symbol, offset=offset, at_return=at_return):
            return _tuple(_word(value.kind), _string(symbol), _word("" if at_return else str(offset)))
        case KprobeMultiTarget(pattern=pattern):
            return _tuple(_word(value.kind), _string(pattern), _word(""))
        case _:
            assert_never(value)


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


def foreign_change(change: ForeignChange) -> GLib.Variant:
    """The details of the signal ForeignChange."""
    return vardict(
        {
            "sentence": _string(change.sentence),
            "target": target(change.view.record.target),
            "state": _word(change.view.health.state),
            "source": _word(change.source),
            "seen": _u64(change.seen),
            "by": running(change.by),
        }
    )


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
    """A link's row in the table of List: (sssutsst)."""
    record, health = view.record, view.health
    current = record.generation
    return _tuple(
        _string(record.name),
        _string(str(record.target)),
        _word(health.state),
        _u32(record.owner.uid),
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


def link_properties(view: LinkView) -> dict[str, GLib.Variant]:
    """Every property of the Link interface."""
    record, health, current = view.record, view.health, view.record.generation
    return {
        "Name": _string(record.name),
        "Target": target(record.target),
        "State": _word(health.state),
        "Reason": _word(health.reason),
        "StateSince": _u64(health.since),
        "Owner": _u32(record.owner.uid),
        "Policy": _word(record.policy),
        "Lifetime": _word(record.lifetime),
        "Origin": _tuple(_word(record.origin.file), _word(record.origin.template)),
        "Created": _u64(record.created),
        "Generation": _u64(current.number),
        "GenerationSince": _u64(current.since),
        "Program": program(current.program),
        "Source": _source(current.source),
        "Running": running(health.running),
        "KernelLinkId": _u32(view.link_id or 0),
        "Hook": _hook(record.hook),
        "Maps": GLib.Variant.new_strv(list(view.maps)),
        "Kprobe": _kprobe(view),
    }
