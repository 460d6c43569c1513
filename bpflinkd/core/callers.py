"""Who asks: as the bus says it, never as a message does."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeAlias


class Action(StrEnum):
    """What polkit can be asked for; its action ids are `org.bpflinkd1.` and the word."""

    VIEW = "view"
    """See the programs of others, and the files that links were loaded from."""
    ATTACH = "attach"
    """Attach without a grant."""
    CHANGE_OWN = "change-own"
    """Change links that the caller owns."""
    CHANGE_ANY = "change-any"
    """Change links of others."""
    ADOPT = "adopt"
    """Take what somebody else attached."""
    RELOAD = "reload"
    """Apply what the files declare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """An owner, or the holder of a grant."""

    uid: int

    def __str__(self) -> str:
        return f"user:{self.uid}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The holder of a grant."""

    gid: int

    def __str__(self) -> str:
        return f"group:{self.gid}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit of the system's service manager: an owner, or the holder of a grant."""

    name: str

    def __str__(self) -> str:
        return f"unit:{self.name}"


Owner: TypeAlias = User | Unit
"""Who may change a link."""
ROOT: Final = User(uid=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who did something, as far as it can be told. What is not known is 0 or empty."""

    uid: int
    pid: int = 0
    unit: str = ""
    exe: str = ""

    def __str__(self) -> str:
        known = (f"uid {self.uid}", self.unit, f"pid {self.pid}" if self.pid else "", self.exe)
        return ", ".join(filter(None, known))


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks."""

    uid: int
    gids: frozenset[int] = frozenset()
    """Of the process that made the connection, the primary group too."""
    pid: int = 0
    unit: str = ""
    """The systemd unit of the process that made the connection; empty where it cannot be told for certain."""
    exe: str = ""
    name: str = ""
    """The connection's unique name; a bus never gives one out twice."""
    sanctions: frozenset[Action] = frozenset()
    """What polkit said yes to, for this one call."""

    @property
    def actor(self) -> Actor:
        """The same for the record."""
        return Actor(uid=self.uid, pid=self.pid, unit=self.unit, exe=self.exe)

    @property
    def user(self) -> User:
        """As an owner."""
        return User(uid=self.uid)

    def sanctioned(self, action: Action) -> "Caller":
        """The same caller, who may do this as well."""
        return replace(self, sanctions=self.sanctions | {action})

    def may(self, action: Action) -> bool:
        """Root, or allowed by polkit."""
        return self.uid == 0 or action in self.sanctions

    def is_one_of(self, holder: User | Group | Unit) -> bool:
        """Whether what is said of the holder is said of this caller."""
        match holder:
            case User(uid=uid):
                return self.uid == uid
            case Group(gid=gid):
                return gid in self.gids
            case Unit(name=name):
                return bool(self.unit) and self.unit == name


ROOT_CALLER: Final = Caller(uid=0)
"""Who asks where we do something by ourselves, or for a file."""
