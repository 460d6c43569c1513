"""The maps of the running program, opened for the one that is to replace it."""

import contextlib
from collections.abc import Iterator

from bpflinkd.core.errors import BadOption, StaleGeneration
from bpflinkd.core.maps import MapShape, MapWishes
from bpflinkd.kernel import info, standing
from bpflinkd.kernel.loading import Carry, RunningMap
from bpflinkd.kernel.program import HeldProgram


@contextlib.contextmanager
def opened(running: HeldProgram | None, wishes: MapWishes) -> Iterator[Carry | None]:
    """What it leaves to the next program, for the moment; None where there is none.

    From any thread: by the time that a program is loaded on another, the worker may have replaced this one.

    Raises:
        StaleGeneration: its maps are no more.
        BadOption: there is no running program, and its maps are to be kept.
    """
    if running is None:
        if wishes.choices:
            raise BadOption("no program runs there, so it has no maps to keep; leave the choice of maps out")
        yield None
        return
    with contextlib.ExitStack() as fds:
        found = []
        for name, number in _maps(running).items():
            try:
                fd = fds.enter_context(standing.opened_map(number))
                told = info.map_info(fd)
            except OSError:
                raise StaleGeneration(
                    f"the program was replaced while another was being loaded: its map {name!r} is gone; "
                    "look at the link again before replacing"
                ) from None
            shape = MapShape(name, told.type, told.key_size, told.value_size, told.max_entries, told.flags)
            found.append(RunningMap(shape, fd))
        yield Carry(tuple(found), wishes)


def _maps(running: HeldProgram) -> dict[str, int]:
    """Kernel ids by name; for a program that another loaded, by what the kernel calls them."""
    known = dict(running.map_ids)
    if known:
        return known
    try:
        # Not by its descriptor: the worker may have closed that meanwhile.
        with info.opened_program(running.info.id) as fd:
            for number in info.map_ids(fd):
                with standing.opened_map(number) as map_fd:
                    name = info.map_name(map_fd)
                if name:
                    known.setdefault(name, number)
    except OSError:
        return {}
    return known


def refuse_choices(wishes: MapWishes, what: str) -> None:
    """A program that is loaded already has its maps. `BadOption`."""
    if wishes.choices:
        raise BadOption(
            f"the program comes from {what}, so it is loaded already, with maps of its own; leave out the "
            "choice of maps, or give an object or a source"
        )
