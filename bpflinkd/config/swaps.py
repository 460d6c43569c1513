"""A file of swaps for `bpflinkctl apply`, read whole: what it asks for, or all that is wrong with it."""

import os
from pathlib import Path
from typing import NamedTuple

from bpflinkd.config.directories import At, Directories, Stand
from bpflinkd.config.swap_table import SWAPS, WantedSwap
from bpflinkd.config.trust import Trust


class Placed(NamedTuple):
    """A swap, and where it is written."""

    wanted: WantedSwap
    line: int


def read(file: Path) -> tuple[list[Placed], list[str]]:
    """The swaps of a file, and a sentence a fault, which begins with FILE:LINE:COLUMN."""
    first: dict[str, int] = {}

    def placed(wanted: WantedSwap, stand: Stand) -> Placed:
        for name in wanted.links:
            if name in first:
                raise At(f"link {name!r} is named twice, before at line {first[name]}; leave one out")
            first[name] = stand.line
        return Placed(wanted, stand.line)

    found, refused = Directories(SWAPS, (), [file]).read(Trust(None), placed)
    faults = [each.sentence for each in refused]
    if not found and not faults:
        faults.append(f"{os.path.abspath(file)}: there is no [[swap]] in it; begin each with that line")
    return found, faults
