"""Grants: who may attach what where, without being root. Pure.

A grant gives nothing that it does not name. What a holder may put on a hook is loaded with no more
privileges than the grant says: see `Confinement`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from bpflinkd.core import attach_types, patterns
from bpflinkd.core.attach_types import AttachType, ProgramType
from bpflinkd.core.callers import Caller, Group, Unit, User
from bpflinkd.core.model import Confinement, Policy
from bpflinkd.core.sources import (
    Builtin,
    ObjectFile,
    ObjectImage,
    PinnedProgram,
    ProgramById,
    ProgramFd,
    SourceFile,
    SourceText,
    WantedProgram,
)
from bpflinkd.core.targets import (
    CgroupPlace,
    CgroupTarget,
    KprobeMultiTarget,
    KprobeTarget,
    WantedTarget,
    XdpTarget,
)

SOURCES: Final = ("object", "source", "fd", "builtin")
"""Sources that can be granted. A pin or an id is opened by the daemon, so it is root's."""
MAX_LINKS: Final = 8
MAX_MAPS: Final = 32
MAX_MEMORY: Final = 64 << 20
"""Bytes of the maps of one link."""
_PROGRAM_TYPES: Final = {
    "xdp": frozenset({ProgramType.XDP}),
    "cgroup": frozenset(known.program_type for known in attach_types.CGROUP_ATTACH_TYPES),
}
"""By kind; all others take programs of kprobes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantedTarget:
    """A pattern of targets: a kind, where, and for cgroups the attach type."""

    kind: str
    """`xdp`, `cgroup`, `kprobe`, `kretprobe`, `kprobe-multi` or `kretprobe-multi`."""
    place: str
    """Glob of interfaces, cgroup paths (part by part) or functions."""
    attach_type: AttachType | None = None
    """None for every attach type."""

    @property
    def program_types(self) -> frozenset[ProgramType]:
        """What such targets take."""
        if self.attach_type is not None:
            return frozenset({self.attach_type.program_type})
        return _PROGRAM_TYPES.get(self.kind, frozenset({ProgramType.KPROBE}))

    def covers(self, target: WantedTarget) -> bool:
        """Whether this target is one of them.

        Of a cgroup whose attach type is not known yet only the path counts: ask again once it is.
        """
        match target:
            case XdpTarget(interface=interface):
                return self.kind == "xdp" and patterns.matches(self.place, interface)
            case CgroupPlace(path=path):
                return self.kind == "cgroup" and self._covers_path(path)
            case CgroupTarget(path=path, attach_type=attach_type):
                typed = self.attach_type in (None, attach_type)
                return self.kind == "cgroup" and typed and self._covers_path(path)
            case KprobeTarget(symbol=symbol):
                return self.kind == target.kind and patterns.matches(self.place, symbol)
            case KprobeMultiTarget(pattern=pattern):
                # A pattern is covered by itself only: whether one covers another is not for guessing.
                return self.kind == target.kind and self.place == pattern

    def _covers_path(self, path: str) -> bool:
        # Of the root no part is left, so that /* means what is below it, as in the shell.
        ours, theirs = (list(filter(None, whole.split("/"))) for whole in (self.place, path))
        return len(ours) == len(theirs) and all(map(patterns.matches, ours, theirs))

    def __str__(self) -> str:
        return f"{self.kind}:{self.place}" + (f" {self.attach_type}" if self.attach_type else "")


Holder: TypeAlias = User | Group | Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What one user, group or unit may do."""

    holder: Holder
    targets: tuple[GrantedTarget, ...]
    sources: frozenset[str] = frozenset(SOURCES)
    program_types: frozenset[ProgramType] | None = None
    """None for whatever the targets take."""
    policies: frozenset[Policy] = frozenset({Policy.ALERT})
    kernel_memory: bool = False
    """The explicit word for programs that can read all of the kernel's memory: kprobes, and any other
    program that calls bpf_probe_read_kernel() and the like."""
    max_links: int = MAX_LINKS
    """Links that one owner may have on these targets at a time: of a group each member."""
    max_maps: int = MAX_MAPS
    """Of one link."""
    max_memory: int = MAX_MEMORY
    """Bytes, of one link's maps together."""
    file: str = ""
    """Path of the file that gives it."""
    line: int = 0
    """Where it begins there, from 1."""

    @property
    def confinement(self) -> Confinement:
        """How programs under this grant are loaded."""
        return Confinement(kernel_memory=self.kernel_memory, maps=self.max_maps, memory=self.max_memory)

    @property
    def place(self) -> str:
        """For messages: `FILE:LINE`."""
        return f"{self.file}:{self.line}"

    def covers(self, target: WantedTarget) -> bool:
        """Whether it is about this target at all."""
        return any(granted.covers(target) for granted in self.targets)

    def lacks(self, target: WantedTarget, program: WantedProgram, policy: Policy | None) -> str:
        """What it does not allow, as the end of a sentence; empty where it allows all of it.

        Args:
            policy: None where it stays as it is.
        """
        source = source_word(program)
        kind = None if isinstance(target, CgroupPlace) else target.attach_type.program_type
        if source not in self.sources:
            return f"programs that come from {source}"
        if kind is not None and self.program_types is not None and kind not in self.program_types:
            return f"programs of type {kind.name.lower()}"
        if policy is not None and policy not in self.policies:
            return f"the policy {policy}"
        traces = not isinstance(target, CgroupPlace) and target.attach_type in attach_types.KPROBES
        if traces and not self.kernel_memory:
            return "programs that can read kernel memory, as those of kprobes can (kernel-memory = true)"
        return ""


def source_word(program: WantedProgram) -> str:
    """A source as grants name it: one of SOURCES, `pin` or `id`."""
    match program:
        case ObjectFile() | ObjectImage():
            return "object"
        case SourceFile() | SourceText():
            return "source"
        case ProgramFd():
            return "fd"
        case Builtin():
            return "builtin"
        case PinnedProgram():
            return "pin"
        case ProgramById():
            return "id"


Grants: TypeAlias = tuple[Grant, ...]


def of(grants: Iterable[Grant], caller: Caller) -> Grants:
    """The grants that this caller has."""
    return tuple(grant for grant in grants if caller.is_one_of(grant.holder))
