"""What travels on the bus as the core's types. Nothing untyped gets past here."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from bpflinkd.core import chronicle, judging, requests, testruns
from bpflinkd.core.callers import Owner
from bpflinkd.core.chronicle import Query
from bpflinkd.core.errors import BadOption, BadProgram, BadTarget
from bpflinkd.core.ids import Micros, ProgId, UnixMicros
from bpflinkd.core.judging import Condition
from bpflinkd.core.maps import AS_USUAL, MapWishes
from bpflinkd.core.model import Lifetime, Policy
from bpflinkd.core.requests import HeldBy
from bpflinkd.core.sources import (
    Builtin,
    ObjectFile,
    Part,
    PinnedProgram,
    ProgramById,
    ProgramFd,
    SourceFile,
    WantedProgram,
)
from bpflinkd.core.targets import WantedTarget
from bpflinkd.dbus import leases

Dict: TypeAlias = Mapping[str, Any]
Fds: TypeAlias = Callable[[int], int]
"""From the index in a message to an open descriptor."""

_U32_MAX: Final = 2**32 - 1
_OFF_MAX: Final = 2**62
_PART: Final = (tuple, list)


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
        case {"object": int(index), **rest} if _only(rest, {"name": str, "constants": dict, "part": _PART}):
            constants = requests.constants(words(rest, "constants"))
            name, part = rest.get("name"), _part(rest)
            return ObjectFile(fd=fds(index), program=name, constants=constants, part=part)
        case {"source": int(index), **rest} if _only(rest, {"name": str, "part": _PART}):
            return SourceFile(fd=fds(index), program=rest.get("name"), part=_part(rest))
        case {"pin": str(path), **rest} if not rest:
            return PinnedProgram(path=path)
        case {"id": int(number), **rest} if not rest and _is_number(number) and 0 < number <= _U32_MAX:
            return ProgramById(id=ProgId(number))
        case {"fd": int(index), **rest} if not rest:
            return ProgramFd(fd=fds(index))
        case {"builtin": str(name), **rest} if not rest:
            return Builtin(name=name)
    raise BadProgram(
        "the program must be exactly one of {'object': fd, 'name': string, 'constants': a{ss}, "
        "'part': (tt)}, {'source': fd, 'name': string, 'part': (tt)}, "
        f"{{'pin': path}}, {{'id': number}}, {{'fd': fd}}, {{'builtin': name}}; got the keys: {_keys(given)}"
    )


class AttachOptions(NamedTuple):
    """What may be said of a new link."""

    policy: Policy
    lifetime: Lifetime
    wait: bool
    owner: Owner | None
    force: bool
    held: HeldBy | None
    message: str


def attach_options(given: Dict, fds: Fds, bus: str) -> AttachOptions:
    """Parse them, or `BadOption`. `bus` is the id of the bus that the caller is on."""
    refuse_unknown(
        given,
        {
            "policy": str,
            "lifetime": str,
            "wait": bool,
            "owner": dict,
            "force": bool,
            "grace": int,
            "fallback": dict,
            "message": str,
        },
    )
    lifetime = requests.lifetime(given.get("lifetime", Lifetime.PINNED))
    held = None
    if lifetime is Lifetime.OWNER or "grace" in given or "fallback" in given:
        held = HeldBy(
            bus=bus,
            grace=requests.grace(given.get("grace", requests.GRACE)),
            fallback=wanted_program(given["fallback"], fds) if "fallback" in given else None,
        )
    return AttachOptions(
        policy=requests.policy(given.get("policy", Policy.ALERT)),
        lifetime=lifetime,
        wait=given.get("wait", False),
        owner=wanted_owner(given["owner"]) if "owner" in given else None,
        force=given.get("force", False),
        held=held,
        message=requests.message(given.get("message", "")),
    )


class ReplaceOptions(NamedTuple):
    """What may be said of a replace."""

    expect: int | None
    """The generation that the caller expects."""
    force: bool
    message: str
    maps: MapWishes
    confirm_within: Micros | None
    confirm_if: tuple[Condition, ...]


def replace_options(given: Dict) -> ReplaceOptions:
    """Parse them, or `BadOption`."""
    known = {"expect": int, "force": bool, "message": str, "maps": dict, "fresh_maps": bool}
    refuse_unknown(given, {**known, "confirm_within": int, "confirm_if": list})
    within, conditions = given.get("confirm_within"), _strings(given, "confirm_if")
    if conditions and within is None:
        raise BadOption("the option 'confirm_if' judges a trial; say by 'confirm_within' how long that lasts")
    return ReplaceOptions(
        given.get("expect"),
        given.get("force", False),
        requests.message(given.get("message", "")),
        requests.map_wishes(words(given, "maps"), fresh=given.get("fresh_maps", False)),
        requests.confirm_within(within) if within is not None else None,
        judging.parse_all(conditions),
    )


def generation(program: Dict) -> int | None:
    """The generation of a link that takes the place of a program, 0 for the one before; None where there is
    none. `BadProgram`."""
    match dict(program):
        case {"generation": int(number), **rest} if not rest and _is_number(number):
            return number
    return None


def detach_options(given: Dict) -> bool:
    """Whether an administrator overrides the owner; or `BadOption`."""
    refuse_unknown(given, {"force": bool})
    force: bool = given.get("force", False)
    return force


class CheckOptions(NamedTuple):
    """What may be said of a check."""

    link: str | None
    """Whose program would be replaced."""
    whole_log: bool
    maps: MapWishes


def check_options(given: Dict) -> CheckOptions:
    """Parse them, or `BadOption`."""
    refuse_unknown(given, {"link": str, "log": bool, "maps": dict, "fresh_maps": bool})
    wishes = requests.map_wishes(words(given, "maps"), fresh=given.get("fresh_maps", False))
    if wishes != AS_USUAL and "link" not in given:
        raise BadOption("maps are kept from the program of a link, so 'maps' and 'fresh_maps' go with 'link'")
    return CheckOptions(given.get("link"), given.get("log", False), wishes)


class CompareOptions(NamedTuple):
    """What may be said of a comparison."""

    most: int
    force: bool


def compare_options(given: Dict) -> CompareOptions:
    """Parse them, or `BadOption`."""
    refuse_unknown(given, {"limit": int, "force": bool})
    most = given.get("limit", testruns.TOLD)
    if not 0 <= most <= testruns.MOST_TOLD:
        raise BadOption(f"the option 'limit' must be between 0 and {testruns.MOST_TOLD}, not {most}")
    return CompareOptions(most, given.get("force", False))


class AdoptOptions(NamedTuple):
    """What is adopted where no id says it, and what may be said of the new link."""

    pin: str | None
    interface: str | None
    policy: Policy
    owner: Owner | None
    force: bool


def adopt_options(link_id: int, given: Dict) -> AdoptOptions:
    """Parse them, or `BadOption`."""
    refuse_unknown(given, {"pin": str, "xdp": str, "policy": str, "owner": dict, "force": bool})
    if (link_id != 0) + ("pin" in given) + ("xdp" in given) != 1:
        raise BadOption(
            "say what to adopt by exactly one of: the id of a bpf_link, or with the id 0 the option 'pin', a "
            "path, or 'xdp', an interface"
        )
    return AdoptOptions(
        pin=given.get("pin"),
        interface=requests.xdp_target(given["xdp"]).interface if "xdp" in given else None,
        policy=requests.policy(given.get("policy", Policy.ALERT)),
        owner=wanted_owner(given["owner"]) if "owner" in given else None,
        force=given.get("force", False),
    )


def events_options(given: Dict) -> Query:
    """Parse which events are asked for, or `BadOption`."""
    refuse_unknown(given, {"links": list, "kinds": list, "since": int, "after": int, "limit": int})
    kinds = frozenset(_strings(given, "kinds"))
    unknown = kinds - chronicle.KINDS
    if unknown:
        known = ", ".join(sorted(chronicle.KINDS))
        raise BadOption(f"there is no kind of event {min(unknown)[:80]!r}; known kinds: {known}")
    limit = given.get("limit", chronicle.MOST)
    if not 0 < limit <= chronicle.MOST:
        raise BadOption(f"the option 'limit' must be between 1 and {chronicle.MOST}, not {limit}")
    since, after = given.get("since", 0), given.get("after")
    if since < 0 or (after is not None and after < 0):
        raise BadOption("the options 'since' and 'after' are of type t: never below 0")
    links = {name: UnixMicros(0) for name in _strings(given, "links")} if "links" in given else None
    return Query(links=links, kinds=kinds, since=UnixMicros(since), after=after, limit=limit)


def statistics_options(given: Dict) -> int:
    """For how many microseconds runs are to be counted; 0 where that is not asked for. Or `BadOption`."""
    refuse_unknown(given, {"keep": int})
    keep: int = given.get("keep", 0)
    if keep and not leases.SHORTEST <= keep <= leases.LONGEST:
        between = f"between {leases.SHORTEST} and {leases.LONGEST} microseconds"
        raise BadOption(f"the option 'keep' must be {between}, not {keep}")
    return keep


def _strings(given: Dict, key: str) -> list[str]:
    values: list[Any] = given.get(key, [])
    if not all(isinstance(value, str) for value in values):
        raise BadOption(f"the option {key!r} must be of type as")
    return values


def words(given: Dict, key: str) -> Mapping[str, str]:
    """An a{ss}, empty where there is none. `BadOption`."""
    values: Mapping[str, Any] = given.get(key, {})
    if not all(isinstance(value, str) for value in values.values()):
        raise BadOption(f"the option {key!r} must be of type a{{ss}}")
    return values


def wanted_owner(given: Dict) -> Owner:
    """Parse an owner, or `BadOption`."""
    match dict(given):
        case {"uid": int(uid), **rest} if not rest and _is_number(uid):
            return requests.user(uid)
        case {"unit": str(name), **rest} if not rest:
            return requests.unit(name)
    raise BadOption(
        f"an owner is one of {{'uid': number}} and {{'unit': name}}; got the keys: {_keys(given)}"
    )


def transfer_to(given: Dict) -> tuple[Owner, bool]:
    """The new owner, and whether an administrator overrides the old one; or `BadOption`."""
    force = given.get("force", False)
    if not isinstance(force, bool):
        raise BadOption("the option 'force' must be of type bool")
    return wanted_owner({key: value for key, value in given.items() if key != "force"}), force


def _part(given: Dict) -> Part | None:
    match given.get("part"):
        case None:
            return None
        case int(offset), int(size) if 0 <= offset <= _OFF_MAX and 0 <= size <= _OFF_MAX:
            return offset, size
    raise BadProgram("'part' must be of type (tt), the offset of the program in the file and its length")


def _is_number(value: int) -> bool:
    """To Python True is a number."""
    return not isinstance(value, bool)


def _only(rest: Dict, allowed: Mapping[str, type | tuple[type, ...]]) -> bool:
    return all(key in allowed and isinstance(value, allowed[key]) for key, value in rest.items())


def refuse_unknown(given: Dict, allowed: Mapping[str, type]) -> None:
    """Refuse options that are not known, or of another type. `BadOption`."""
    for key, value in given.items():
        if key not in allowed:
            known = ", ".join(allowed) or "none"
            raise BadOption(f"there is no option {key[:80]!r} here; known options: {known}")
        wrong_bool = isinstance(value, bool) and allowed[key] is not bool
        if not isinstance(value, allowed[key]) or wrong_bool:
            raise BadOption(f"the option {key!r} must be of type {allowed[key].__name__}")


def _keys(given: Dict) -> str:
    return ", ".join(repr(key[:40]) for key in list(given)[:8]) or "none"
