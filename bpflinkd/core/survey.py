"""What is attached and pinned on a host, whoever did it: facts, as the kernel tells them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from bpflinkd.core.ids import LinkId, ProgId
from bpflinkd.core.model import Process, ProgramInfo
from bpflinkd.core.targets import CgroupTarget, XdpTarget


class PinKind(StrEnum):
    """What a pin is of."""

    LINK = "bpf_link"
    PROGRAM = "program"
    OTHER = "other"
    """A map, or something that could not be opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A program on an XDP hook of our network namespace, or on a cgroup."""

    target: XdpTarget | CgroupTarget
    program: ProgramInfo
    link_id: LinkId | None
    """The bpf_link that attaches it; None where it is attached by netlink or PROG_ATTACH."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenLink:
    """A bpf_link of the host."""

    id: LinkId
    kind: str
    """As bpftool calls it: `xdp`, `cgroup`, `tracing`; `type 99` where we do not know it."""
    prog_id: ProgId
    dead: bool
    """It is detached, or what it was attached to is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """A file of a bpffs."""

    path: str
    """Absolute. Bytes that are not UTF-8 are lone surrogates, as os.fsdecode() has them."""
    kind: PinKind
    id: int
    """Kernel id of the link or program; 0 for others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """A host at about one moment: its parts were read one after the other."""

    pid: int
    """Of the daemon."""
    cgroup_root: str
    """Where cgroup v2 is mounted; empty where it is not."""
    bpffs: str
    """Where a bpffs is mounted; empty where none is."""
    attached: tuple[Attached, ...]
    links: tuple[SeenLink, ...]
    pins: tuple[Pin, ...]
    link_holders: Mapping[LinkId, tuple[Process, ...]]
    """Processes that hold a bpf_link open, by link; the daemon among them."""
    program_holders: Mapping[ProgId, tuple[Process, ...]]
    """The same by program."""
    cut: tuple[str, ...]
    """What was not looked at, and why: a sentence each."""
