"""What happened to links, as log lines with fields that the journal keeps; docs/service.md lists them."""

import logging
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, assert_never

from bpflinkd.core import chronicle
from bpflinkd.core.chronicle import Who
from bpflinkd.core.events import (
    ChangeKind,
    ForeignChange,
    Healed,
    LinkAdded,
    LinkAmended,
    LinkRemoved,
    News,
    OwnerOverridden,
    ProgramReplaced,
    StateChanged,
    SwappedTogether,
)
from bpflinkd.core.model import LinkView, State

log = logging.getLogger("bpflinkd")

_MOST_NAMED: Final = 20
"""Links that one line names."""


class MessageId(StrEnum):
    """MESSAGE_ID= of each kind of line. Fixed for ever: people filter by them. The catalog explains them."""

    LINK_ADDED = "a887f82911b94a708c5491cfb04e6c13"
    LINK_REMOVED = "95d17233684a498eae84a11e2ae1adb1"
    LINK_AMENDED = "b46a8320303547b096c4102ee0cbf639"
    PROGRAM_REPLACED = "c17a73c714864c43bff12f11d047f6ca"
    STATE_CHANGED = "a8559c29c4894f95bf916e0c7f276a38"
    OWNER_OVERRIDDEN = "986f486acdbf47d2869a3880575a615d"
    SWAPPED_TOGETHER = "2259c093d6b14301af653081e83b1a39"
    HEALED = "dc2535e2361c4355923ef5c725217264"
    FOREIGN_LINK_UPDATED = "300549c7a65e4819841c07193fc2c210"
    FOREIGN_LINK_DETACHED = "ee47f740c2d444b5ae36435e8756d05d"
    FOREIGN_PROGRAM_ATTACHED = "d4fce8d2b3de44ae945cb794cd629a3e"
    FOREIGN_SLOT_CHANGED = "10c38a0466a34f08aa555cca283c7840"
    FOREIGN_SLOT_EMPTIED = "b8f91354bdc54f548922129f93c9c877"
    FOREIGN_TARGET_GONE = "a0e82898ad1a49d0be1b1a385b375a37"
    FOREIGN_TARGET_BACK = "f131523637cc49ae929e941978524a1e"
    FOREIGN_NEIGHBOUR_ADDED = "8a27ee46161c42a9b51029aed971dd48"
    FOREIGN_NEIGHBOUR_REMOVED = "7581d073a5a94c6bb611bfdcaed92f90"
    FOREIGN_PIN_REMOVED = "73f119126618429cb9c90fd14ea78bb5"
    FOREIGN_PIN_REPLACED = "39965bab8767464698695b16393298e3"
    FOREIGN_KPROBES_DISABLED = "df21750b65064148ae53b32a86be74ff"


FOREIGN: Final[Mapping[ChangeKind, MessageId]] = {
    kind: MessageId[f"FOREIGN_{kind.name}"] for kind in ChangeKind
}


