"""A reading of the run counts as it travels on the bus."""

from typing import Final

from gi.repository import GLib

from bpflinkd.core.statistics import LinkReading, Reading
from bpflinkd.dbus import wire

_SV: Final = GLib.VariantType("a{sv}")
_string = GLib.Variant.new_string
_u32 = GLib.Variant.new_uint32
_u64 = GLib.Variant.new_uint64


def told(reading: Reading) -> GLib.Variant:
    """What Statistics returns: (a{sv}aa{sv}). For any thread: with a thousand links it takes 10 ms."""
    about = {
        "at": _u64(reading.at),
        "counting": GLib.Variant.new_boolean(reading.counting),
        "reason": _string(reading.reason),
    }
    rows = GLib.Variant.new_array(_SV, [_row(link) for link in reading.links])
    return GLib.Variant.new_tuple(wire.vardict(about), rows)


def _row(link: LinkReading) -> GLib.Variant:
    record = link.view.record
    row = {
        "name": _string(record.name),
        "target": wire.target(record.target),
        "state": _string(link.view.health.state),
        "generation": _u64(record.generation.number),
        "program": wire.program(record.generation.program),
    }
    if link.counts is not None:
        row["counted"] = _u32(link.counts.program)
        row["runs"] = _u64(link.counts.runs)
        row["time"] = _u64(link.counts.nanoseconds)
    if link.misses is not None:
        row["missed"] = _u64(link.misses.empty)
        row["suppressed"] = _u64(link.misses.suppressed)
    return wire.vardict(row)
