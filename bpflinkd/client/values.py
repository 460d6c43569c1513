"""What a client gets, typed. Imports nothing of GIO."""

from typing import Any, NamedTuple, TypedDict


class Row(NamedTuple):
    """One link in the table of List."""

    name: str
    target: str
    state: str
    owner: str
    """As in `LinkProperties`."""
    generation: int
    program: str
    tag: str
    state_since: int


class Refusal(NamedTuple):
    """What a reload refused: a file, or one link of it."""

    file: str
    link: str
    sentence: str
    log: str


class Reloaded(NamedTuple):
    """What a reload did: how many links were attached, replaced, and so on; and what it refused."""

    done: dict[str, int]
    refused: list[Refusal]


class ProgramFile(NamedTuple):
    """An ELF `object` or C `source`, and the program in it that a link runs."""

    kind: str
    program: str
    data: bytes


class Event(NamedTuple):
    """A signal of the Manager: its name in the contract, the link it is about, the other arguments."""

    signal: str
    link: str
    arguments: list[Any]


class Recorded(TypedDict, total=False):
    """An entry of the event log, as Events returns it; the first four are in each. Structs are sequences,
    times microseconds."""

    number: int
    """Grows, and is never given out twice."""
    time: int
    event: str
    """`link_added`, `program_replaced`, `foreign_change`, ..."""
    name: str
    """Of the link."""
    kind: str
    """Of the foreign change."""
    target: tuple[str, str, str]
    state: str
    old_state: str
    generation: int
    sentence: str
    before: tuple[int, str, str, str]
    after: tuple[int, str, str, str]
    """The programs that ran before and run now, as in `LinkProperties`."""
    who: dict[str, Any]
    """`uid`, and where known `pid`, `thread`, `comm`, `executable`, `unit`, `container` and `cgroup`."""
    source: str
    """What noticed a foreign change."""
    delay: int
    """How long after the change that was."""


class _Link(TypedDict):
    name: str
    target: tuple[str, str, str]
    state: str
    generation: int
    program: tuple[int, str, str, str]


class LinkStatistics(_Link, total=False):
    """How often the program of one link ran; what cannot be told is not there."""

    counted: int
    """Kernel id of the program that the next two are of: the link's, or for kprobes its dispatcher."""
    runs: int
    time: int
    """Nanoseconds, all runs together. Both since the program was loaded, while the kernel counted."""
    missed: int
    suppressed: int
    """For kprobes: hits that ran nothing, as in `LinkProperties.Kprobe`."""


class Statistics(NamedTuple):
    """A reading of all links."""

    at: int
    """When, in microseconds of a clock that nobody can set: for differences."""
    counting: bool
    """Whether the kernel counts runs now."""
    reason: str
    """A sentence on why not."""
    links: list[LinkStatistics]
    """By name."""


class Finding(TypedDict):
    """One thing that the doctor found."""

    level: str
    """`fault`, `warning` or `note`."""
    kind: str
    """As in docs/doctor.md."""
    where: str
    """A target, a path or `link NAME`; empty where it is the host."""
    what: str
    """A sentence."""
    advice: str
    """What to do, in words; may be empty."""
    commands: list[list[str]]
    """What mends it, one after the other: each a program and its arguments."""


class _Past(TypedDict):
    generation: int
    program: tuple[int, str, str, str]
    source: tuple[str, str]
    since: int
    by: tuple[int, int, str, str]
    """As in `LinkProperties`."""
    message: str
    outcome: str
    """`running` or `trial`; `replaced`, `rolled-back` or `expired`."""
    way_back: str
    """`loaded`, `stored`, or empty where there is none."""


class Past(_Past, total=False):
    """A generation of a link, as History returns it."""

    of: int
    """The generation that it brought back."""
    constants: dict[str, str]
    """Those that were set."""


class Checked(TypedDict, total=False):
    """What Check returns. Structs are sequences."""

    target: tuple[str, str, str]
    attach_type: str
    program: tuple[int, str, str, str]
    """Id, name, tag, type; it is unloaded by now."""
    log: str
    """What the verifier wrote: its numbers, or all, shortened in the middle; empty where it wrote nothing."""
    translated: int
    jited: int
    """Bytes of instructions after the verifier, and of machine code."""
    verified: int
    """Instructions that the verifier looked at."""
    maps: list[dict[str, Any]]
    """Each with `name`, `type`, `key_size`, `value_size`, `max_entries`, `flags`, `memory` in bytes, and
    `kept`: it would be the one that the running program uses."""
    program_memory: int
    memory: int
    """Bytes of the program, and of it with its maps."""
    features: list[tuple[str, bool, str]]
    """What it needs of kernel and host: name, whether that is there, why not."""
    refusal: str
    obstacle: str
    """Name and sentence of the error that an attach or replace would meet at the target; empty where none."""
    tests: list[dict[str, Any]]
    """Each with `packet` in words, `verdict`, `value` and `nanoseconds`."""
    not_tested: str
    """Why there are none."""
    compatibility: list[str]
    """Why maps of the running program cannot be kept, a sentence each."""
    generation: int
    running: tuple[int, str, str, str]
    """Of the link, where one was named."""


class Compared(TypedDict):
    """What Compare returns. Structs are sequences."""

    type: str
    """`xdp` or `cgroup_skb`."""
    generation: int
    running: tuple[int, str, str, str]
    """What was compared with: generation, and id, name, tag and type of its program."""
    packets: int
    verdicts: list[tuple[int, int, int]]
    """What the running and the new program returned, and for how many packets."""
    names: list[tuple[int, str]]
    """Verdicts in words."""
    differing: int
    """Packets that are treated otherwise."""
    differences: list[tuple[int, int, int, bool]]
    """The first of them: which packet, from 0; both verdicts; only what comes out is another packet."""
    not_run: list[tuple[str, int]]
    """Why packets were not tried, and how many."""
    copied: list[str]
    """Live maps whose contents the copies began with."""
    fresh: list[tuple[str, str, str]]
    """Maps that began otherwise: of the `running` or `new` program, name, why."""


class LinkProperties(TypedDict):
    """One link, as in the interface org.bpflinkd1.Link; structs are sequences, times are microseconds."""

    Name: str
    Target: tuple[str, str, str]
    State: str
    Reason: str
    StateSince: int
    Owner: str
    """`user:812` or `unit:tw-agent.service`."""
    Policy: str
    Lifetime: str
    Hold: dict[str, Any]
    """For the lifetime `owner`: `holder` and `grace`; `fallback` and `until` where there are such."""
    Trial: dict[str, Any]
    """While the generation waits for confirmation: `until`, `within` and `back_to`; `conditions` where
    bpflinkd judges."""
    Origin: tuple[str, str]
    Created: int
    Generation: int
    GenerationSince: int
    By: tuple[int, int, str, str]
    """Who made this generation: uid, pid, systemd unit, executable; 0 or empty where it is not known."""
    Message: str
    """Why it was made, in words; often empty."""
    Program: tuple[int, str, str, str]
    Source: tuple[str, str]
    Running: dict[str, Any]
    KernelLinkId: int
    Hook: tuple[str, int]
    Maps: list[str]
    Kprobe: tuple[int, int, int]


class ManagerProperties(TypedDict):
    """The daemon, as in the interface org.bpflinkd1.Manager."""

    Version: str
    Pid: int
    Started: int
    KernelRelease: str
    Paths: dict[str, str]
    States: dict[str, int]
    WatchSources: dict[str, dict[str, Any]]
    Refused: list[str]
    LastEvent: int
