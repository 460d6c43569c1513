"""`bpflinkctl diff` of 100,000 packets: what a person waits for, and the bare test runs in it."""

import ctypes
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from bench.setting import Setting
from bench.table import Row, below
from bpflinkd.core import attach_types
from bpflinkd.kernel import objects
from bpflinkd.kernel.testrun import Bench
from tests.lab.captures import pcap, udp
from tests.lab.compiled import program
from tests.lab.daemon import elf

_PACKETS = 100_000
_ROUNDS = 5
_LIMIT = 10.0
_PROGRAMS = ("filter", "no_telnet")


def hundred_thousand(setting: Setting) -> Iterator[Row]:
    """Both programs look into a hash and write to three maps, for each packet."""
    place = setting.small
    place.world.veth("diff", "diffp")
    place.daemon.attach("diff", {"xdp": "diff"}, elf(program("filter"), _PROGRAMS[0]))
    packets = [udp("10.0.0.1", 80), udp("10.0.0.1", 23), udp("10.0.0.2", 80, 600), udp("fd00::1", 80)]
    capture = place.world.dir / "diff.pcap"
    capture.write_bytes(pcap(packets * (_PACKETS // len(packets))))
    source = ["--object", str(program("filter")), "--program", _PROGRAMS[1], "--pcap", str(capture)]
    control = Path(sys.executable).with_name("bpflinkctl")
    command = [str(control), "--bus", place.world.bus, "diff", "diff", *source]
    bare, whole = [], []
    for _ in range(_ROUNDS):
        bare.append(_bare(packets))
        begun = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        whole.append(time.monotonic() - begun)
        if "100,000 packets were tried" not in done.stdout:
            raise RuntimeError(done.stdout + done.stderr)
    place.daemon.detach("diff")
    what = "bpflinkctl diff of 100,000 packets, whole process (floor: 200,000 bare test runs)"
    yield below(what, median(whole), _LIMIT, unit="s", floor=median(bare))


def _bare(packets: list[bytes]) -> float:
    """Seconds for the system calls alone."""
    data = program("filter").read_bytes()
    programs = [objects.load(data, name, attach_types.XDP) for name in _PROGRAMS]
    buffers = [ctypes.create_string_buffer(packet, len(packet)) for packet in packets]
    places = [(ctypes.addressof(buffer), len(buffer)) for buffer in buffers]
    old, new = (Bench(each.fd) for each in programs)
    begun = time.monotonic()
    for _ in range(_PACKETS // len(packets)):
        for address, size in places:
            old.run(address, size)
            new.run(address, size)
    took = time.monotonic() - begun
    for each in programs:
        each.close()
    return took
