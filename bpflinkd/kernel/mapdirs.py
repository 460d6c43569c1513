"""Directories of pinned maps: one takes the place of another without a moment in which a map has no path."""

import contextlib
import os
from collections.abc import Container
from pathlib import Path
from typing import Final

from bpflinkd.kernel import mending, standing

_HALF: Final = "_next"
"""A pin on its way, or the staged directory on its way out. No map is called so: in an encoded name two
hexadecimal digits come after an underscore."""


def names_in(maps: Path) -> list[str]:
    """Encoded names of the maps that are pinned in a directory; none where there is no such directory."""
    try:
        return sorted(name for name in os.listdir(maps) if name != _HALF)
    except (FileNotFoundError, NotADirectoryError):
        return []


def replace(maps: Path, staged: Path, ours: Container[int] | None, aside: Path) -> None:
    """Let a directory hold what a staged one does, which goes. Done again after a crash it comes to its end.

    A map that is in both stays as it is; each other one takes its place by a rename. Whoever opens a map by
    its path finds the one before or the one after.

    Args:
        ours: kernel ids of the maps that are ours here; None where all are. Others are moved aside.
    """
    if _kind(maps) != "directory":
        mending.move_here(staged, maps, aside)
        return
    tidy(maps)
    half = maps / _HALF
    wanted = os.listdir(staged)
    for name in wanted:
        after, before = standing.look(staged / name), standing.look(maps / name)
        if after == before:
            continue
        if before is not None and not (before.kind == "map" and (ours is None or before.id in ours)):
            mending.clear(maps / name, aside)
        os.link(staged / name, half)
        half.rename(maps / name)
    _remove_pins(maps, ours, aside, but=wanted)
    # Until here all of it can be done again, and from here on it need not.
    staged.rename(half)
    tidy(maps)


def tidy(maps: Path) -> None:
    """Remove what a crash left on its way; nothing there is no error."""
    half = maps / _HALF
    kind = _kind(half)
    if kind == "directory":
        for name in os.listdir(half):
            (half / name).unlink()
        half.rmdir()
    elif kind:
        half.unlink()


def clear(maps: Path, ours: Container[int] | None, aside: Path) -> None:
    """Remove a directory of pinned maps; nothing there is no error.

    Args:
        ours: as for `replace`.
    """
    kind = _kind(maps)
    if kind == "directory":
        tidy(maps)
        _remove_pins(maps, ours, aside)
        maps.rmdir()
    elif kind:
        mending.clear(maps, aside)


def _kind(path: Path) -> str:
    stands = standing.look(path)
    return stands.kind if stands is not None else ""


def _remove_pins(maps: Path, ours: Container[int] | None, aside: Path, *, but: Container[str] = ()) -> None:
    for name in os.listdir(maps):
        if name in but:
            continue
        found = standing.look(maps / name)
        if found is not None and found.kind == "map" and (ours is None or found.id in ours):
            with contextlib.suppress(FileNotFoundError):
                (maps / name).unlink()
        else:
            mending.clear(maps / name, aside)
