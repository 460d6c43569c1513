"""A reading of the run counts as it travels on the bus."""

import functools
from typing import Final

from gi.repository import GLib

from bpflinkd.core.model import ProgramInfo, State
from bpflinkd.core.statistics import LinkReading, Reading
from bpflinkd.core.targets import Target
from bpflinkd.dbus import wire

_SV: Final = GLib.VariantType("a{sv}")
_ITEM: Final = GLib.VariantType("{sv}")
_string = GLib.Variant.new_string
_u32 = GLib.Variant.new_uint32
_u64 = GLib.Variant.new_uint64
_key = functools.cache(_string)


def told(reading: Reading) -> GLib.Variant:
    """What Statistics returns: (a{sv}aa{sv}). For any thread; 20 ms and more with a thousand links."""
    about = {
        "at": _u64(reading.at),
        "counting": GLib.Variant.new_boolean(reading.counting),
        "reason": _string(reading.reason),
    }
    rows = GLib.Variant.new_array(_SV, [_row(link) for link in reading.links])
    return GLib.Variant.new_tuple(wire.vardict(about), rows)


def _row(link: LinkReading) -> GLib.Variant:
    record, counts, misses = link.view.record, link.counts, link.misses
    current = record.generation
    state = link.view.health.state
    items = [*_same(record.name, record.target, state, current.number, current.program)]
    if counts is not None:
        items.append(_item("counted", _u32(counts.program)))
        items.append(_item("runs", _u64(counts.runs)))
        items.append(_item("time", _u64(counts.nanoseconds)))
    if misses is not None:
        items.append(_item("missed", _u64(misses.empty)))
        items.append(_item("suppressed", _u64(misses.suppressed)))
    return GLib.Variant.new_array(_ITEM, items)


@functools.lru_cache(maxsize=2048)
def _same(
    name: str, target: Target, state: State, generation: int, program: ProgramInfo
) -> tuple[GLib.Variant, ...]:
    """What is the same from reading to reading: making it takes most of the time."""
    return (
        _item("name", _string(name)),
        _item("target", wire.target(target)),
        _item("state", _string(state)),
        _item("generation", _u64(generation)),
        _item("program", wire.program(program)),
    )


def _item(key: str, value: GLib.Variant) -> GLib.Variant:
    return GLib.Variant.new_dict_entry(_key(key), GLib.Variant.new_variant(value))
