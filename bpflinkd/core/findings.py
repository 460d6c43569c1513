"""What the doctor goes by, and what it says. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from bpflinkd.core.callers import Owner
from bpflinkd.core.ids import LinkId
from bpflinkd.core.model import Feature, LinkView, Process
from bpflinkd.core.remedies import Command, Names
from bpflinkd.core.survey import Attached, PinKind, Survey


class Level(StrEnum):
    """How bad a finding is; the worst comes first."""

    FAULT = "fault"
    """Something that was promised is not so."""
    WARNING = "warning"
    """It works, but may end or change without anybody being told; or it is left over."""
    NOTE = "note"
    """Good to know."""


class Kind(StrEnum):
    """What a finding is about. Within a level, in the order in which they are told."""

    LINK_STATE = "link-state"
    """A link of ours is not active."""
    REFUSED = "refused"
    """A file of links.d or grants.d, or a part of it, is not in force."""
    HOLDER_GONE = "holder-gone"
    """A link of the lifetime `owner` ends soon."""
    NETLINK_XDP = "netlink-xdp"
    """An XDP program is attached by netlink."""
    UNPINNED_LINK = "unpinned-link"
    """A bpf_link ends with the process that holds it."""
    UNOWNED_LINK = "unowned-link"
    """A bpf_link on an interface or a cgroup is not ours."""
    UNOWNED_PROGRAM = "unowned-program"
    """A program is attached to a cgroup without a bpf_link."""
    ATTACHED_TWICE = "attached-twice"
    """Two programs that are the same do the same work twice."""
    DEAD_PIN = "dead-pin"
    """A pin of a bpf_link that is attached to nothing any more."""
    STRAY_PINS = "stray-pins"
    """A directory among our pins that belongs to no link."""
    IDLE_PROGRAM = "idle-program"
    """A pinned program that nothing is seen to run."""
    SYSTEM_PROGRAM = "system-program"
    """Programs on cgroups that look like a service manager's or a container runtime's."""
    WATCH = "watch"
    """A watch source that is not live, or those that are."""
    FEATURE = "feature"
    """Something that this kernel or host cannot do."""
    INCOMPLETE = "incomplete"
    """What was not looked at, or is not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found."""

    level: Level
    kind: Kind
    where: str
    """A target, a path, the name of a link; empty where it is the host."""
    what: str
    """A sentence."""
    advice: str = ""
    """What to do, in words; may be empty."""
    commands: tuple[Command, ...] = ()
    """What mends it, one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSource:
    """One way in which changes by others are noticed."""

    name: str
    live: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What only the main loop knows."""

    sources: tuple[WatchSource, ...] = ()
    refused: tuple[str, ...] = ()
    """What the last reload refused: sentences that begin with FILE:LINE."""
    lapsing: frozenset[str] = frozenset()
    """Links of the lifetime `owner` whose holder is gone and whose grace time runs."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that the doctor goes by."""

    survey: Survey
    links: tuple[LinkView, ...]
    ours: frozenset[LinkId]
    """Every bpf_link that was ours at some time during the survey."""
    strays: frozenset[str]
    """Paths among our pins that belong to no link."""
    kept: frozenset[str] = frozenset()
    """Directories of our pins with the programs of generations before."""
    features: tuple[Feature, ...]
    circumstances: Circumstances
    asker: Owner
    """Who asks; the commands are for them."""
    names: Names = field(init=False)
    """Names for what is to be adopted."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", Names({view.record.name for view in self.links}, self.strays))

    @cached_property
    def pins(self) -> Mapping[LinkId, Sequence[str]]:
        """Where each bpf_link is pinned."""
        found: defaultdict[LinkId, list[str]] = defaultdict(list)
        for pin in self.survey.pins:
            if pin.kind is PinKind.LINK:
                found[LinkId(pin.id)].append(pin.path)
        return found

    @cached_property
    def by_link(self) -> Mapping[LinkId, LinkView]:
        """Our links by what they are in the kernel."""
        return {view.link_id: view for view in self.links if view.link_id is not None}

    def holders(self, attached: Attached) -> tuple[Process, ...]:
        """Processes that keep an attachment: those that hold its bpf_link, else its program."""
        if attached.link_id is not None:
            return self.survey.link_holders.get(attached.link_id, ())
        return self.survey.program_holders.get(attached.program.id, ())

    def is_ours(self, link_id: LinkId | None) -> bool:
        """Also one that the daemon came to hold while the host was looked at."""
        holders = self.survey.link_holders.get(link_id, ()) if link_id is not None else ()
        return link_id in self.ours or any(process.pid == self.survey.pid for process in holders)
