"""What happened to links, as log lines with fields that the journal keeps."""

import logging
from typing import assert_never

from bpflinkd.core.events import (
    ForeignChange,
    Healed,
    LinkAdded,
    LinkRemoved,
    News,
    ProgramReplaced,
    StateChanged,
)

log = logging.getLogger("bpflinkd")


def write(news: News) -> None:
    """One line a piece of news."""
    match news:
        case LinkAdded(view=view):
            record = view.record
            _line(
                logging.INFO,
                record.name,
                f"{record.target} has generation {record.generation.number}, program "
                f"{record.generation.program}; {view.health.state}",
                TARGET=str(record.target),
                GENERATION=str(record.generation.number),
            )
        case LinkRemoved(view=view, reason=reason):
            _line(logging.INFO, view.record.name, f"ended: {reason}", TARGET=str(view.record.target))
        case ProgramReplaced(view=view, old=old):
            new = view.record.generation
            _line(
                logging.INFO,
                view.record.name,
                f"generation {new.number} by uid {new.by_uid}: {old.program} gave way to {new.program}",
                TARGET=str(view.record.target),
                GENERATION=str(new.number),
                OLD_PROG=str(old.program.id),
                NEW_PROG=str(new.program.id),
            )
        case StateChanged(view=view, old=before):
            reason = f": {view.health.reason}" if view.health.reason else ""
            _line(
                logging.INFO,
                view.record.name,
                f"{before} -> {view.health.state}{reason}",
                TARGET=str(view.record.target),
            )
        case ForeignChange(view=view, kind=kind, sentence=sentence):
            _line(
                logging.WARNING,
                view.record.name,
                f"{kind}: {sentence}",
                TARGET=str(view.record.target),
                KIND=kind,
            )
        case Healed(name=name, sentence=sentence):
            _line(logging.WARNING, name, sentence)
        case _:
            assert_never(news)


def _line(level: int, link: str, text: str, **fields: str) -> None:
    log.log(level, "link %s: %s", link, text, extra={"LINK": link, **fields})