def write(news: News) -> None:
    """One line a piece of news."""
    match news:
        case LinkAdded(view=view):
            generation = view.record.generation
            _line(
                logging.INFO,
                MessageId.LINK_ADDED,
                view.record.name,
                f"{view.record.target} has generation {generation.number}, program {generation.program}; "
                f"{view.state}",
                **_of(view),
                **_programs(new=_running(view)),
            )
        case LinkRemoved(view=view, reason=reason):
            _line(
                logging.INFO,
                MessageId.LINK_REMOVED,
                view.record.name,
                f"ended: {reason}",
                **_of(view),
                **_programs(old=_running(view)),
            )
        case LinkAmended(view=view):
            record = view.record
            _line(
                logging.INFO,
                MessageId.LINK_AMENDED,
                record.name,
                f"belongs to {record.owner}, policy {record.policy}, lifetime {record.lifetime}",
                **_of(view),
                **_programs(new=_running(view)),
            )
        case ProgramReplaced(view=view, old=old):
            new = view.record.generation
            _line(
                logging.INFO,
                MessageId.PROGRAM_REPLACED,
                view.record.name,
                f"generation {new.number} by {new.by}: {old.program} gave way to {new.program}",
                **_of(view),
                **_programs(old=old.program.id, new=new.program.id),
            )
        case OwnerOverridden(view=view, by=actor, verb=verb):
            _line(
                logging.WARNING,
                MessageId.OWNER_OVERRIDDEN,
                view.record.name,
                f"{verb} by {actor}, although {view.record.owner} owns it",
                **_of(view),
                BY=str(actor),
            )
        case StateChanged(view=view, old=before):
            reason = f": {view.health.reason}" if view.health.reason else ""
            _line(
                logging.INFO,
                MessageId.STATE_CHANGED,
                view.record.name,
                f"{before} -> {view.state}{reason}",
                **_of(view),
                **_programs(new=_running(view)),
            )
        case ForeignChange(view=view, kind=kind):
            who = chronicle.of_culprit(news.who) if news.who is not None else None
            _line(
                logging.WARNING,
                FOREIGN[kind],
                view.record.name,
                _told(news, who),
                KIND=str(kind),
                SOURCE=news.source,
                **_of(view),
                **_programs(
                    old=news.before.id if news.before else None, new=news.after.id if news.after else None
                ),
                **(_culprit(who) if who is not None else {}),
                **({"DELAY_USEC": str(news.delay)} if news.delay is not None else {}),
            )
        case SwappedTogether(swapped=swapped, by=actor):
            names = [name for name, _ in swapped.generations]
            more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
            told = f"{', '.join(names[:_MOST_NAMED])}{more}"
            log.info(
                "%d links swapped together by %s, the last %.0f us after the first: %s",
                len(names),
                actor,
                swapped.skew_ns / 1000,
                told,
                extra={
                    "MESSAGE_ID": str(MessageId.SWAPPED_TOGETHER),
                    "LINKS": str(len(names)),
                    "SKEW_NSEC": str(swapped.skew_ns),
                },
            )
        case Healed(name=name, sentence=sentence):
            _line(logging.WARNING, MessageId.HEALED, name, sentence)
        case _:
            assert_never(news)


def _of(view: LinkView) -> dict[str, str]:
    return {
        "TARGET": str(view.record.target),
        "GENERATION": str(view.record.generation.number),
        "STATE": str(view.state),
    }


def _running(view: LinkView) -> int | None:
    """Kernel id of the program that runs on the target, ours or not; None where none does."""
    if view.health.running is not None:
        return view.health.running.program.id
    return view.record.generation.program.id if view.health.state is State.ACTIVE else None


def _told(change: ForeignChange, who: Who | None) -> str:
    """A foreign change in words."""
    by = f", by {who}" if who is not None else ""
    late = f" after {change.delay / 1000:.1f} ms" if change.delay is not None else ""
    sentence = chronicle.printable(change.sentence)
    return f"{change.kind}: {sentence}{by} (noticed by {change.source}{late})"


def _culprit(who: Who) -> dict[str, str]:
    """Who made a foreign change, as far as it is known."""
    known = {
        "CULPRIT_PID": str(who.pid),
        "CULPRIT_UID": str(who.uid),
        "CULPRIT_COMM": who.comm,
        "CULPRIT_EXE": who.executable,
        "CULPRIT_UNIT": who.unit,
        "CULPRIT_CONTAINER": who.container,
    }
    return {field: value for field, value in known.items() if value}


def _programs(*, old: int | None = None, new: int | None = None) -> dict[str, str]:
    """Kernel ids of what ran before and what runs now, each where there is one."""
    ids = {"OLD_PROG": old, "NEW_PROG": new}
    return {field: str(number) for field, number in ids.items() if number}


def _line(level: int, message_id: MessageId, link: str, text: str, **fields: str) -> None:
    # JournalHandler sends every attribute of a log record; journald keeps those in capitals.
    extra = {"MESSAGE_ID": str(message_id), "LINK": link, **fields}
    log.log(level, "link %s: %s", link, text, extra=extra)
