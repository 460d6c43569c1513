"""Who tells of what others do, clocks, and who is told."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from bpflinkd.core.events import News, Operation, SlotHook, Touch
from bpflinkd.core.ids import Micros, UnixMicros
from bpflinkd.core.targets import CgroupHook, XdpHook


class Sentinel(Protocol):
    """Our program in the kernel that tells of each change to the hooks that we follow, and who made it."""

    @property
    def sees(self) -> frozenset[Operation]:
        """What it tells on this kernel; empty where it cannot run."""

    @property
    def lacks(self) -> str:
        """Why it does not run, or what it does not see, as a sentence; empty where it sees all."""

    @property
    def fd(self) -> int:
        """Readable when there is something to read; -1 where it does not run."""

    @property
    def events(self) -> int:
        """How many changes it told so far."""

    def follow(self, hook: XdpHook | CgroupHook | SlotHook) -> None:
        """From here on changes to this hook by others are told. Again is no error."""

    def unfollow(self, hook: XdpHook | CgroupHook | SlotHook) -> None:
        """They are told no longer. Not followed is no error."""

    def followed(self) -> frozenset[XdpHook | CgroupHook | SlotHook]:
        """What is followed now, also by a daemon before us."""

    def read(self, most: int) -> list[Touch]:
        """What happened and was not read yet, the oldest first."""

    def wait(self, at_most: Micros) -> None:
        """Until there is something to read."""

    def lost(self) -> int:
        """How many changes found no room since this was asked last."""

    def close(self) -> None:
        """The daemon ends; what happens from now on is recorded for the next one."""


Publish: TypeAlias = Callable[[News], None]
Clock: TypeAlias = Callable[[], UnixMicros]
"""What to show to people. Anybody may set it, back too."""
Ticks: TypeAlias = Callable[[], Micros]
"""What to measure a time with: microseconds that nobody can set, since an unknown moment."""
Nanos: TypeAlias = Callable[[], int]
"""The same in nanoseconds."""
