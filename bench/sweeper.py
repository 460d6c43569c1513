"""A sweep against its floor: `python -m bench.sweeper STATE_DIR BPFFS`, while no daemon uses them.

A process of its own: it is the daemon's core, kernel, pins and store, composed without a bus. The
floor asks the kernel of the same links, by other fds, with nothing else. Prints the times as JSON.
"""

import ctypes
import json
import sys
import time
from pathlib import Path

from bench.timing import interleaved
from bpflinkd.config.receiver import receiver
from bpflinkd.core.ids import Micros, UnixMicros
from bpflinkd.core.manager import Manager
from bpflinkd.core.model import State
from bpflinkd.kernel import libbpf, sentinel
from bpflinkd.kernel.bpffs import PinDirectory
from bpflinkd.kernel.info import LINK_INFO_SIZE
from bpflinkd.kernel.system import LinuxKernel
from bpflinkd.store.sqlite import SqliteStore
from bpflinkd.systemd import FdStore
from bpflinkd.trials import uptime

_ROUNDS = 300


def main(state_dir: Path, bpffs: Path) -> None:
    """Take the links back, then sweep."""
    manager = Manager(
        LinuxKernel(),
        PinDirectory(bpffs, FdStore()),
        SqliteStore(state_dir),
        lambda _news: None,
        lambda: UnixMicros(time.time_ns() // 1000),
        lambda: Micros(time.monotonic_ns() // 1000),
        uptime,
        receiver,
        sentinel.off(bpffs),
        time.monotonic_ns,
    )
    manager.start(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    views = manager.views()
    inactive = [view.record.name for view in views if view.health.state is not State.ACTIVE]
    if inactive or not views:
        sys.exit(f"{len(inactive)} of {len(views)} links are not active")
    fds = [libbpf.obj_get(str(pin)) for pin in bpffs.glob("*/link")]
    if len(fds) != len(views):
        sys.exit(f"{len(fds)} pins, but {len(views)} links")

    ask = ctypes.CDLL("libbpf.so.1").bpf_obj_get_info_by_fd
    ask.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    buffer = ctypes.create_string_buffer(LINK_INFO_SIZE)
    size = ctypes.c_uint32(LINK_INFO_SIZE)
    place = ctypes.byref(size)

    def floor() -> None:
        for fd in fds:
            if ask(fd, buffer, place) != 0:
                raise OSError("a link cannot be read")

    print(json.dumps(interleaved(floor, manager.sweep, _ROUNDS)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
