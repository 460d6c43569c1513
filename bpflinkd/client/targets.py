"""Where a program is attached, as a client says it."""

# ruff: noqa: PLC0415  # what parses a target is imported for text only

from typing import NamedTuple, TypeAlias

from bpflinkd.client.errors import BadInput


class XdpTarget(NamedTuple):
    """An interface's XDP hook; the daemon chooses the mode where none is given."""

    interface: str
    mode: str | None = None
    """`auto`, `native`, `generic` or `offload`."""


class CgroupTarget(NamedTuple):
    """A cgroup v2 directory; the program tells the attach type where none is given."""

    path: str
    """From the root of cgroup v2: `/web.slice`."""
    attach_type: str | None = None


class KprobeTarget(NamedTuple):
    """A kernel function, or with `multi` a pattern of functions; where they begin or return."""

    function: str
    offset: int = 0
    """Bytes."""
    at_return: bool = False
    multi: bool = False
    cookie: int = 0
    """What bpf_get_attach_cookie() tells the program."""


Target: TypeAlias = XdpTarget | CgroupTarget | KprobeTarget


def parse(
    text: str, *, mode: str | None = None, attach_type: str | None = None, cookie: int | None = None
) -> Target:
    """`xdp:eth0`, `cgroup:/web.slice egress`, `kprobe:tcp_connect+0x10` and the like. `BadInput`."""
    from bpflinkd.core import targets, written
    from bpflinkd.core.errors import BadTarget
    from bpflinkd.core.patterns import CgroupPattern, InterfacePattern

    try:
        found = written.target(text, mode=mode, attach_type=attach_type, cookie=cookie)
    except BadTarget as error:
        raise BadInput(str(error)) from None
    match found:
        case targets.XdpTarget(interface=interface):
            return XdpTarget(interface, mode)
        case targets.CgroupTarget(path=path, attach_type=kind):
            return CgroupTarget(path, kind.name)
        case targets.CgroupPlace(path=path):
            return CgroupTarget(path)
        case targets.KprobeTarget(symbol=symbol, offset=offset, at_return=at_return):
            return KprobeTarget(symbol, offset, at_return, False, cookie or 0)
        case targets.KprobeMultiTarget(pattern=pattern, at_return=at_return):
            return KprobeTarget(pattern, 0, at_return, True, cookie or 0)
        case InterfacePattern() | CgroupPattern():
            raise BadInput(
                f"{str(found)!r} is a pattern, and a link has one target; what many share is declared as a "
                "template, in a file of /etc/bpflinkd/links.d (docs/links.md)"
            )
