"""Swaps that come to pass together, as a client says them, and how their files travel: in one descriptor."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gi.repository import Gio, GLib

from bpflinkd.client import messages, programs
from bpflinkd.client.programs import CSource, Object, Program


class Swap(NamedTuple):
    """A link, and the program that it is to run."""

    name: str
    program: Program
    expect: int | None = None
    """Refuse unless the link is at this generation."""
    maps: Mapping[str, str] | None = None
    """`keep` or `fresh` by name of a map."""
    fresh_maps: bool = False
    where: str = ""
    """Where this is from, such as a file and a line: a refusal begins with it."""


class Swapped(NamedTuple):
    """What came of them."""

    generations: list[tuple[str, int]]
    """The name of each link, and its new generation."""
    skew_ns: int
    """Nanoseconds from the end of the first swap to the end of the last; 0 for a dry run."""


def body(swaps: Sequence[Swap], files: Gio.UnixFDList) -> list[tuple[str, dict[str, GLib.Variant]]]:
    """The a(sa{sv}) of swaps. Each file is sent once, all of them in one memfd. `BadInput`, OSError."""
    sources = [(swap.program, swap.where) for swap in swaps if isinstance(swap.program, Object | CSource)]
    parts: dict[object, tuple[int, int]] = {}
    index = -1
    if sources:
        copy, parts = programs.sealed_together(sources)
        try:
            index = files.append(copy)
        finally:
            os.close(copy)
    return [(messages.text(swap.name), _swap(swap, index, parts, files)) for swap in swaps]


def _swap(
    swap: Swap, index: int, parts: Mapping[object, tuple[int, int]], files: Gio.UnixFDList
) -> dict[str, GLib.Variant]:
    given = swap.program
    if isinstance(given, Object | CSource):
        kind = "object" if isinstance(given, Object) else "source"
        constants = given.constants if isinstance(given, Object) else None
        told = {kind: GLib.Variant("h", index), "part": GLib.Variant("(tt)", parts[kind, given.file])}
        told |= messages.strings(name=given.program)
        if constants:
            told["constants"] = messages.words(constants)
    else:
        told = messages.program(given, files)
    beside = messages.options(expect=swap.expect, maps=swap.maps, flags={"fresh_maps": swap.fresh_maps})
    return told | beside | messages.strings(where=swap.where or None)
