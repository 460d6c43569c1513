"""How often programs ran and for how long, and what follows from two readings. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

_NANOS: int = 1_000_000_000


class RunCounts(NamedTuple):
    """What the kernel counted for one program since that was loaded, while it was counting at all."""

    program: int
    """Kernel id of the program. For kprobes it is our dispatcher, which stays when the link's program is
    swapped: what is tail-called is counted with its caller."""
    runs: int
    nanoseconds: int
    """All runs together."""
    missed: int = 0
    """For kprobes: hits that ran nothing, since the bpf_link was made."""


class Rate(NamedTuple):
    """What one link did between two readings."""

    runs: float
    """A second."""
    nanoseconds: float | None
    """A run; None where there was no run."""
    share: float
    """Of one processor's time: 1 is all of it."""
    missed: float
    """Hits that ran nothing, a second."""


def rate(before: RunCounts | None, after: RunCounts | None, seconds: float) -> Rate | None:
    """What happened between two readings.

    Returns:
        None where there is no saying: one is missing, the clock stood still, another program is counted
        since (a replace begins at 0), or a count is smaller than it was.
    """
    if before is None or after is None or seconds <= 0 or before.program != after.program:
        return None
    runs, spent = after.runs - before.runs, after.nanoseconds - before.nanoseconds
    missed = after.missed - before.missed
    if runs < 0 or spent < 0 or missed < 0:
        return None
    return Rate(
        runs=runs / seconds,
        nanoseconds=spent / runs if runs else None,
        share=spent / _NANOS / seconds,
        missed=missed / seconds,
    )


def rates(
    before: Mapping[str, RunCounts | None], after: Mapping[str, RunCounts | None], seconds: float
) -> dict[str, Rate | None]:
    """The same for every link of the later reading, by name."""
    return {name: rate(before.get(name), counts, seconds) for name, counts in after.items()}
