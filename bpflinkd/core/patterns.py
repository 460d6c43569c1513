"""Patterns of targets: which interfaces and cgroups a template is for, now and later. Pure."""

import fnmatch
import functools
import hashlib
import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from bpflinkd.core import names, requests
from bpflinkd.core.attach_types import AttachType
from bpflinkd.core.errors import BadName, BadTarget
from bpflinkd.core.targets import CgroupPlace, CgroupTarget, IfIndex, WantedTarget, XdpMode, XdpTarget

_WILD: Final = re.compile(r"[*?\[]")
_UNFIT: Final = re.compile(r"[^A-Za-z0-9]")
_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5,19}")
_DIGEST: Final = 12
"""Hexadecimal digits that tell two matches apart whose names cannot."""
MAX_TEMPLATE: Final = 64
"""Bytes of a template's name: what it makes is called after it and the match."""


def is_pattern(text: str) -> bool:
    """Whether a name holds a wildcard of the shell: `*`, `?` or `[...]`."""
    return _WILD.search(text) is not None


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))


def matches(pattern: str, text: str) -> bool:
    """Whether text is what a pattern of the shell means; upper and lower case differ."""
    return _compiled(pattern).fullmatch(text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What a template can know an interface by."""

    ifindex: IfIndex
    name: str
    altnames: tuple[str, ...] = ()
    mac: str = ""
    """Lower case, two digits a byte, with colons; empty where it has none."""
    driver: str = ""
    """As `ethtool -i` has it; empty where it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfacePattern:
    """Interfaces for which all that is given holds. `xdp:veth*`."""

    name: str = "*"
    altname: str = ""
    mac: str = ""
    driver: str = ""
    mode: XdpMode = XdpMode.AUTO

    def matches(self, interface: Interface) -> bool:
        """Whether this interface is one of them."""
        return (
            matches(self.name, interface.name)
            and (not self.altname or any(matches(self.altname, name) for name in interface.altnames))
            and (not self.mac or matches(self.mac, interface.mac))
            and (not self.driver or matches(self.driver, interface.driver))
        )

    def __str__(self) -> str:
        more = (("altname", self.altname), ("mac", self.mac), ("driver", self.driver))
        return f"xdp:{self.name}" + "".join(f" {key} {value}" for key, value in more if value)


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupPattern:
    """Cgroups whose path matches, each part by itself as in the shell. `cgroup:/system.slice/*.service`."""

    path: str
    attach_type: AttachType | None = None
    """None where the program tells."""

    def matches(self, path: str) -> bool:
        """Whether the cgroup at this path is one of them."""
        ours, theirs = self.path.split("/"), path.split("/")
        return len(ours) == len(theirs) and all(map(matches, ours, theirs))

    @property
    def prefix(self) -> str:
        """The part before the first wildcard, which all of them share; ends with a slash."""
        parts = self.path.split("/")
        fixed = next(at for at, part in enumerate(parts) if is_pattern(part))
        return "/".join(parts[:fixed]) + "/"

    def __str__(self) -> str:
        return f"cgroup:{self.path}" + (f" {self.attach_type}" if self.attach_type else "")


Pattern: TypeAlias = InterfacePattern | CgroupPattern


def interface_pattern(
    name: str = "*", *, altname: str = "", mac: str = "", driver: str = "", mode: str = XdpMode.AUTO
) -> InterfacePattern:
    """An interface pattern from words, or `BadTarget`."""
    for text in (name, altname, driver):
        if re.search(r"[\s/\0]", text):
            raise BadTarget(f"{text!r} cannot match an interface")
    mac = mac.lower()
    if mac and not is_pattern(mac) and not _MAC.fullmatch(mac):
        raise BadTarget(f"{mac!r} is not a MAC address; write it as 02:00:5e:10:00:00")
    checked = requests.xdp_mode(mode)
    return InterfacePattern(name=name, altname=altname, mac=mac, driver=driver, mode=checked)


def cgroup_pattern(path: str, attach_type: str | None = None) -> CgroupPattern:
    """A cgroup pattern from words, or `BadTarget`."""
    if "**" in path:
        raise BadTarget(f"{path!r}: ** is not known here; each * matches within one part of the path")
    checked = requests.cgroup_target(path, attach_type)
    if isinstance(checked, CgroupTarget):
        return CgroupPattern(path=checked.path, attach_type=checked.attach_type)
    return CgroupPattern(path=checked.path)


def target_on(pattern: Pattern, match: Interface | str) -> WantedTarget:
    """The target of the link that a template makes for one match."""
    if isinstance(pattern, InterfacePattern):
        assert isinstance(match, Interface)
        return XdpTarget(interface=match.name, mode=pattern.mode)
    assert isinstance(match, str)
    if pattern.attach_type is None:
        return CgroupPlace(path=match)
    return CgroupTarget(path=match, attach_type=pattern.attach_type)


def link_name(template: str, pattern: Pattern, match: Interface | str) -> str:
    """`TEMPLATE@MATCH`: the interface, or the cgroup's path below the part that all matches share.

    A slash becomes a colon. Where a name cannot hold what is left, or not so much of it, a hash of
    the match makes it unique.
    """
    if isinstance(pattern, InterfacePattern):
        assert isinstance(match, Interface)
        whole = match.name
        shown = whole
    else:
        assert isinstance(match, str)
        whole = match.removeprefix(pattern.prefix)
        shown = whole.replace("/", ":") if ":" not in whole else whole
    name = f"{template}@{shown}"
    try:
        return names.check(name)
    except BadName:
        digest = hashlib.sha256(whole.encode(errors="surrogatepass")).hexdigest()[:_DIGEST]
        begin, end = f"{template}@", f"+{digest}"
        encoded = len(names.encode(begin) + names.encode(end))
        room = min(names.MAX_BYTES - len(begin + end), names.MAX_ENCODED - encoded)
        return begin + _UNFIT.sub("", shown)[: max(0, room)] + end
