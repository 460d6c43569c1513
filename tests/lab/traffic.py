"""Sends a bounded number of test frames from one interface: `python -m tests.lab.traffic IFACE COUNT`.

Frames carry the ether type 0x88b5 (local experimental) and go to the broadcast address. Prints how
many the kernel took. With COUNT 0 it sends until its standard input ends, at most a minute.
"""

import errno
import select
import socket
import sys
import time
from collections.abc import Callable

ETHERTYPE = 0x88B5
FRAME = b"\xff" * 6 + b"\x02" + b"\0" * 5 + ETHERTYPE.to_bytes(2, "big") + b"\0" * 50
_BURST = 64
_LONGEST = 60.0
_FULL = 0.001


def frames(interface: str) -> Callable[[], int]:
    """Sends a frame each time it is called; returns how many the kernel took, 0 where its queue was full."""
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    out.bind((interface, 0))

    def once() -> int:
        try:
            out.send(FRAME)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            time.sleep(_FULL)
            return 0
        return 1

    return once


def main(interface: str, count: int) -> int:
    """Send; returns the number of frames sent."""
    once = frames(interface)
    sent, deadline = 0, time.monotonic() + _LONGEST
    print("sending", flush=True)
    while sent < count or (count == 0 and not select.select([sys.stdin], [], [], 0)[0]):
        for _ in range(_BURST if count == 0 else min(_BURST, count - sent)):
            sent += once()
        if time.monotonic() > deadline:
            break
    return sent


if __name__ == "__main__":
    print(main(sys.argv[1], int(sys.argv[2])))
