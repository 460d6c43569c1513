"""Hundreds of swaps under load: every frame meets exactly one of the two programs."""

import time
from typing import Final

from integration.demo.stage import LINK, Filter, Stage
from tests.lab.daemon import pinned
from tests.lab.maps import Counters

TITLE: Final = "Replaced under load, again and again"
PROMISE: Final = "A swap loses no frame and doubles none"

SWAPS: Final = 400


def play(stage: Stage) -> str:
    """Swap between two counting filters while frames arrive."""
    stage.tell(
        "Two filters, each counting the test frames it sees; the first passes them, the second drops them."
    )
    for name in ("count_old", "count_new"):
        stage.filters.append(_filter(stage, name))
    stage.tell(
        f"Now {SWAPS} swaps between the two pins, straight over D-Bus, while the peer sends all it can."
    )
    before, generation = [each.counted for each in stage.filters], stage.link()["Generation"]
    sender = stage.sender()
    began, busy = time.monotonic(), 0
    for turn in range(SWAPS):
        stage.interrupts.check()
        counted = stage.counted()
        stage.daemon.replace(LINK, pinned(stage.filters[turn % 2].pin))
        busy += stage.counted() > counted
    took = time.monotonic() - began
    sent = sender.stop()
    stage.settled(lambda: stage.counted() - sum(before), sent)
    old, new = (each.counted - start for each, start in zip(stage.filters, before, strict=True))
    swaps = stage.link()["Generation"] - generation
    stage.hold(swaps == SWAPS, f"{SWAPS} replaces made {swaps} generations")
    stage.hold(busy > SWAPS // 2, f"frames arrived during {busy} of {SWAPS} swaps only: that is no load")
    stage.hold(
        sent == old + new, f"sent {sent:,}, but counted {old:,} by old + {new:,} by new = {old + new:,}"
    )
    return (
        f"sent {sent:,} = {old:,} counted by old + {new:,} counted by new, over {swaps} swaps "
        f"of {took / swaps * 1000:.1f} ms, {busy} of them while frames arrived"
    )


def _filter(stage: Stage, name: str) -> Filter:
    """Attach a program of the object, and pin it so that it outlives its turn."""
    stage.ctl("replace", LINK, "--object", "count.bpf.o", "--program", name, "--fresh-maps")
    link = stage.link()
    pin = stage.world.bpffs / name
    stage.shell("bpftool", "prog", "pin", "id", str(link["Program"]["id"]), str(pin))
    return Filter(name, pin, Counters(stage.daemon.pins / LINK / "maps" / "counters"))
