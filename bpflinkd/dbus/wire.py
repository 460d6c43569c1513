"""Between the core's types and what travels on the bus. Nothing untyped gets past here."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, assert_never

from gi.repository import GLib

from bpflinkd.core import names, requests
from bpflinkd.core.attach_types import ProgramType
from bpflinkd.core.errors import BadOption, BadProgram, BadTarget
from bpflinkd.core.events import ForeignChange
from bpflinkd.core.model import (
    Builtin,
    CgroupHook,
    CgroupTarget,
    Foreign,
    Generation,
    Hook,
    LinkView,
    ObjectFile,
    Occupant,
    PinnedProgram,
    Policy,
    ProgId,
    ProgramById,
    ProgramFd,
    ProgramInfo,
    Source,
    StoredObject,
    Target,
    WantedProgram,
    WantedTarget,
    XdpHook,
    XdpTarget,
)

BUS_NAME: Final = "org.bpflinkd1"
ROOT: Final = "/org/bpflinkd1"
LINKS: Final = "/org/bpflinkd1/link/"
MANAGER: Final = "org.bpflinkd1.Manager"
LINK: Final = "org.bpflinkd1.Link"
OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"

Dict: TypeAlias = Mapping[str, Any]
Fds: TypeAlias = Callable[[int], int]
"""From the index in a message to an open descriptor."""

_U32_MAX: Final = 2**32 - 1


def path_of(name: str) -> str:
    """Object path of a link."""
    return LINKS + names.encode(name)


# In


def wanted_target(given: Dict) -> WantedTarget:
    """Parse a target. `BadTarget` says what is wrong with it."""
    match dict(given):
        case {"xdp": str(interface), **rest} if _only(rest, {"mode": str}):
            return requests.xdp_target(interface, rest.get("mode", "auto"))
        case {"cgroup": str(path), **rest} if _only(rest, {"attach_type": str}):
            return requests.cgroup_target(path, rest.get("attach_type"))
    raise BadTarget(
        "the target must be {'xdp': interface, 'mode': mode} or {'cgroup': path, 'attach_type': type}, "
        f"all strings; got the keys: {_keys(given)}"
    )


def wanted_program(given: Dict, fds: Fds) -> WantedProgram:
    """Parse a program source. `BadProgram` says what is wrong with it."""
    match dict(given):
        case {"object": int(index), **rest} if _only(rest, {"name": str}):
            return ObjectFile(fd=fds(index), program=rest.get("name"))
        case {"pin": str(path), **rest} if not rest:
            return PinnedProgram(path=path)
        case {"id": int(number), **rest} if not rest and 0 < number <= _U32_MAX:
            return ProgramById(id=ProgId(number))
        case {"fd": int(index), **rest} if not rest:
            return ProgramFd(fd=fds(index))
        case {"builtin": str(name), **rest} if not rest:
            return Builtin(name=name)
    raise BadProgram(
        "the program must be exactly one of {'object': fd, 'name': string}, {'pin': path}, {'id': number}, "
        f"{{'fd': fd}}, {{'builtin': name}}; got the keys: {_keys(given)}"
    )


def attach_options(given: Dict) -> tuple[Policy, bool]:
    """Policy and wait."""
    _check_options(given, {"policy": str, "wait": bool})
    policy = given.get("policy", Policy.ALERT)
    if policy not in list(Policy):
        raise BadOption(f"{policy[:80]!r} is not a policy; it is one of: {', '.join(Policy)}")
    return Policy(policy), given.get("wait", False)


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


# Out. The constructors of GLib.Variant that parse a type string are many times slower than these.

_string = GLib.Variant.new_string
_u32 = GLib.Variant.new_uint32
_u64 = GLib.Variant.new_uint64
_SV: Final = GLib.VariantType("a{sv}")
_ASV: Final = GLib.VariantType("aa{sv}")


def vardict(values: Mapping[str, GLib.Variant]) -> GLib.Variant:
    """An a{sv} of ready variants."""
    builder = GLib.VariantBuilder.new(_SV)
    for key, value in values.items():
        builder.add_value(GLib.Variant.new_dict_entry(_string(key), GLib.Variant.new_variant(value)))
    return builder.end()


def _vardicts(values: list[GLib.Variant]) -> GLib.Variant:
    builder = GLib.VariantBuilder.new(_ASV)
    for value in values:
        builder.add_value(value)
    return builder.end()


def target(value: Target) -> GLib.Variant:
    """As `wanted_target` reads it."""
    match value:
        case XdpTarget(interface=interface, mode=mode):
            return vardict({"xdp": _string(interface), "mode": _string(mode)})
        case CgroupTarget(path=path, attach_type=attach_type):
            return vardict({"cgroup": _string(path), "attach_type": _string(attach_type.name)})
        case _:
            assert_never(value)


def _source(value: Source) -> GLib.Variant:
    match value:
        case StoredObject(sha256=sha256, program=name):
            return vardict({"object": _string(sha256), "name": _string(name)})
        case PinnedProgram(path=path):
            return vardict({"pin": _string(path)})
        case ProgramById(id=prog_id):
            return vardict({"id": _u32(prog_id)})
        case ProgramFd():
            return vardict({"fd": GLib.Variant.new_boolean(True)})
        case Builtin(name=name):
            return vardict({"builtin": _string(name)})
        case _:
            assert_never(value)


def _program_info(info: ProgramInfo) -> dict[str, GLib.Variant]:
    known = info.type in ProgramType.__members__.values()
    kind = ProgramType(info.type).name.lower() if known else f"type {info.type}"
    return {
        "id": _u32(info.id),
        "name": _string(info.name),
        "tag": _string(info.tag),
        "type": _string(kind),
    }


def program(generation: Generation) -> GLib.Variant:
    """The property Program."""
    return vardict({**_program_info(generation.program), "source": _source(generation.source)})


def _occupant(value: Occupant) -> dict[str, GLib.Variant]:
    told: dict[str, GLib.Variant] = {}
    if value.link_id is not None:
        told["link_id"] = _u32(value.link_id)
    if value.mode is not None:
        told["mode"] = _string(value.mode)
    if value.processes:
        told["processes"] = _vardicts(
            [vardict({"pid": _u32(p.pid), "comm": _string(p.comm)}) for p in value.processes]
        )
    return told


def running(value: Occupant | None) -> GLib.Variant:
    """The property Running."""
    if value is None:
        return vardict({})
    return vardict({**_program_info(value.program), **_occupant(value)})


def foreign(values: tuple[Foreign, ...]) -> GLib.Variant:
    """What ListForeign returns."""
    return _vardicts(
        [
            vardict(
                {
                    "target": target(value.target),
                    "program": vardict(_program_info(value.occupant.program)),
                    **_occupant(value.occupant),
                }
            )
            for value in values
        ]
    )


def foreign_change(change: ForeignChange) -> GLib.Variant:
    """The details of the signal ForeignChange."""
    return vardict(
        {
            "sentence": _string(change.sentence),
            "target": target(change.view.record.target),
            "state": _string(change.view.health.state),
            "source": _string(change.source),
            "seen": _u64(change.seen),
            "by": running(change.by),
        }
    )


def _hook(value: Hook | None) -> GLib.Variant:
    match value:
        case None:
            return vardict({})
        case XdpHook(ifindex=ifindex):
            return vardict({"ifindex": _u32(ifindex)})
        case CgroupHook(cgroup_id=cgroup_id):
            return vardict({"cgroup_id": _u64(cgroup_id)})
        case _:
            assert_never(value)


def link_properties(view: LinkView, pins: str) -> dict[str, GLib.Variant]:
    """Every property of the Link interface."""
    record, health = view.record, view.health
    return {
        "Name": _string(record.name),
        "Target": target(record.target),
        "State": _string(health.state),
        "Reason": _string(health.reason),
        "StateSince": _u64(health.since),
        "Owner": vardict({"uid": _u32(record.owner.uid)}),
        "Policy": _string(record.policy),
        "Lifetime": _string(record.lifetime),
        "Created": _u64(record.created),
        "Generation": _u64(record.generation.number),
        "GenerationSince": _u64(record.generation.since),
        "Program": program(record.generation),
        "Running": running(health.running),
        "KernelLinkId": _u32(view.link_id or 0),
        "Hook": _hook(record.hook),
        "Maps": GLib.Variant.new_strv(list(view.maps)),
        "Pins": _string(pins),
    }
