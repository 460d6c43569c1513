"""Opening what is pinned, at a start: what cannot be ours is moved aside and counts as gone."""

import contextlib
import errno
import logging
import os
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bpflinkd.core import names
from bpflinkd.core.errors import BadProgram, BpflinkdError, KernelRefused
from bpflinkd.core.ids import ProgId
from bpflinkd.core.model import ProgramInfo
from bpflinkd.core.ports import PinTrouble, Promised
from bpflinkd.core.sources import Source, StoredObject, StoredSource
from bpflinkd.kernel import info, libbpf, mapdirs, mending, standing
from bpflinkd.kernel import program as programs
from bpflinkd.kernel.dispatched import reopened
from bpflinkd.kernel.link import HeldLink
from bpflinkd.kernel.mappins import PinnedMaps
from bpflinkd.kernel.program import HeldProgram
from bpflinkd.kernel.standing import Found

log = logging.getLogger(__name__)

_LONGEST: Final = 15
"""Characters of a map's name that the kernel knows."""


class Reopened(NamedTuple):
    """A pinned program, and the maps that are pinned with it."""

    program: HeldProgram
    maps: PinnedMaps

    def close(self) -> None:
        """Give up our references."""
        self.program.close()
        self.maps.close()


def warn(troubles: Sequence[PinTrouble]) -> None:
    """Write down what was put back."""
    for trouble in troubles:
        was = f"was {trouble.by}" if trouble.replaced else "was gone"
        now = f"ours could not be put back: {trouble.failure}" if trouble.failure else "ours is back"
        log.warning("the pin %s %s; %s", trouble.pin, was, now)


def open_link(path: Path, aside: Path) -> HeldLink | None:
    """A pinned bpf_link; None where there is none. `KernelRefused`."""
    if not _is(path, "link", aside):
        return None
    try:
        return reopened(libbpf.obj_get(str(path)))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise KernelRefused(f"the pin {path} cannot be opened: {error}") from None


def open_program(pin: Path, maps: Path, source: Source, aside: Path, *, whole: bool) -> Reopened | None:
    """A pinned program; None where there is none. `BpflinkdError`.

    Args:
        maps: the directory of its maps.
        whole: all that belongs to it was pinned once, so that what is missing may be put back.
    """
    if not _is(pin, "program", aside):
        return None
    try:
        program = programs.from_pin(str(pin), source)
    except BadProgram as error:
        raise BpflinkdError(str(error)) from None
    try:
        found = open_maps(program, maps, aside, whole=whole)
    except OSError as error:
        program.close()
        raise KernelRefused(f"the maps pinned in {maps} cannot be opened: {error}") from None
    program.know(found.ids)
    return Reopened(program, found)


def open_maps(program: HeldProgram, maps: Path, aside: Path, *, whole: bool) -> PinnedMaps:
    """The maps that are pinned for a program. OSError.

    Of a program that we loaded from an object all maps were pinned. One that it uses and that is not pinned
    any more is pinned again. The kernel knows no more of its name than the beginning.
    """
    with contextlib.ExitStack() as opened:
        fds: dict[str, int] = {}
        for encoded in mapdirs.names_in(maps):
            found = standing.look(maps / encoded)
            if found is not None and found.kind == "map":
                fds[names.decode(encoded)] = opened.enter_context(standing.opened_map(found.id))
        if whole and isinstance(program.source, StoredObject | StoredSource):
            _put_back(program.fd, maps, aside, fds, opened)
        return PinnedMaps(program.fd, fds)


def _put_back(
    program_fd: int, maps: Path, aside: Path, fds: dict[str, int], opened: contextlib.ExitStack
) -> None:
    """Pin the maps that a program uses and that are not among these `fds`, and add them."""
    used = info.map_ids(program_fd)
    ids = {name: info.map_info(fd).id for name, fd in fds.items()}
    strange = [name for name, map_id in ids.items() if map_id not in used]
    for map_id in set(used) - set(ids.values()):
        fd = opened.enter_context(standing.opened_map(map_id))
        told = info.map_name(fd) or f"map_{map_id}"
        name = next((name for name in strange if name[:_LONGEST] == told), told)
        wanted = mending.of_fd(maps / names.encode(name), Found("map", map_id), fd, atomic=False)
        warn(mending.mend([wanted], aside))
        fds[name] = fd


def from_kept(fds: Sequence[int]) -> HeldLink | None:
    """The bpf_link among descriptors that were kept; None where there is none, or it is off its hook."""
    fd = next((fd for fd in fds if info.kind_of_fd(fd) == "link"), None)
    if fd is None:
        return None
    link = reopened(os.dup(fd))
    if link.facts().hook is None:
        link.close()
        return None
    return link


def is_strange_link(link: HeldLink, program: Path, promised: Promised) -> bool:
    """Whether the pin of a bpf_link was put there by somebody else.

    Args:
        program: the pin of the program beside it.
    """
    if promised.link in (None, link.id):
        return False
    facts = link.facts()
    if facts.prog_id in promised.programs:
        return False
    # One of ours whose number and program could not be noted, as the disk was full?
    pinned, like = _pinned(program), promised.like
    return (
        pinned is None
        or like is None
        or pinned.id != facts.prog_id
        or (pinned.name, pinned.tag, pinned.type) != (like.name, like.tag, like.type)
        or facts.hook is None
        or facts.hook != promised.hook()
    )


def _pinned(program: Path) -> ProgramInfo | None:
    found = standing.look(program)
    if found is None or found.kind != "program":
        return None
    with contextlib.suppress(OSError):
        return info.program_info_by_id(ProgId(found.id))
    return None


def is_strange(program: HeldProgram, link: HeldLink | None, promised: Container[ProgId]) -> bool:
    """Whether the pin of a program was put there by somebody else: one that was promised runs, another one.

    A start would take it for ours otherwise, and what runs for a stranger's.
    """
    return program.info.id not in promised and link is not None and link.facts().prog_id in promised


def _is(path: Path, kind: str, aside: Path) -> bool:
    """Whether a pin is there, of this kind; anything else is moved aside."""
    found = standing.look(path)
    if found is None:
        return False
    if found.kind not in (kind, "object"):
        with contextlib.suppress(OSError):  # where it cannot be moved, opening it tells why
            mending.clear(path, aside)
            return False
    return True
