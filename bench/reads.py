"""Reads while swaps are under way: a slow verb must not hold up a reader."""

import subprocess
import sys
from collections.abc import Iterator

from bench.setting import Place, Setting
from bench.table import Row, below
from bench.timing import Step, once, percentile
from tests.lab.daemon import pinned

_SWAPS = 100
_RUNS = 6
_IDLE = 500
_LIMIT = 20.0


def under_swaps(setting: Setting) -> Iterator[Row]:
    """GIO's own thread answers a Ping, so a property read is taken the same way: the main loop's answer."""
    place = setting.small
    pair = place.pair("drop", "read")
    place.world.veth("read", "readp")
    place.daemon.attach("read", {"xdp": "read"}, pinned(pair[0]))
    command = [sys.executable, "-m", "bench.swapper", place.world.bus, "read", *map(str, pair), str(_SWAPS)]
    for what, step in (("Ping", place.client.ping), ("Properties.Get", place.client.read("read"))):
        idle = [once(step) for _ in range(_IDLE)]
        busy = [taken for _ in range(_RUNS) for taken in _while_swapping(place, command, step)]
        yield below(
            f"{what} during {_SWAPS} XDP swaps, p99 of {len(busy)} (floor: idle)",
            percentile(busy, 99),
            _LIMIT,
            floor=percentile(idle, 99),
        )
    place.daemon.detach("read")


def _while_swapping(place: Place, command: list[str], step: Step) -> list[float]:
    swapper = place.world.process(*command, stdout=subprocess.PIPE)
    assert swapper.stdout is not None
    swapper.stdout.readline()
    times = []
    while swapper.poll() is None:
        times.append(once(step))
    if swapper.returncode != 0:
        raise RuntimeError("the swaps failed")
    return times
