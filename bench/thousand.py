"""A daemon with a thousand cgroup links."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from bench.rawbus import RawBus
from bench.setting import LINKS, Place, Setting
from bench.table import Row, against_floor, below, milliseconds
from bench.timing import interleaved, once
from tests.lab.world import run

_READS = 40
_STARTS = 5
_COMMANDS = 12
_READ_LIMIT_MS = 60
_START_LIMIT_S = 3
_MEMORY_LIMIT_MB = 60


def objects(setting: Setting) -> Iterator[Row]:
    """All links in one message, as it comes; and made into Python objects, which is the client's time."""
    place = setting.thousand
    packed = [once(place.client.managed_objects) for _ in range(_READS)]
    yield below(f"GetManagedObjects, {LINKS} links", median(packed), _READ_LIMIT_MS)
    with RawBus(place.world.bus) as raw:
        parsed_by_nobody = [once(raw.managed_objects) for _ in range(_READS)]
        size = raw.managed_objects()
    yield Row(
        what=f"the same until the last of {size // 1000} kB is here, parsed by nobody",
        measured=milliseconds(median(parsed_by_nobody)),
    )
    unpacked = [once(lambda: place.client.managed_objects().unpack()) for _ in range(_READS // 4)]
    yield Row(what="the same, unpacked by a Python client", measured=milliseconds(median(unpacked)))
    found = len(place.client.managed_objects().unpack()[0])
    if found != LINKS:
        raise RuntimeError(f"{found} links instead of {LINKS}")


def start(setting: Setting) -> Iterator[Row]:
    """From exec until the bus name is taken, which is when every link is held and READY=1 sent."""
    place = setting.thousand
    times = []
    for _ in range(_STARTS):
        place.daemon.end()
        times.append(once(place.daemon.start) / 1000)
    yield below(f"daemon start, {LINKS} links to take back", median(times), _START_LIMIT_S, "s")


def memory(setting: Setting) -> Iterator[Row]:
    """Resident memory after a start and after reads."""
    place = setting.thousand
    place.daemon.restart()
    fresh = _resident(place)
    yield below(f"resident memory, {LINKS} links, after a start", fresh, _MEMORY_LIMIT_MB, "MB")
    for _ in range(_READS):
        place.client.managed_objects()
    yield below(f"the same, after {_READS} GetManagedObjects", _resident(place), _MEMORY_LIMIT_MB, "MB")


def sweep(setting: Setting) -> Iterator[Row]:
    """One look at every link. The daemon makes room for a process that holds the same links."""
    place = setting.thousand
    place.daemon.end()
    try:
        words = (place.daemon.state_dir, place.daemon.pins)
        floor, measured = json.loads(run(sys.executable, "-m", "bench.sweeper", *words))
    finally:
        place.daemon.start()
    yield against_floor(f"sweep of {LINKS} links / {LINKS} x bpf_obj_get_info_by_fd", floor, measured, 2)


def command_line(setting: Setting) -> Iterator[Row]:
    """`bpflinkctl list`, whole process, its output a pipe."""
    place = setting.thousand
    tool = Path(sys.executable).with_name("bpflinkctl")

    def listing() -> str:
        return run(tool, "--bus", place.world.bus, "list")

    shown = sum("egress-" in line for line in listing().splitlines())
    if shown != LINKS:
        raise RuntimeError(f"bpflinkctl list shows {shown} links")
    yield against_floor(
        f"bpflinkctl list, {LINKS} links, whole process / python -c 'import pydbus'",
        *interleaved(lambda: run(sys.executable, "-c", "import pydbus"), listing, _COMMANDS, warm_up=2),
        1.6,
    )


def _resident(place: Place) -> float:
    assert place.daemon.process is not None
    text = Path(f"/proc/{place.daemon.process.pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6
