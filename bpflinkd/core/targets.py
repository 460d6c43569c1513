"""Where a link goes: targets as people name them, and the hooks that they resolve to right now."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType, TypeAlias

from bpflinkd.core.attach_types import AttachType

IfIndex = NewType("IfIndex", int)
"""Interface index in the daemon's network namespace."""
CgroupId = NewType("CgroupId", int)
"""Kernel id of a cgroup (u64): the inode number of its directory."""


class XdpMode(StrEnum):
    """How an XDP program is run."""

    AUTO = "auto"
    """Native where the driver can, generic otherwise: the kernel chooses."""
    NATIVE = "native"
    GENERIC = "generic"
    OFFLOAD = "offload"


@dataclass(frozen=True, slots=True, kw_only=True)
class XdpTarget:
    """An interface's XDP hook. `xdp:eth0`."""

    interface: str
    mode: XdpMode = XdpMode.AUTO

    def __str__(self) -> str:
        return f"xdp:{self.interface}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupTarget:
    """A cgroup v2 directory and an attach type. `cgroup:/workload.slice egress`."""

    path: str
    """From the root of the cgroup v2 hierarchy, begins with a slash."""
    attach_type: AttachType

    def __str__(self) -> str:
        return f"cgroup:{self.path} {self.attach_type}"


Target: TypeAlias = XdpTarget | CgroupTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupPlace:
    """A cgroup target whose attach type the program has yet to tell."""

    path: str

    def __str__(self) -> str:
        return f"cgroup:{self.path}"


WantedTarget: TypeAlias = Target | CgroupPlace
"""A target as a caller gives it."""


@dataclass(frozen=True, slots=True)
class XdpHook:
    """The hook that an XDP target resolves to right now."""

    ifindex: IfIndex

    def __str__(self) -> str:
        return f"ifindex {self.ifindex}"


@dataclass(frozen=True, slots=True)
class CgroupHook:
    """The hook that a cgroup target resolves to right now."""

    cgroup_id: CgroupId

    def __str__(self) -> str:
        return f"cgroup id {self.cgroup_id}"


Hook: TypeAlias = XdpHook | CgroupHook
