"""What is kept of the news: who did what to which link, and when. Pure.

Programs and processes call themselves what they like, so all text is made printable and short here, once
for whoever tells it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never

from bpflinkd.core.callers import Actor
from bpflinkd.core.culprits import Culprit
from bpflinkd.core.events import (
    ChangeKind,
    ForeignChange,
    Healed,
    LinkAdded,
    LinkAmended,
    LinkRemoved,
    OfOneLink,
    OwnerOverridden,
    ProgramReplaced,
    StateChanged,
)
from bpflinkd.core.ids import Micros, UnixMicros
from bpflinkd.core.model import Generation, LinkView, ProgramInfo, State
from bpflinkd.core.targets import CgroupTarget, KprobeMultiTarget, KprobeTarget, Target, XdpTarget

MOST: Final = 200
"""Entries of one answer: they are put together beside the main loop, which goes on more slowly meanwhile."""
_SENTENCE: Final = 1000
_WORD: Final = 256
"""Characters that are kept: of a sentence; of a path or a name."""
_SHOWN: Final = 12
"""Characters of a container's id, as docker and crictl show it."""
_EVER: Final = UnixMicros(0)


class Event(StrEnum):
    """The kinds of news."""

    LINK_ADDED = "link_added"
    LINK_REMOVED = "link_removed"
    LINK_AMENDED = "link_amended"
    OWNER_OVERRIDDEN = "owner_overridden"
    PROGRAM_REPLACED = "program_replaced"
    STATE_CHANGED = "state_changed"
    FOREIGN_CHANGE = "foreign_change"
    HEALED = "healed"


KINDS: Final = frozenset((*Event, *ChangeKind))
"""What can be asked for: kinds of news, and of foreign changes among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """A process that did something, ours to serve or not. What is not known is 0 or empty."""

    uid: int
    pid: int = 0
    thread: int = 0
    comm: str = ""
    executable: str = ""
    unit: str = ""
    container: str = ""
    cgroup: str = ""

    def __str__(self) -> str:
        pid = f"pid {self.pid}" if self.pid else ""
        where = f"container {self.container[:_SHOWN]}" if self.container else self.unit
        known = ", ".join(filter(None, (pid, f"uid {self.uid}", self.executable, where)))
        return f"{self.comm} ({known})" if self.comm else known


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One piece of news. What it does not have is empty, 0 or None."""

    number: int
    """Greater than that of every entry before; never given out twice."""
    time: UnixMicros
    """When it was told, on a clock that can be set."""
    event: Event
    name: str
    """Of the link."""
    kind: str = ""
    """The `ChangeKind` of a foreign change."""
    target: tuple[str, str, str] | None = None
    """See `described`."""
    state: str = ""
    """The link's, by this."""
    old_state: str = ""
    """The one before a change of state."""
    generation: int = 0
    sentence: str = ""
    """What happened, why, or by whom, in words."""
    before: ProgramInfo | None = None
    after: ProgramInfo | None = None
    """The programs that ran before and run now."""
    who: Who | None = None
    source: str = ""
    """The watch source that noticed a foreign change."""
    delay: Micros | None = None
    """How long after the fact it was noticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which entries are asked for."""

    links: Mapping[str, UnixMicros] | None = None
    """Names, each with the time since which it is asked about; None for every link."""
    kinds: frozenset[str] = frozenset()
    """Some of `KINDS`; empty for all."""
    since: UnixMicros = _EVER
    after: int | None = None
    """The entries that follow this number, from the first on; None for the newest."""
    limit: int = MOST

    def wants(self, entry: LogEntry) -> bool:
        """Whether an entry is asked for, but for `limit`."""
        if entry.time < self.since or (self.after is not None and entry.number <= self.after):
            return False
        if self.kinds and not self.kinds & {entry.event, entry.kind}:
            return False
        return self.links is None or (entry.name in self.links and entry.time >= self.links[entry.name])


