"""Taking times."""

import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

Step: TypeAlias = Callable[[], object]

_GOLDEN = 0.618


def once(step: Step) -> float:
    """How long it takes, in milliseconds."""
    begin = time.perf_counter_ns()
    step()
    return (time.perf_counter_ns() - begin) / 1e6


def interleaved(
    floor: Step, measured: Step, rounds: int, *, warm_up: int = 5, pause: float = 0
) -> tuple[list[float], list[float]]:
    """Times of both, taken in turn so that noise hits both; who is first alternates too.

    Args:
        floor: what the other is compared with.
        measured: the other.
        rounds: how often each is done.
        warm_up: rounds before those that count.
        pause: about how many seconds to sit still before each; it varies, so that neither falls into
            step with a clock of the kernel's.
    """
    times: tuple[list[float], list[float]] = ([], [])
    steps = (floor, measured)
    for number in range(-warm_up, rounds):
        for turn, which in enumerate((0, 1) if number % 2 else (1, 0)):
            if pause:
                time.sleep(pause * (0.5 + (2 * number + turn) * _GOLDEN % 1))
            taken = once(steps[which])
            if number >= 0:
                times[which].append(taken)
    return times


def percentile(times: Sequence[float], percent: float) -> float:
    """The value that `percent` of the times do not exceed."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
