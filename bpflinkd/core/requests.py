"""What a caller can ask for, parsed and typed, and the rules that need nothing but the words."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bpflinkd.core import attach_types, units
from bpflinkd.core.callers import Caller, Owner, Unit, User
from bpflinkd.core.errors import BadOption, BadTarget
from bpflinkd.core.ids import LinkId, Micros
from bpflinkd.core.judging import Condition
from bpflinkd.core.maps import AS_USUAL, MapChoice, MapWishes
from bpflinkd.core.model import BY_CALLER, Lifetime, Origin, Outcome, Policy
from bpflinkd.core.sources import Constants, WantedProgram
from bpflinkd.core.targets import (
    CgroupPlace,
    CgroupTarget,
    KprobeMultiTarget,
    KprobeTarget,
    WantedTarget,
    XdpMode,
    XdpTarget,
)

_IFNAMSIZ: Final = 16
_ALTIFNAMSIZ: Final = 128
_PATH_MAX: Final = 4096
_KSYM_NAME_LEN: Final = 512
_U64_MAX: Final = 2**64 - 1
_MAX_UID: Final = 2**32 - 2
GRACE: Final = Micros(10_000_000)
"""Microseconds for which a link of the lifetime `owner` may be claimed, where nobody says otherwise."""
_MAX_GRACE: Final = 24 * 3_600_000_000
_MIN_TRIAL: Final = 1_000_000
_MAX_TRIAL: Final = 24 * 3_600_000_000
_LONGEST_MESSAGE: Final = 500
_MOST_WORDS: Final = 4096
_SYMBOL: Final = re.compile(r"[A-Za-z_.$][\w.$]*", re.ASCII)
_PATTERN: Final = re.compile(r"[\w.$*?!\[\]-]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachRequest:
    """Make a new link."""

    caller: Caller
    name: str
    target: WantedTarget
    program: WantedProgram
    policy: Policy = Policy.ALERT
    lifetime: Lifetime = Lifetime.PINNED
    wait: bool = False
    """Accept a target that is not there yet."""
    owner: Owner | None = None
    """None for the caller's user."""
    force: bool = False
    """Also for an owner who has no grant. Administrators only."""
    held: "HeldBy | None" = None
    """For the lifetime `owner`."""
    origin: Origin = BY_CALLER
    """For links that a file declares. They are made also where a stranger holds the hook."""
    message: str = ""
    """Why, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceRequest:
    """Swap the program of a link."""

    caller: Caller
    name: str
    program: WantedProgram
    expect: int | None = None
    """Refuse unless the link is at this generation."""
    force: bool = False
    """Whoever owns it. Administrators only."""
    ours: bool = False
    """Asked by ourselves, for a file or for what comes after its holder: whoever owns it."""
    origin: Origin | None = None
    """The link's origin from then on, where a file asks; None leaves it."""
    message: str = ""
    """Why, in words."""
    maps: MapWishes = AS_USUAL
    """What becomes of the maps of the running program."""
    confirm_within: Micros | None = None
    """Put it on trial: the generation before comes back unless it is confirmed in time."""
    confirm_if: tuple[Condition, ...] = ()
    """It is confirmed by itself where all of these hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackRequest:
    """Let a generation before run again."""

    caller: Caller
    name: str
    generation: int | None = None
    """None for the one before the present one."""
    expect: int | None = None
    force: bool = False
    ours: bool = False
    """As for `ReplaceRequest`."""
    message: str = ""
    maps: MapWishes = AS_USUAL
    """Of maps of the running program, where the program must be loaded again."""
    confirm_within: Micros | None = None
    confirm_if: tuple[Condition, ...] = ()
    left: Outcome = Outcome.ROLLED_BACK
    """What becomes of the present generation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachRequest:
    """End a link."""

    caller: Caller
    name: str
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRequest:
    """Make somebody else the owner of a link."""

    caller: Caller
    name: str
    owner: Owner
    force: bool = False
    """Whoever owns it, and also to one who has no grant. Administrators only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptRequest:
    """Own what somebody else attached. One of the three says what."""

    caller: Caller
    name: str
    link_id: LinkId | None = None
    pin: str | None = None
    """Of a bpf_link."""
    interface: str | None = None
    """On which a program is attached by netlink."""
    policy: Policy = Policy.ALERT
    owner: Owner | None = None
    """None for the caller's user."""
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBy:
    """With what a link of the lifetime `owner` lives, besides the caller's connection."""

    bus: str
    """The id of the bus that the caller's name is of."""
    grace: Micros = GRACE
    fallback: WantedProgram | None = None


