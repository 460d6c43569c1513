"""What can happen: tidings from the watchers, and the news that the manager gives out."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from bpflinkd.core.callers import Actor
from bpflinkd.core.ids import UnixMicros
from bpflinkd.core.model import Generation, LinkView, Occupant, State
from bpflinkd.core.targets import IfIndex

# Tidings: a watcher saw something. They are hints; the kernel is asked before anything is judged.


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceChanged:
    """RTM_NEWLINK: an interface appeared, was renamed, or its XDP program changed by netlink."""

    ifindex: IfIndex
    name: str
    altnames: tuple[str, ...] = ()
    """All of them."""
    mac: str = ""
    """As in `patterns.Interface`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceGone:
    """RTM_DELLINK: an interface was deleted or left for another network namespace."""

    ifindex: IfIndex
    name: str
    altnames: tuple[str, ...] = ()
    moved: bool
    """True where it lives on in another network namespace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleChanged:
    """A kernel module was loaded or removed."""

    module: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupAppeared:
    """A cgroup that matches a followed path was made, or was there when the watch looked."""

    path: str
    """From the root of the cgroup v2 hierarchy, begins with a slash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupGone:
    """A cgroup that matches a followed path was removed."""

    path: str
    """From the root of the cgroup v2 hierarchy, begins with a slash."""


Tiding: TypeAlias = InterfaceChanged | InterfaceGone | ModuleChanged | CgroupAppeared | CgroupGone


class ChangeKind(StrEnum):
    """The kinds of foreign change that we tell apart."""

    LINK_UPDATED = "link-updated"
    """Somebody swapped the program behind our bpf_link."""
    LINK_DETACHED = "link-detached"
    """Somebody detached our bpf_link."""
    PROGRAM_ATTACHED = "program-attached"
    """Somebody's program is on our hook."""
    SLOT_CHANGED = "slot-changed"
    """Somebody put another program into the slot of a kprobe."""
    SLOT_EMPTIED = "slot-emptied"
    """Somebody emptied the slot of a kprobe: its hits run nothing."""
    TARGET_GONE = "target-gone"
    """The interface, cgroup or kernel function was removed, renamed or moved away."""
    TARGET_BACK = "target-back"
    """The interface, cgroup or kernel function is there again."""


# News: for D-Bus signals and the journal, in the order in which it happened.


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkAdded:
    """A link was made."""

    view: LinkView


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRemoved:
    """A link ended; `reason` says by whom or why."""

    view: LinkView
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramReplaced:
    """A link runs a new generation."""

    view: LinkView
    old: Generation


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkAmended:
    """What is said of a link is another: its owner, policy, lifetime or where it is declared."""

    view: LinkView


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerOverridden:
    """An administrator changed a link that another owns."""

    view: LinkView
    """With the owner that was overridden; for a link that ended, as it was last."""
    by: Actor
    verb: str
    """What was done: `detached`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """A link's state, or the reason for it, is another one."""

    view: LinkView
    old: State


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignChange:
    """Somebody else touched a hook of ours."""

    view: LinkView
    kind: ChangeKind
    sentence: str
    by: Occupant | None
    """The program found there, with those who hold it, where there is one."""
    source: str
    """The watch source that led to it: `netlink`, `uevent`, `sweep`, `start`."""
    seen: UnixMicros


@dataclass(frozen=True, slots=True, kw_only=True)
class Healed:
    """Something that a crash left half done was finished or taken back."""

    name: str
    sentence: str


News: TypeAlias = (
    LinkAdded
    | LinkRemoved
    | LinkAmended
    | OwnerOverridden
    | ProgramReplaced
    | StateChanged
    | ForeignChange
    | Healed
)
