"""Each packet is seen by the old or the new program: never by both, never by neither."""

import subprocess
import sys
from collections.abc import Iterator

from bench.setting import Setting
from bench.table import Row
from tests.lab.daemon import pinned
from tests.lab.maps import Counters

_PACKETS = 1_000_000


class WrongCountError(Exception):
    """Packets were missed, or counted twice."""


def counted_once(setting: Setting) -> Iterator[Row]:
    """Swap two counting programs back and forth while frames come in."""
    place = setting.small
    pair = place.pair("drop", "count")
    counters = [Counters(place.maps(pin) / "counters") for pin in pair]
    place.world.veth("count", "countp")
    place.daemon.attach("count", {"xdp": "count"}, pinned(pair[0]))
    swap = place.client.replacer("count", pair)
    command = place.world.inside(sys.executable, "-m", "tests.lab.traffic", "countp", str(_PACKETS))
    traffic = place.world.process(*command, stdout=subprocess.PIPE)
    assert traffic.stdout is not None
    traffic.stdout.readline()
    swaps = 0
    while traffic.poll() is None:
        swap()
        swaps += 1
    sent = int(traffic.stdout.read())
    old, new = (counter[0] for counter in counters)
    place.daemon.detach("count")
    for counter in counters:
        counter.close()
    missed = sent - old - new
    yield Row(
        what=f"packets that saw neither or both, of {sent:,} over {swaps} swaps (old {old:,}, new {new:,})",
        measured=str(missed),
        target="0",
        met=missed == 0 and sent == _PACKETS,
    )
    if missed or sent != _PACKETS:
        raise WrongCountError(f"{sent} sent, {old} + {new} counted, over {swaps} swaps")
