"""Where a link goes: targets as people name them, and the hooks that they resolve to right now."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NewType, TypeAlias

from bpflinkd.core import attach_types
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

    @property
    def attach_type(self) -> AttachType:
        return attach_types.XDP

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


@dataclass(frozen=True, slots=True, kw_only=True)
class KprobeTarget:
    """One place in a kernel function. `kprobe:tcp_connect+0x10`, `kretprobe:tcp_connect`."""

    symbol: str
    offset: int = 0
    """Bytes from the function's beginning; always 0 at return."""
    at_return: bool = False
    cookie: int = 0
    """What `bpf_get_attach_cookie` tells the program (u64)."""

    @property
    def attach_type(self) -> AttachType:
        return attach_types.KPROBE

    @property
    def kind(self) -> str:
        return "kretprobe" if self.at_return else "kprobe"

    def __str__(self) -> str:
        place = f"{self.symbol}+{self.offset:#x}" if self.offset else self.symbol
        return f"{self.kind}:{place}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KprobeMultiTarget:
    """Every kernel function whose name matches. `kprobe-multi:tcp_*`, `kretprobe-multi:tcp_*`."""

    pattern: str
    """Shell pattern: `*`, `?`, `[...]`."""
    at_return: bool = False
    cookie: int = 0
    """What `bpf_get_attach_cookie` tells the program (u64), the same for all functions."""

    @property
    def attach_type(self) -> AttachType:
        return attach_types.KPROBE_MULTI

    @property
    def kind(self) -> str:
        return "kretprobe-multi" if self.at_return else "kprobe-multi"

    def __str__(self) -> str:
        return f"{self.kind}:{self.pattern}"


Target: TypeAlias = XdpTarget | CgroupTarget | KprobeTarget | KprobeMultiTarget


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


@dataclass(frozen=True, slots=True)
class KprobeHook:
    """The hook that a kprobe target resolves to right now: its function, in the kernel or a module."""

    module: str = ""
    """Empty where the function is in the kernel itself."""
    load: int = 0
    """Which loading of the module it is: the inode number of /sys/module/NAME. 0 in the kernel itself."""

    def __str__(self) -> str:
        return f"module {self.module}" if self.module else "the kernel"


@dataclass(frozen=True, slots=True)
class KprobeMultiHook:
    """The functions that a kprobe-multi target resolves to. Which they are is settled at the attach."""

    functions: int = field(compare=False)
    """How many."""

    def __str__(self) -> str:
        return f"{self.functions} functions"


Hook: TypeAlias = XdpHook | CgroupHook | KprobeHook | KprobeMultiHook
