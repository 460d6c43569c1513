"""kprobes: what the dispatcher costs a hit, what a swap costs, and that no hit is lost or doubled.

Needs a kernel with kprobes; `make bench-guest` runs these in a guest.
"""

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import cast

from bench.setting import Place, Setting
from bench.table import Row, against_floor
from bench.timing import interleaved
from bpflinkd.core import attach_types
from bpflinkd.core.sources import PinnedProgram
from bpflinkd.core.targets import KprobeHook, KprobeTarget
from bpflinkd.kernel import dispatcher, libbpf, perf
from bpflinkd.kernel.dispatched import DispatchedLink
from bpflinkd.kernel.kprobe import Kprobes
from bpflinkd.kernel.program import HeldProgram, from_pin
from bpflinkd.kernel.system import LinuxKernel
from tests.lab.daemon import pinned
from tests.lab.maps import Counters
from tests.lab.world import run

# Two functions that do the same; nothing else calls them.
_MAX, _MIN = "__x64_sys_sched_get_priority_max", "__x64_sys_sched_get_priority_min"
_NUMBER = {_MAX: 146, _MIN: 147}
_CALLS = 100_000
_ROUNDS = 10
_WARM_UP = 5
_SWAPS = 10_000
_HITS = 1_000_000
_REPLACES = 100


_numbers = itertools.count()


class WrongCountError(Exception):
    """Hits were missed, or counted twice."""


def hits(setting: Setting) -> Iterator[Row]:
    """The same program on two like functions: attached directly, and dispatched."""
    place = setting.small
    hammer = _hammer(place)
    first, second = place.pair("kprobe", "hit")
    bare = [_cost(hammer, function) for _ in range(_ROUNDS) for function in (_MAX, _MIN)]
    direct: list[float] = []
    dispatched: list[float] = []
    # Each function has each part once, so that what tells them apart falls out.
    for one, other in ((_MAX, _MIN), (_MIN, _MAX)):
        direct_link = _direct(first, one)
        place.daemon.attach("hit", {"kprobe": other}, pinned(second))
        parts = [(one, direct), (other, dispatched)]
        for _ in range(_WARM_UP):  # the kernel turns a kprobe's trap into a jump a little later
            _cost(hammer, one), _cost(hammer, other)
        for _ in range(_ROUNDS):
            parts.reverse()
            for function, costs in parts:
                costs.append(_cost(hammer, function) - median(bare))
        os.close(direct_link)
        place.daemon.detach("hit")
    yield Row(what="a system call without a probe", measured=f"{median(bare):.0f} ns")
    yield Row(
        what="a hit of a dispatched program / attached directly, each less the bare call",
        floor=f"{median(direct):.0f} ns",
        measured=f"{median(dispatched):.0f} ns",
        ratio=median(dispatched) / median(direct),
    )


def swaps(setting: Setting) -> Iterator[Row]:
    """A swap of ours is a look at the slot and an update; the floor is the update."""
    place = setting.small
    pair = place.pair("kprobe", "swap")
    made = dispatcher.load(attach_types.KPROBE, KprobeHook())
    fds = itertools.cycle([libbpf.obj_get(str(pin)) for pin in pair])
    kernel, link, programs = _linked(place)
    turns = itertools.cycle([(programs[1], programs[0]), (programs[0], programs[1])])

    def update() -> None:
        made.slot.put(next(fds))

    def swap() -> None:
        new, old = next(turns)
        kernel.swap(link, KprobeTarget(symbol=_MAX), new, old.info.id)

    yield against_floor(
        "kprobe swap in the kernel / bare map update of a slot that is on no probe",
        *interleaved(update, swap, 500),
        None,
    )
    place.daemon.attach("swap", {"kprobe": _MIN}, pinned(pair[0]))
    replace = place.client.replacer("swap", pair)
    yield against_floor(
        "kprobe replace over D-Bus, durable / bare map update", *interleaved(update, replace, _REPLACES), None
    )
    place.daemon.detach("swap")
    link.detach()
    link.close()
    made.close()


def counted_once(setting: Setting) -> Iterator[Row]:
    """Swap two counting programs back and forth while a system call is hammered."""
    place = setting.small
    hammer = _hammer(place)
    kernel, link, programs = _linked(place)
    pins = [Path(cast(PinnedProgram, program.source).path) for program in programs]
    counters = [Counters(place.maps(pin) / "counters") for pin in pins]
    command = [str(hammer), str(_NUMBER[_MAX]), str(_HITS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin
        assert running.stdout
        running.stdout.readline()
        for number in range(_SWAPS):
            old, new = programs[number % 2], programs[(number + 1) % 2]
            kernel.swap(link, KprobeTarget(symbol=_MAX), new, old.info.id)
        running.stdin.close()
        made = int(running.stdout.read().split()[0])
    missed = link.misses().empty
    counted = [each[0] for each in counters]
    link.detach()
    link.close()
    wrong = made - sum(counted)
    yield Row(
        what=f"hits that ran neither or both, of {made:,} over {_SWAPS:,} swaps "
        f"({counted[0]:,} + {counted[1]:,}; {missed} missed)",
        measured=str(wrong),
        target="0",
        met=wrong == 0 and missed == 0,
    )
    if wrong or missed:
        raise WrongCountError(f"{made} hits, {counted} counted, {missed} missed")


def _hammer(place: Place) -> Path:
    output = place.world.dir / "hammer"
    if not output.exists():
        run("clang", "-O2", Path(__file__).parent / "programs" / "hammer.c", "-o", output)
    return output


def _cost(hammer: Path, function: str) -> float:
    """Nanoseconds a call."""
    done = run(hammer, str(_NUMBER[function]), str(_CALLS), stdin=subprocess.DEVNULL)
    made, taken = done.splitlines()[1].split()
    return int(taken) / int(made)


def _direct(pin: Path, function: str) -> int:
    """A link without a dispatcher; ends with its fd."""
    event = perf.open_kprobe(function, 0, at_return=False)
    link = libbpf.link_create_kprobe(libbpf.obj_get(str(pin)), event, 0)
    os.close(event)
    return link


def _linked(place: Place) -> tuple[LinuxKernel, DispatchedLink, list[HeldProgram]]:
    """A link of our own without a daemon, and the two programs that it swaps; it runs the first."""
    programs = [
        from_pin(str(pin), PinnedProgram(path=str(pin)))
        for pin in place.pair("kprobe", f"linked{next(_numbers)}")
    ]
    link = Kprobes().attach(KprobeTarget(symbol=_MAX), KprobeHook(), programs[0])
    return LinuxKernel(), link, programs