def entry(news: OfOneLink, number: int, time: UnixMicros) -> LogEntry:
    """What is kept of a piece of news."""
    match news:
        case LinkAdded(view=view):
            current = view.record.generation
            after = current.program if view.health.state is State.ACTIVE else None
            return _of(
                view, Event.LINK_ADDED, number, time, current.message, after=after, who=_maker(current)
            )
        case LinkRemoved(view=view, reason=reason):
            before = view.record.generation.program
            return _of(view, Event.LINK_REMOVED, number, time, reason, before=before)
        case LinkAmended(view=view):
            record = view.record
            sentence = f"belongs to {record.owner}, policy {record.policy}, lifetime {record.lifetime}"
            return _of(view, Event.LINK_AMENDED, number, time, sentence)
        case OwnerOverridden(view=view, by=actor, verb=verb):
            sentence = f"{verb}, although {view.record.owner} owns it"
            return _of(view, Event.OWNER_OVERRIDDEN, number, time, sentence, who=of_actor(actor))
        case ProgramReplaced(view=view, old=old):
            new = view.record.generation
            return _of(
                view,
                Event.PROGRAM_REPLACED,
                number,
                time,
                new.message,
                before=old.program,
                after=new.program,
                who=_maker(new),
            )
        case StateChanged(view=view, old=before_that):
            return _of(view, Event.STATE_CHANGED, number, time, view.health.reason, old_state=before_that)
        case ForeignChange(view=view):
            return _of(
                view,
                Event.FOREIGN_CHANGE,
                number,
                time,
                news.sentence,
                kind=news.kind,
                before=news.before,
                after=news.after,
                who=of_culprit(news.who) if news.who else None,
                source=news.source,
                delay=news.delay,
            )
        case Healed(name=name, sentence=sentence):
            told = printable(sentence, _SENTENCE)
            return LogEntry(number=number, time=time, event=Event.HEALED, name=name, sentence=told)
        case _:
            assert_never(news)


def _of(
    view: LinkView,
    event: Event,
    number: int,
    time: UnixMicros,
    sentence: str,
    *,
    before: ProgramInfo | None = None,
    after: ProgramInfo | None = None,
    who: Who | None = None,
    kind: str = "",
    old_state: str = "",
    source: str = "",
    delay: Micros | None = None,
) -> LogEntry:
    return LogEntry(
        number=number,
        time=time,
        event=event,
        name=view.record.name,
        kind=str(kind),
        target=described(view.record.target),
        state=str(view.state),
        old_state=str(old_state),
        generation=view.record.generation.number,
        sentence=printable(sentence, _SENTENCE),
        before=before,
        after=after,
        who=who,
        source=source,
        delay=delay,
    )


def _maker(generation: Generation) -> Who:
    return of_actor(generation.by)


def of_actor(actor: Actor) -> Who:
    """Who asked us."""
    exe, unit = printable(actor.exe, _WORD), printable(actor.unit, _WORD)
    return Who(uid=actor.uid, pid=actor.pid, executable=exe, unit=unit)


def of_culprit(culprit: Culprit) -> Who:
    """Who did it past us."""
    return Who(
        uid=culprit.uid,
        pid=culprit.pid,
        thread=culprit.thread,
        comm=printable(culprit.comm, _WORD),
        executable=printable(culprit.executable, _WORD),
        unit=printable(culprit.unit, _WORD),
        container=printable(culprit.container, _WORD),
        cgroup=printable(culprit.cgroup, _WORD),
    )


def printable(text: str, most: int = _SENTENCE) -> str:
    """The same, with escapes for what is not printable, and an ellipsis where it is cut."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:most])
    return text if len(text) <= most else text[: most - 1] + "…"


def described(target: Target) -> tuple[str, str, str]:
    """A target as three words: `xdp`, interface, mode; `cgroup`, path, attach type; `kprobe`, function,
    offset; or one of `kretprobe`, `kprobe-multi`, `kretprobe-multi`, function or pattern, nothing."""
    match target:
        case XdpTarget(interface=interface, mode=mode):
            return "xdp", interface, str(mode)
        case CgroupTarget(path=path, attach_type=attach_type):
            return "cgroup", path, attach_type.name
        case KprobeTarget(symbol=symbol, offset=offset, at_return=at_return):
            return target.kind, symbol, "" if at_return else str(offset)
        case KprobeMultiTarget(pattern=pattern):
            return target.kind, pattern, ""
        case _:
            assert_never(target)
