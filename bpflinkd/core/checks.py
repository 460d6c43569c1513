"""Refusals of a request that need no program, and what they find on the way."""

from typing import NamedTuple

from bpflinkd.core.errors import BadOption, NameTaken, NotAuthorized, StaleGeneration
from bpflinkd.core.links import Links
from bpflinkd.core.maps import AS_USUAL, MapWishes
from bpflinkd.core.model import Confinement, Lifetime
from bpflinkd.core.ports import Pins, Program
from bpflinkd.core.requests import AttachRequest
from bpflinkd.core.sources import Builtin
from bpflinkd.core.targets import Hook, WantedTarget


class Checked(NamedTuple):
    """What the checks before a program is opened found."""

    target: WantedTarget
    hook: Hook | None
    """None while it is awaited."""
    confined: Confinement | None
    """How the program must be loaded; None: as root's."""
    overrides: bool = False
    """An administrator overrides the owner."""
    given: bool = False
    """The target's attach type is the caller's word; see `Kernel.open_program`."""
    replaces: Program | None = None
    """The program that it is to replace."""
    wishes: MapWishes = AS_USUAL
    """What becomes of that one's maps."""


class Loaded(NamedTuple):
    """A program that was loaded before the worker came to what it is for."""

    program: Program
    confined: Confinement | None = None
    """How it was loaded; None: as root's."""
    replaces: Program | None = None
    """Whose maps it goes on using."""


def name_is_free(name: str, links: Links, pins: Pins) -> None:
    """Refuse a name that is in use. `NameTaken`."""
    if name in links:
        raise NameTaken(f"there is a link {name!r} already; replace or detach it")
    if pins.taken(name):
        raise NameTaken(
            f"the pin directory for {name!r} is in use, but not by a link we know; look into it "
            "and remove it, or choose another name"
        )


def name_is_no_files(name: str, place: str) -> None:
    """Refuse a name that a file gives, or its link could not be made. `NameTaken`.

    Args:
        place: where it is declared; empty where it is not.
    """
    if place:
        raise NameTaken(f"the name {name!r} belongs to what {place} declares; choose another")


def loaded_as_allowed(loaded: Loaded | None, confined: Confinement | None) -> None:
    """Refuse a program that was loaded by a grant that is not in force any more. `NotAuthorized`."""
    if loaded is not None and loaded.confined != confined:
        raise NotAuthorized("the grant was changed while the program was being loaded; try again")


def maps_are_current(loaded: Loaded | None, name: str, running: Program | None) -> None:
    """Refuse a program that would go on using the maps of one that runs no longer. `StaleGeneration`."""
    before = loaded.replaces if loaded is not None else None
    if before is not None and before is not running and before.maps:
        raise StaleGeneration(
            f"the program of link {name!r} was replaced while another was being loaded that was to use its "
            "maps; look at the link again before replacing"
        )


def lifetime_fits(request: AttachRequest, confined: Confinement | None) -> None:
    """Refuse what does not go with the lifetime. `BadOption`."""
    held = request.held
    if held is None:
        return
    if request.lifetime is not Lifetime.OWNER:
        raise BadOption(
            f"grace and fallback are for the lifetime owner, not for {request.lifetime}; leave them out"
        )
    if confined is not None and not isinstance(held.fallback, Builtin | None):
        raise BadOption("the fallback must be a built-in program, such as pass, unless root attaches")
