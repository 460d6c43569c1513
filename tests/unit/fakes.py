"""Fakes for the core's decisions, and only for these.

They stand in for the kernel where a test is about order and undo: no errno, no timing, no kernel
behaviour is decided here. What the core assumes of the real edges is pinned by tests/kernel.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bpflinkd.core import attach_types
from bpflinkd.core.attach_types import AttachType, ProgramType
from bpflinkd.core.callers import Actor, User
from bpflinkd.core.errors import KernelRefused, StorageFailed
from bpflinkd.core.events import Operation, SlotHook, Touch
from bpflinkd.core.ids import LinkId, Micros, ProgId, UnixMicros
from bpflinkd.core.model import Generation, Lifetime, LinkFacts, Policy, ProgramInfo, Record
from bpflinkd.core.sources import Builtin, Source
from bpflinkd.core.targets import CgroupHook, Hook, IfIndex, Target, XdpHook, XdpTarget

ETH0 = XdpTarget(interface="eth0")
HOOK, OTHER_HOOK = XdpHook(IfIndex(3)), XdpHook(IfIndex(9))
NOW, TICKS = UnixMicros(1_000_000), Micros(77)
LINK_ID = LinkId(7)


def info(number: int, kind: int = ProgramType.XDP, name: str = "prog") -> ProgramInfo:
    return ProgramInfo(id=ProgId(number), name=f"{name}{number}", tag="0" * 16, type=kind)


@dataclass
class FakeProgram:
    """A program with an id and a type, loaded nowhere."""

    number: int = 1
    kind: int = ProgramType.XDP
    declared: AttachType | None = None
    fitting: tuple[AttachType, ...] = (attach_types.XDP,)
    source: Source = field(default_factory=lambda: Builtin(name="pass"))
    image: bytes | None = None
    maps: tuple[str, ...] = ()
    closed: bool = False

    @property
    def info(self) -> ProgramInfo:
        return info(self.number, self.kind)

    def fits(self, attach_type: AttachType) -> bool:
        return attach_type in self.fitting

    def again(self) -> "FakeProgram":
        return self

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeLink:
    """A link that says what the test wants it to say."""

    prog_id: int = 1
    hook: Hook | None = HOOK
    id: LinkId = LINK_ID
    closed: bool = False
    misses: None = None
    slot_hook: SlotHook | None = None

    def facts(self) -> LinkFacts:
        return LinkFacts(id=self.id, prog_id=ProgId(self.prog_id), hook=self.hook)

    def mark_good(self, runs: ProgId | None = None) -> None: ...

    def unchanged(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


@dataclass
class Diary:
    """Stands in for kernel, pins and store at once: writes down each call, fails where told."""

    fail_at: str = ""
    kept: int = 16
    calls: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if name == self.fail_at:
                error = StorageFailed if name in {"intend", "commit", "mark_ending"} else KernelRefused
                raise error(f"{name} was told to fail")
            return FakeLink() if name == "create_link" else None

        return call

    def interfaces(self) -> Mapping[str, IfIndex]:
        return {}


def record(
    number: int = 1,
    prog_id: int = 1,
    *,
    target: Target = ETH0,
    policy: Policy = Policy.ALERT,
    hook: Hook | None = HOOK,
) -> Record:
    return Record(
        name="edge",
        target=target,
        owner=User(uid=0),
        policy=policy,
        lifetime=Lifetime.PINNED,
        created=UnixMicros(1),
        generation=Generation(
            number=number,
            program=info(prog_id),
            source=Builtin(name="pass"),
            since=UnixMicros(2),
            by=Actor(uid=0),
        ),
        hook=hook,
    )


class FakeSentinel:
    """Tells what the test wants it to tell."""

    sees = frozenset(Operation)
    lacks = ""
    fd = -1
    events = 0

    def __init__(self, *touches: Touch) -> None:
        self.touches = list(touches)
        self.late: list[Touch] = []
        """Comes while somebody waits for it."""
        self.hooks: set[XdpHook | CgroupHook | SlotHook] = set()

    def follow(self, hook: XdpHook | CgroupHook | SlotHook) -> None:
        self.hooks.add(hook)

    def unfollow(self, hook: XdpHook | CgroupHook | SlotHook) -> None:
        self.hooks.discard(hook)

    def followed(self) -> frozenset[XdpHook | CgroupHook | SlotHook]:
        return frozenset(self.hooks)

    def read(self, most: int) -> list[Touch]:
        found, self.touches = self.touches[:most], self.touches[most:]
        return found

    def wait(self, at_most: Micros) -> None:
        self.touches += self.late
        self.late = []

    def lost(self) -> int:
        return 0

    def close(self) -> None: ...
