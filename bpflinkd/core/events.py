"""What can happen: tidings from the watchers, and the news that the manager gives out."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from bpflinkd.core.callers import Actor
from bpflinkd.core.culprits import Culprit
from bpflinkd.core.ids import LinkId, Micros, UnixMicros
from bpflinkd.core.model import Generation, LinkView, Occupant, ProgramInfo, State
from bpflinkd.core.swaps import Swapped
from bpflinkd.core.targets import CgroupHook, IfIndex, XdpHook

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


@dataclass(frozen=True, slots=True, kw_only=True)
class PinsTouched:
    """Something was made, removed or moved in the directory of a link on our bpffs."""

    link: str
    """Name of the link."""


Tiding: TypeAlias = (
    InterfaceChanged | InterfaceGone | ModuleChanged | CgroupAppeared | CgroupGone | PinsTouched
)


class Operation(StrEnum):
    """What the sentinel tells apart; each is a function of the kernel's."""

    XDP_INSTALL = "xdp-install"
    """dev_xdp_install(): the program of an interface's XDP hook is another now, or none."""
    CGROUP_ATTACH = "cgroup-attach"
    """__cgroup_bpf_attach()"""
    CGROUP_DETACH = "cgroup-detach"
    """__cgroup_bpf_detach()"""
    CGROUP_REPLACE = "cgroup-replace"
    """cgroup_bpf_replace(): a bpf_link on a cgroup runs another program now."""
    CGROUP_RELEASE = "cgroup-release"
    """cgroup_bpf_release(): the cgroup was removed, and what was attached to it ended."""
    SLOT_UPDATE = "slot-update"
    """bpf_fd_array_map_update_elem()"""
    SLOT_DELETE = "slot-delete"
    """fd_array_map_delete_elem()"""


@dataclass(frozen=True, slots=True)
class SlotHook:
    """The PROG_ARRAY that holds the program of a kprobe."""

    map_id: int
    """Kernel id of the map (u32)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """The sentinel saw somebody else change what is attached to a hook that we own or share.

    Unlike tidings this is no hint: it happened, once, in this order.
    """

    operation: Operation
    hook: XdpHook | CgroupHook | SlotHook
    attach_type: int
    """`enum bpf_attach_type`, for cgroups."""
    link_id: LinkId
    """The bpf_link that was changed, or was on the XDP hook before; 0 where there is none, and for a bpf_link
    that is being made."""
    before: ProgramInfo | None
    """What ran before, where the kernel still knows it at that moment: not for CGROUP_REPLACE and slots."""
    after: ProgramInfo | None
    """What runs now; None where nothing does, and for CGROUP_DETACH and CGROUP_RELEASE."""
    dying: bool
    """The interface is being deleted."""
    by: Culprit
    at: Micros
    """When, on the clock of `ports.Ticks`."""


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
    NEIGHBOUR_ADDED = "neighbour-added"
    """Somebody's program runs on our cgroup beside ours, or does so in place of another one."""
    NEIGHBOUR_REMOVED = "neighbour-removed"
    """Somebody's program that ran on our cgroup beside ours does so no longer."""
    PIN_REMOVED = "pin-removed"
    """Somebody removed or moved a pin of ours; it is put back."""
    PIN_REPLACED = "pin-replaced"
    """Somebody put something else in the place of a pin of ours; ours is put back."""
    KPROBES_DISABLED = "kprobes-disabled"
    """Somebody switched off all kprobes of the host: none of their programs run."""


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
    """The watch source that led to it: `sentinel`, `netlink`, `uevent`, `inotify`, `sweep`, `start`."""
    seen: UnixMicros
    before: ProgramInfo | None = None
    """What ran before; None where nothing did or it is not known."""
    after: ProgramInfo | None = None
    """What runs now; None where nothing does."""
    who: Culprit | None = None
    """Who did it; None where only the result was seen."""
    delay: Micros | None = None
    """How long after the fact it was noticed; None where the moment of the change is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Healed:
    """Something that a crash left half done was finished or taken back."""

    name: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SwappedTogether:
    """Several links run new generations."""

    swapped: Swapped
    by: Actor
    each: tuple["OfOneLink", ...]
    """What happened to each link, in order. It is told after this, by whoever hears this."""


OfOneLink: TypeAlias = (
    LinkAdded
    | LinkRemoved
    | LinkAmended
    | OwnerOverridden
    | ProgramReplaced
    | StateChanged
    | ForeignChange
    | Healed
)
News: TypeAlias = OfOneLink | SwappedTogether
