"""Targets as people write them, on the command line and in files. Pure."""

import difflib
from typing import Final

from bpflinkd.core import attach_types, patterns, requests
from bpflinkd.core.errors import BadTarget
from bpflinkd.core.patterns import Pattern
from bpflinkd.core.targets import WantedTarget, XdpMode

KPROBE_KINDS: Final = ("kprobe", "kretprobe", "kprobe-multi", "kretprobe-multi")
KINDS: Final = ("xdp", "cgroup", *KPROBE_KINDS)


def target(
    text: str, *, mode: str | None = None, attach_type: str | None = None, cookie: int | None = None
) -> WantedTarget | Pattern:
    """Parse `xdp:eth0`, `cgroup:/path egress`, `kprobe:function+0x10` and the like, or `BadTarget`.

    A wildcard in the name of an interface or the path of a cgroup makes it a pattern.
    """
    kind, colon, rest = text.partition(":")
    if not colon or kind not in KINDS or not rest:
        close = difflib.get_close_matches(kind, KINDS, n=1) if colon else []
        meant = f"did you mean {close[0]}:{rest or 'NAME'}?" if close else ""
        raise BadTarget(
            f"{text[:120]!r} is not a target; write xdp:INTERFACE, cgroup:/PATH, kprobe:FUNCTION, "
            "kretprobe:FUNCTION, kprobe-multi:PATTERN or kretprobe-multi:PATTERN; "
            f"{meant or 'such as xdp:eth0 or cgroup:/web.slice'}"
        )
    if mode is not None and kind != "xdp":
        raise BadTarget(f"a mode is for xdp targets; a {kind} has none")
    if attach_type is not None and kind != "cgroup":
        raise BadTarget(f"an attach type is for cgroup targets; {kind} says it already")
    if cookie is not None and kind not in KPROBE_KINDS:
        raise BadTarget("a cookie is for kprobe targets; other programs are not told one")
    match kind:
        case "xdp":
            if patterns.is_pattern(rest):
                return patterns.interface_pattern(rest, mode=mode or XdpMode.AUTO)
            return requests.xdp_target(rest, mode or XdpMode.AUTO)
        case "cgroup":
            return _cgroup(rest, attach_type)
        case _:
            return _kprobe(kind, rest, cookie or 0)


def _kprobe(kind: str, rest: str, cookie: int) -> WantedTarget:
    """`FUNCTION`, `FUNCTION+OFFSET` or a pattern."""
    at_return = kind.startswith("kret")
    if kind.endswith("-multi"):
        return requests.kprobe_multi_target(rest, at_return=at_return, cookie=cookie)
    function, plus, number = rest.partition("+")
    if plus and at_return:
        raise BadTarget(f"{kind}:{function} takes no offset: it is hit where the function returns")
    try:
        offset = int(number, 0) if plus else 0
    except ValueError:
        raise BadTarget(f"the offset {number!r} is not a number of bytes; write it as 16 or 0x10") from None
    return requests.kprobe_target(function, offset=offset, at_return=at_return, cookie=cookie)


def _cgroup(rest: str, attach_type: str | None) -> WantedTarget | Pattern:
    """`/path` or, as `list` prints it, `/path egress`. A path may hold spaces."""
    path, space, word = rest.rpartition(" ")
    # A word with a slash is the rest of a path that holds a space.
    if not space or "/" in word:
        path = rest
    elif attach_type is None:
        attach_type = word
    elif word in {known.name for known in attach_types.CGROUP_ATTACH_TYPES}:
        raise BadTarget(f"the target says {word} already; leave the attach type out")
    else:
        path = rest
    if patterns.is_pattern(path):
        return patterns.cgroup_pattern(path, attach_type)
    return requests.cgroup_target(path, attach_type)
