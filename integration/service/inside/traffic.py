"""Runs in the guest: frames from one interface to another, and how many went past the other's hook.

`traffic.py FROM TO COUNT RESULT`: brings both up, sends at once, and writes {"sent", "passed"} to RESULT.
With COUNT 0 it sends until SIGTERM, five minutes at the longest. Frames are those of tests/lab/traffic.py.
"""

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import time
from pathlib import Path

ETHERTYPE = 0x88B5
FRAME = b"\xff" * 6 + b"\x02" + b"\0" * 5 + ETHERTYPE.to_bytes(2, "big") + b"\0" * 50
_BURST = 16
_PAUSE = 0.02
_SETTLE = 0.5
_LONGEST = 300.0
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def main(source: str, target: str, count: int, result: Path) -> None:
    """Send and count."""
    going = True

    def stop(*_: object) -> None:
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, stop)
    with bound(source, 0) as out, bound(target, ETHERTYPE) as past:
        for interface in (target, source):
            up(out, interface)
        sent = passed = 0
        started()
        deadline = time.monotonic() + _LONGEST
        while going and time.monotonic() < deadline and (count == 0 or sent < count):
            for _ in range(_BURST if count == 0 else min(_BURST, count - sent)):
                try:
                    out.send(FRAME)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    break  # the queue is full: it was not sent
                sent += 1
            passed += received(past)
            time.sleep(_PAUSE)
        time.sleep(_SETTLE)
        passed += received(past)
    half = result.with_suffix(".half")
    half.write_text(json.dumps({"sent": sent, "passed": passed}))
    half.rename(result)


def bound(interface: str, ethertype: int) -> socket.socket:
    """A socket for frames of one interface; it sees what the XDP hook let pass, also in generic mode."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    made.bind((interface, ethertype))
    # That the interface is down is kept as an error for the next call; it begins to hear when it goes up.
    made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return made


def received(past: socket.socket) -> int:
    """How many frames wait, other than those that go out of the interface."""
    found = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            _, address = past.recvfrom(2048, socket.MSG_DONTWAIT)
            found += address[2] != socket.PACKET_OUTGOING
    return found


def up(any_socket: socket.socket, interface: str) -> None:
    """`ip link set INTERFACE up`, without starting ip between that and the first frame."""
    name = interface.encode().ljust(16, b"\0")
    now = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, name + b"\0" * 16)
    (flags,) = struct.unpack_from("H", now, 16)
    fcntl.ioctl(any_socket, _SIOCSIFFLAGS, name + struct.pack("H14x", flags | _IFF_UP))


def started() -> None:
    """Tell systemd, where it asked to be told."""
    place = os.environ.get("NOTIFY_SOCKET")
    if place:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.sendto(b"READY=1", place.replace("@", "\0", 1))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