def owner(given: str) -> Owner:
    """An owner from its text: `user:812`, `unit:tw-agent.service`. `BadOption`."""
    kind, _, value = given.partition(":")
    if kind == "unit":
        return unit(value)
    if kind == "user" and value.isascii() and value.isdecimal():
        return user(int(value))
    raise BadOption(f"{given[:80]!r} is not an owner; write it as user:812 or unit:tw-agent.service")


def user(uid: int) -> User:
    """A user as an owner, or `BadOption`. The highest number means nobody to the kernel."""
    if not 0 <= uid <= _MAX_UID:
        raise BadOption(f"{uid} is not a uid, a number from 0 to {_MAX_UID}")
    return User(uid=uid)


def unit(name: str) -> Unit:
    """A unit as an owner, or `BadOption`. It must be one that a process can be in."""
    if "@." in name:
        raise BadOption(f"{name[:80]!r} is a template, which no process is in; name one of its instances")
    if not units.is_valid(name) or name.endswith(".slice"):
        raise BadOption(f"{name[:80]!r} is not the name of a unit; write it as tw-agent.service")
    return Unit(name=name)


def message(text: str) -> str:
    """Why something is done, in words, or `BadOption`."""
    if len(text) > _LONGEST_MESSAGE:
        raise BadOption(f"the message has {len(text)} characters; at most {_LONGEST_MESSAGE} are kept")
    if not text.isprintable():
        raise BadOption("the message holds characters that cannot be printed, such as a line break")
    return text


def map_wishes(choices: Mapping[str, str], *, fresh: bool) -> MapWishes:
    """What becomes of maps, from words, or `BadOption`."""
    found = []
    for name, word in choices.items():
        try:
            found.append((name, MapChoice(word)))
        except ValueError:
            raise BadOption(
                f"{word[:80]!r} is nothing that map {name[:80]!r} can be; it is 'keep' or 'fresh'"
            ) from None
    _check_words("choices of maps", choices)
    return MapWishes(fresh=fresh, choices=tuple(found))


def constants(values: Mapping[str, str]) -> Constants:
    """Values of global constants, or `BadOption`."""
    _check_words("constants", values)
    return tuple(sorted(values.items()))


def _check_words(what: str, words: Mapping[str, str]) -> None:
    if sum(len(key) + len(value) for key, value in words.items()) > _MOST_WORDS:
        raise BadOption(f"the {what} have more than {_MOST_WORDS} characters together; give fewer")


def grace(micros: int) -> Micros:
    """A grace time in microseconds, or `BadOption`."""
    if not 0 <= micros <= _MAX_GRACE:
        raise BadOption(
            f"the grace time {micros} us is not between 0 and {_MAX_GRACE // 3_600_000_000} hours"
        )
    return Micros(micros)


def confirm_within(micros: int) -> Micros:
    """The time to confirm in microseconds, or `BadOption`."""
    if not _MIN_TRIAL <= micros <= _MAX_TRIAL:
        raise BadOption(
            f"the time to confirm {micros} us is not between {_MIN_TRIAL // 1_000_000} s and "
            f"{_MAX_TRIAL // 3_600_000_000} hours"
        )
    return Micros(micros)


def xdp_target(interface: str, mode: str = XdpMode.AUTO) -> XdpTarget:
    """An XDP target from words, or `BadTarget`. Rules: net/core/dev.c dev_valid_name()."""
    if not interface:
        raise BadTarget("the target names no interface; write it as xdp:eth0")
    if len(interface.encode(errors="surrogatepass")) >= _ALTIFNAMSIZ:
        raise BadTarget(
            f"{interface[:40]!r} cannot be an interface: names have at most {_IFNAMSIZ - 1} bytes, "
            f"alternative names {_ALTIFNAMSIZ - 1}"
        )
    if interface in (".", "..") or re.search(r"[\s/:\0]", interface):
        raise BadTarget(f"{interface!r} cannot be an interface name")
    return XdpTarget(interface=interface, mode=xdp_mode(mode))


