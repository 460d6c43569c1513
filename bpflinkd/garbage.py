"""Keeps Python's garbage collector from holding up the main loop.

A full collection walks through everything that is alive, which took 20 to 40 ms with 1,000 links. What one
has found alive is set aside, and the next walks through what came after it.
"""

import gc
from typing import Final

_SOONER: Final = 4
"""Collections of what is not quite new before a full one. Python has 10: more would have come by then."""


def begin() -> None:
    """From now on. What there is by now stays: it is imported, or built for good."""
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _SOONER)
    gc.callbacks.append(_collected)


def look_at_all() -> None:
    """Something large ended, and may be a cycle: the next full collection walks through everything again."""
    gc.unfreeze()


def _collected(phase: str, told: dict[str, int]) -> None:
    if phase == "stop" and told["generation"] == 2:
        gc.freeze()
