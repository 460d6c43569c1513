"""The words of the project as types: target, hook, program, record, status, health.

A record is what we promised; a status is what the kernel says just now. They are different
types on purpose: where they differ, the kernel is the truth and the record is the wish.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from bpflinkd.core.callers import Actor, Owner
from bpflinkd.core.ids import LinkId, Micros, ProgId, UnixMicros
from bpflinkd.core.sources import Source
from bpflinkd.core.targets import Hook, Target, XdpMode


class Policy(StrEnum):
    """What to do about a foreign change."""

    ALERT = "alert"
    """Tell."""
    RESTORE = "restore"
    """Tell, and put ours back, evicting exactly what was seen."""
    YIELD = "yield"
    """Tell, and let go of the link for good."""


class Lifetime(StrEnum):
    """When a link ends by itself."""

    PINNED = "pinned"
    """Never: it survives the daemon, its owner and a reboot."""
    EPHEMERAL = "ephemeral"
    """At the next reboot; until then it survives the daemon and its owner."""
    OWNER = "owner"
    """When the D-Bus connection that holds it goes, after a grace time."""


class State(StrEnum):
    """The state of a link, as shown to people."""

    ACTIVE = "active"
    """Our program runs on the target."""
    WAITING = "waiting"
    """The target is not there; we attach when it appears."""
    DISPLACED = "displaced"
    """Another program runs on our hook."""
    TAMPERED = "tampered"
    """Our link runs a program that is not ours."""
    SEVERED = "severed"
    """Our link was detached and the hook is empty."""
    FAILED = "failed"
    """We could not attach; the reason says why, and we try again."""
    TRIAL = "trial"
    """Active, and waits for confirmation. Only a view has it: a health is `ACTIVE` then."""


class Outcome(StrEnum):
    """How a generation ended."""

    REPLACED = "replaced"
    """Another program took its place."""
    ROLLED_BACK = "rolled-back"
    """Somebody went back to one before it."""
    EXPIRED = "expired"
    """It was on trial, and nobody confirmed it in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramInfo:
    """What the kernel says of a loaded program (`struct bpf_prog_info`)."""

    id: ProgId
    name: str
    """At most 15 characters; empty where its loader gave none."""
    tag: str
    """Hash over the instructions, 16 hex digits."""
    type: int
    """`enum bpf_prog_type`."""

    def __str__(self) -> str:
        return f"{self.name or '(unnamed)'} (id {self.id}, tag {self.tag})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who asked for a link: a file, by itself or by a template in it; all empty for a caller."""

    file: str = ""
    """Path of the file that declares it."""
    template: str = ""
    """Name of the template that made it for one match."""
    program: str = ""
    """The program that the file asked for when it was applied last; see `declared.fingerprint`."""


BY_CALLER: Final = Origin()


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """With what privileges and limits a program is loaded that is not root's."""

    kernel_memory: bool
    """It may read kernel memory: loaded with CAP_PERFMON."""
    maps: int
    """How many it may have."""
    memory: int
    """Bytes that its maps may take, all together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Which D-Bus connection a link of the lifetime `owner` lives with, and what comes after it."""

    holder: str
    """The connection's unique name; empty once it is gone and its time is over."""
    bus: str
    """The bus's id: names are unique on one bus only."""
    grace: Micros
    """How long after the connection's end the link may be claimed."""
    fallback: Source | None = None
    """What runs then, instead of nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One program of a link's history; every replace makes a new one."""

    number: int
    program: ProgramInfo
    source: Source
    since: UnixMicros
    by: Actor
    """Who put it there."""
    confinement: Confinement | None = None
    """How it was loaded, and must be loaded again; None: as root's."""
    message: str = ""
    """Why, in the words of who did it, or ours."""
    of: int = 0
    """The generation that it brought back; 0 for a new program."""
    outcome: Outcome | None = None
    """How it ended; None for the present one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A generation waits for confirmation."""

    boot: str
    """In which boot of the kernel."""
    deadline: Micros
    """How long after that boot the one before comes back."""
    within: Micros
    """How long that was from the swap."""
    until: UnixMicros
    """The same moment on the clock on the wall, when the trial began. Only for showing."""
    back_to: int
    """The generation that comes back."""
    conditions: tuple[str, ...] = ()
    """With some the daemon judges by itself; see `judging`."""
    baseline: tuple[int, ...] = ()
    """What their counters said when the trial began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What we promised. Stored, survives a reboot."""

    name: str
    target: Target
    owner: Owner
    policy: Policy
    lifetime: Lifetime
    created: UnixMicros
    generation: Generation
    hook: Hook | None = None
    """The hook that we last attached to; None while we never did, and after a reboot."""
    origin: Origin = BY_CALLER
    hold: Hold | None = None
    """For the lifetime `owner`."""
    trial: Trial | None = None
    """While the generation waits for confirmation."""