def xdp_mode(word: str) -> XdpMode:
    """An XDP mode from its word, or `BadTarget`."""
    try:
        return XdpMode(word)
    except ValueError:
        modes = ", ".join(XdpMode)
        raise BadTarget(f"{word!r} is not an XDP mode; it is one of: {modes}") from None


def policy(word: str) -> Policy:
    """A policy from its word, or `BadOption`."""
    try:
        return Policy(word)
    except ValueError:
        raise BadOption(f"{word[:80]!r} is not a policy; it is one of: {', '.join(Policy)}") from None


def lifetime(word: str) -> Lifetime:
    """A lifetime from its word, or `BadOption`."""
    try:
        return Lifetime(word)
    except ValueError:
        raise BadOption(f"{word[:80]!r} is not a lifetime; it is one of: {', '.join(Lifetime)}") from None


def cgroup_target(path: str, attach_type: str | None = None) -> CgroupTarget | CgroupPlace:
    """A cgroup target from words, or `BadTarget`. The path begins at the cgroup v2 root."""
    if not path.startswith("/"):
        raise BadTarget(
            f"the cgroup path {path[:80]!r} must begin with a slash, which is the root of cgroup v2; "
            "write it as cgroup:/workload.slice"
        )
    if len(path.encode(errors="surrogatepass")) >= _PATH_MAX:
        raise BadTarget(f"the cgroup path is longer than {_PATH_MAX - 1} bytes")
    if not path.isprintable() or any(part in (".", "..") for part in path.split("/")):
        raise BadTarget(f"the cgroup path {path[:80]!r} holds '.', '..' or unprintable characters")
    clean = "/" + "/".join(part for part in path.split("/") if part)
    if attach_type is None:
        return CgroupPlace(path=clean)
    kind = attach_types.by_name(attach_type)
    if kind is attach_types.XDP:
        raise BadTarget("the attach type xdp is for interfaces; a cgroup does not take it")
    return CgroupTarget(path=clean, attach_type=kind)


def kprobe_target(symbol: str, *, offset: int = 0, at_return: bool = False, cookie: int = 0) -> KprobeTarget:
    """A kprobe target from words, or `BadTarget`. Names: scripts/kallsyms.c, KSYM_NAME_LEN."""
    kind = "kretprobe" if at_return else "kprobe"
    if not symbol:
        raise BadTarget(f"the target names no function; write it as {kind}:tcp_connect")
    if len(symbol) >= _KSYM_NAME_LEN or not _SYMBOL.fullmatch(symbol):
        raise BadTarget(
            f"{symbol[:80]!r} cannot be a kernel function: names are letters, digits, _ . and $, "
            f"at most {_KSYM_NAME_LEN - 1}; write it as {kind}:tcp_connect"
        )
    if at_return and offset:
        raise BadTarget(f"kretprobe:{symbol} takes no offset: it is hit where the function returns")
    if not 0 <= offset <= _U64_MAX:
        raise BadTarget(f"the offset {offset} into {symbol} is not a number of bytes")
    return KprobeTarget(symbol=symbol, offset=offset, at_return=at_return, cookie=_cookie(cookie))


def kprobe_multi_target(pattern: str, *, at_return: bool = False, cookie: int = 0) -> KprobeMultiTarget:
    """A kprobe-multi target from words, or `BadTarget`."""
    if len(pattern) >= _KSYM_NAME_LEN or not _PATTERN.fullmatch(pattern):
        raise BadTarget(
            f"{pattern[:80]!r} is not a pattern of kernel functions; write it as kprobe-multi:tcp_*"
        )
    return KprobeMultiTarget(pattern=pattern, at_return=at_return, cookie=_cookie(cookie))


def _cookie(value: int) -> int:
    if not 0 <= value <= _U64_MAX:
        raise BadTarget(f"the cookie {value} is not a number from 0 to 2^64 - 1")
    return value
