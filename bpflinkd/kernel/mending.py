"""Pins that are gone, or are somebody else's by now, are put back from the descriptors that we hold."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple

from bpflinkd.core.ports import PinTrouble
from bpflinkd.kernel import libbpf, standing
from bpflinkd.kernel.standing import Found

log = logging.getLogger(__name__)

NEXT: Final = "next_"
"""Before the name of a pin that is staged."""


class Wanted(NamedTuple):
    """A pin that should be there."""

    path: Path
    found: Found
    """What it should be."""
    opened: Callable[[], AbstractContextManager[int]]
    """Gives an fd of it. OSError: it is no more."""
    atomic: bool
    """Pin it under the name of a staged one first, so that it has a pin all the time. Not for maps: a start
    knows no staged ones among them."""


def of_fd(path: Path, found: Found, fd: int, *, atomic: bool = True) -> Wanted:
    """A pin of what we hold open."""

    def opened() -> AbstractContextManager[int]:
        return contextlib.nullcontext(fd)

    return Wanted(path, found, opened, atomic)


def mend(wanted: Iterable[Wanted], aside: Path) -> tuple[PinTrouble, ...]:
    """Put back the pins that are not as they should be; says of each what was wrong.

    Args:
        aside: the directory for what stands in the way.
    """
    troubles = (_mend(pin, aside) for pin in wanted)
    return tuple(trouble for trouble in troubles if trouble is not None)


def _mend(pin: Wanted, aside: Path) -> PinTrouble | None:
    stands = standing.look(pin.path)
    if stands == pin.found:
        return None
    by, place, failure = str(stands) if stands else "", "", ""
    try:
        standing.make_directory(pin.path.parent, aside)
        with pin.opened() as fd:
            place = _put(pin, fd, stands, aside)
    except OSError as error:
        failure = os.strerror(error.errno) if error.errno else str(error)
    return PinTrouble(pin=str(pin.path), replaced=stands is not None, by=by, aside=place, failure=failure)


def _put(pin: Wanted, fd: int, stands: Found | None, aside: Path) -> str:
    """Pin it, whatever stands there; returns where that is now."""
    path = pin.path
    if pin.atomic:
        path = path.with_name(NEXT + path.name)
        pin_here(fd, path, aside)
    place = standing.put_aside(pin.path, stands, aside) if stands is not None else ""
    if pin.atomic:
        os.rename(path, pin.path)
    else:
        pin_here(fd, path, aside)
    return place


def pin_here(fd: int, path: Path | str, aside: Path) -> None:
    """Pin an object; what somebody else put there is moved aside. OSError: it cannot be."""
    try:
        libbpf.obj_pin(fd, str(path))
    except FileExistsError:
        clear(Path(path), aside)
        libbpf.obj_pin(fd, str(path))


def move_here(staged: Path, path: Path, aside: Path) -> None:
    """Move a pin, or a directory of pins, into place. OSError: it cannot be."""
    try:
        staged.rename(path)
    except (IsADirectoryError, NotADirectoryError):  # a stranger's of the other kind is in the way
        clear(path, aside)
        staged.rename(path)


def clear(path: Path, aside: Path) -> None:
    """Move aside what somebody else put at a path. OSError: it cannot be."""
    stands = standing.look(path)
    if stands is not None:
        place = standing.put_aside(path, stands, aside)
        log.warning("%s stood at %s and is not ours; it is %s", stands, path, place or "removed")
