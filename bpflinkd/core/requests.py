"""What a caller can ask for, parsed and typed, and the rules that need nothing but the words."""

import re
from dataclasses import dataclass
from typing import Final

from bpflinkd.core import attach_types
from bpflinkd.core.errors import BadTarget
from bpflinkd.core.model import Policy, WantedProgram
from bpflinkd.core.targets import CgroupPlace, CgroupTarget, WantedTarget, XdpMode, XdpTarget

_IFNAMSIZ: Final = 16
_PATH_MAX: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, as the bus says it."""

    uid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachRequest:
    """Make a new link."""

    caller: Caller
    name: str
    target: WantedTarget
    program: WantedProgram
    policy: Policy = Policy.ALERT
    wait: bool = False
    """Accept a target that is not there yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceRequest:
    """Swap the program of a link."""

    caller: Caller
    name: str
    program: WantedProgram
    expect: int | None = None
    """Refuse unless the link is at this generation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachRequest:
    """End a link."""

    caller: Caller
    name: str


def xdp_target(interface: str, mode: str = XdpMode.AUTO) -> XdpTarget:
    """An XDP target from words, or `BadTarget`. Rules: net/core/dev.c dev_valid_name()."""
    if not interface:
        raise BadTarget("the target names no interface; write it as xdp:eth0")
    if len(interface.encode(errors="surrogatepass")) >= _IFNAMSIZ:
        raise BadTarget(
            f"{interface[:40]!r} cannot be an interface: names have at most {_IFNAMSIZ - 1} bytes"
        )
    if interface in (".", "..") or re.search(r"[\s/:\0]", interface):
        raise BadTarget(f"{interface!r} cannot be an interface name")
    try:
        return XdpTarget(interface=interface, mode=XdpMode(mode))
    except ValueError:
        modes = ", ".join(XdpMode)
        raise BadTarget(f"{mode!r} is not an XDP mode; it is one of: {modes}") from None


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
