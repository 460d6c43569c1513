"""What happened as it travels on the bus: the details of a signal, and what was kept of it."""

import functools
from collections.abc import Iterable, Iterator
from typing import Final

from gi.repository import GLib

from bpflinkd.core import chronicle
from bpflinkd.core.chronicle import LogEntry, Who
from bpflinkd.core.events import ForeignChange
from bpflinkd.core.model import ProgramInfo
from bpflinkd.dbus import wire

_SV: Final = GLib.VariantType("a{sv}")
_ITEM: Final = GLib.VariantType("{sv}")
_string = GLib.Variant.new_string
_u32 = GLib.Variant.new_uint32
_u64 = GLib.Variant.new_uint64
_key = functools.cache(_string)


def who(value: Who) -> GLib.Variant:
    """a{sv}: `uid` and, where they are known, `pid` and `thread`: u; `comm`, `executable`, `unit`,
    `container` and `cgroup`: s."""
    told = {"uid": _u32(value.uid)}
    numbers = {"pid": value.pid, "thread": value.thread}
    told |= {key: _u32(number) for key, number in numbers.items() if number}
    words = {
        "comm": value.comm,
        "executable": value.executable,
        "unit": value.unit,
        "container": value.container,
        "cgroup": value.cgroup,
    }
    return wire.vardict(told | {key: _string(word) for key, word in words.items() if word})


def foreign_change(change: ForeignChange) -> GLib.Variant:
    """The details of the signal ForeignChange: a{sv}. What is not known is left out."""
    told = {
        "sentence": _string(chronicle.printable(change.sentence)),
        "target": wire.target(change.view.record.target),
        "state": _string(change.view.state),
        "source": _string(change.source),
        "seen": _u64(change.seen),
        "by": wire.running(change.by),
    }
    programs = {"before": change.before, "after": change.after}
    told |= {key: wire.program(program) for key, program in programs.items() if program is not None}
    if change.who is not None:
        told["who"] = who(chronicle.of_culprit(change.who))
    if change.delay is not None:
        told["delay"] = _u64(max(0, change.delay))
    return wire.vardict(told)


def events(entries: Iterable[LogEntry]) -> GLib.Variant:
    """What Events returns: (aa{sv})."""
    rows = [GLib.Variant.new_array(_ITEM, list(_items(each))) for each in entries]
    return GLib.Variant.new_tuple(GLib.Variant.new_array(_SV, rows))


# A thousand entries are one message, and most are of few links, programs and processes: what they share is
# made once. Putting a dictionary together takes most of the time.


def _items(value: LogEntry) -> Iterator[GLib.Variant]:
    yield _item("number", _u64(value.number))
    yield _item("time", _u64(value.time))
    for key in _WORDS:
        if word := getattr(value, key):
            yield _shared(key, word)
    for key in ("target", "before", "after", "who"):
        if (part := getattr(value, key)) is not None:
            yield _shared(key, part)
    if value.generation:
        yield _item("generation", _u64(value.generation))
    if value.delay is not None:
        yield _item("delay", _u64(max(0, value.delay)))


_WORDS: Final = ("event", "name", "kind", "state", "old_state", "sentence", "source")


def _item(key: str, value: GLib.Variant) -> GLib.Variant:
    return GLib.Variant.new_dict_entry(_key(key), GLib.Variant.new_variant(value))


@functools.lru_cache(maxsize=1024)
def _shared(key: str, value: str | tuple[str, str, str] | ProgramInfo | Who) -> GLib.Variant:
    match value:
        case str():
            return _item(key, _string(value))
        case ProgramInfo():
            return _item(key, wire.program(value))
        case Who():
            return _item(key, who(value))
        case _:
            return _item(key, GLib.Variant.new_tuple(*map(_string, value)))
