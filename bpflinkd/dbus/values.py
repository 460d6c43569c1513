"""What a client gives and gets, typed. Imports nothing of GIO: a command line starts anew for every call."""

from typing import Any, NamedTuple, TypeAlias, TypedDict


class XdpTarget(NamedTuple):
    """An interface's XDP hook; the daemon chooses the mode where none is given."""

    interface: str
    mode: str | None = None


class CgroupTarget(NamedTuple):
    """A cgroup v2 directory; the program tells the attach type where none is given."""

    path: str
    attach_type: str | None = None


class KprobeTarget(NamedTuple):
    """A kernel function, or with `multi` a pattern of functions; where they begin or return."""

    function: str
    offset: int = 0
    at_return: bool = False
    multi: bool = False
    cookie: int = 0


Target: TypeAlias = XdpTarget | CgroupTarget | KprobeTarget


class OpenSource(NamedTuple):
    """An open file of C for bcc; the function's name may be left out where it holds one."""

    fd: int
    program: str | None = None


class OpenObject(NamedTuple):
    """An open ELF file; the program's name may be left out where it holds one."""

    fd: int
    program: str | None = None


class Source(NamedTuple):
    """A program that is known by a word or number: `pin` a path, `id` a kernel id, `builtin` a name."""

    kind: str
    value: str | int


Program: TypeAlias = OpenObject | OpenSource | Source


class Row(NamedTuple):
    """One link in the table of List."""

    name: str
    target: str
    state: str
    owner: int
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


class LinkProperties(TypedDict):
    """One link, as in the interface org.bpflinkd1.Link; structs are sequences."""

    Name: str
    Target: tuple[str, str, str]
    State: str
    Reason: str
    StateSince: int
    Owner: int
    Policy: str
    Lifetime: str
    Origin: tuple[str, str]
    Created: int
    Generation: int
    GenerationSince: int
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