class LinkFacts(NamedTuple):
    """What the kernel says of a bpf_link that we hold (`struct bpf_link_info`)."""

    id: LinkId
    prog_id: ProgId
    """The program that runs: for kprobes the one in the slot, not our dispatcher; 0 where it is empty."""
    hook: Hook | None
    """None once the link is detached, or its device, cgroup or module is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that holds a program or link open."""

    pid: int
    comm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupant:
    """A program that is not ours, with all that can be told of it."""

    program: ProgramInfo
    link_id: LinkId | None = None
    """The bpf_link that attaches it; None where it is attached by netlink or PROG_ATTACH."""
    mode: XdpMode | None = None
    processes: tuple[Process, ...] = ()

    def __str__(self) -> str:
        how = f"by bpf_link {self.link_id}" if self.link_id else "without a bpf_link"
        who = ", ".join(f"{p.comm} (pid {p.pid})" for p in self.processes)
        return f"program {self.program}, attached {how}" + (f", held by {who}" if who else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """A program on a hook that is not ours, or beside ours."""

    target: Target
    occupant: Occupant


class Status(NamedTuple):
    """What the kernel says just now of one link and its target. Never stored."""

    link: LinkFacts | None
    """Our bpf_link; None where we hold none."""
    hook: Hook | None
    """What the target resolves to; None where the target is not there."""
    occupant: Occupant | None = None
    """Who is in our place: on the hook when it is XDP, or in our own link."""
    switched_off: bool = False
    """For kprobes: no kprobe of the host runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How record and status compare."""

    state: State
    reason: str
    """A sentence, empty while active."""
    since: UnixMicros
    running: Occupant | None = None
    """The foreign program in our place, where there is one."""


class Told(NamedTuple):
    """What was last told of a link that is not `active`, so that the next daemon does not tell it again."""

    state: State
    since: UnixMicros
    running: ProgramInfo | None
    """The foreign program in our place, where there was one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """Something that not every kernel or host can do."""

    name: str
    """A kind of target (`xdp`, `cgroup`, `kprobe`, `kprobe-multi`), or `source` for C by bcc."""
    lacks: str = ""
    """Empty where it can be used; else a sentence that says why not."""


class Misses(NamedTuple):
    """Hits of a kprobe that ran no program, since the bpf_link was made."""

    empty: int
    """The slot was empty."""
    suppressed: int
    """The kernel runs no kprobe program on a processor while a map is being read there by a system call,
    or in one that is running already. Counted by kernels from 6.7 on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkView:
    """All that a reader may see of a link, at one moment."""

    record: Record
    health: Health
    link_id: LinkId | None
    maps: tuple[str, ...] = field(default=())
    """Names of the maps pinned under the link."""
    misses: Callable[[], Misses] | None = None
    """For kprobes: reads how many hits ran nothing. From any thread."""

    @property
    def state(self) -> State:
        """As shown to people."""
        return state_of(self.record, self.health)


def state_of(record: Record, health: Health) -> State:
    """The state of a link as shown to people."""
    waits = record.trial is not None and health.state is State.ACTIVE
    return State.TRIAL if waits else health.state
