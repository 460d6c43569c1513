"""A file system of one file, `stuck`, that never answers one process's flush: what an attacker can mount.

    python3 -I fuse.py DIRECTORY PID

Prints `mounted`, and then the name of each request that the process makes. It goes when it is ended: the
kernel then gives up whatever waits for it.
"""

import ctypes
import os
import stat
import struct
import sys
from enum import IntEnum

_HEADER = struct.Struct("<IIQQIIII")
_ATTRIBUTES = struct.Struct("<6Q10I")
_ENTRY = struct.Struct("<4Q2I")
_INIT_OUT = struct.Struct("<4I2H2I2H8I")


class Operation(IntEnum):
    """include/uapi/linux/fuse.h"""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    RELEASE = 18
    FLUSH = 25
    INIT = 26
    INTERRUPT = 36
    BATCH_FORGET = 42


_KNOWN = frozenset(Operation)
_SIZE = 4096
_ENOSYS = 38


def mount(place: str) -> int:
    """Mount; returns the descriptor that requests come from."""
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"stuck", place.encode(), b"fuse", 0, options) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    return fd


def attributes(node: int) -> bytes:
    """The root is a directory, all else the file."""
    mode = stat.S_IFDIR | 0o755 if node == 1 else stat.S_IFREG | 0o644
    return _ATTRIBUTES.pack(node, _SIZE, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def reply(fd: int, unique: int, body: bytes = b"", error: int = 0) -> None:
    """Answer one request."""
    os.write(fd, struct.pack("<IiQ", 16 + len(body), -error, unique) + body)


def serve(fd: int, pid: str) -> None:
    """Answer what the kernel asks, for ever."""
    while True:
        request = os.read(fd, 1 << 20)
        _, operation, unique, node, _, _, thread, _ = _HEADER.unpack_from(request)
        theirs = os.path.exists(f"/proc/{pid}/task/{thread}")
        if theirs:
            print(Operation(operation).name.lower() if operation in _KNOWN else operation, flush=True)
        match operation:
            case Operation.INIT:
                reply(fd, unique, _INIT_OUT.pack(7, 31, 0, 0, 0, 0, 65536, 1, 0, 0, *[0] * 8))
            case Operation.LOOKUP:
                reply(fd, unique, _ENTRY.pack(2, 0, 0, 0, 0, 0) + attributes(2))
            case Operation.GETATTR:
                reply(fd, unique, struct.pack("<QII", 0, 0, 0) + attributes(node))
            case Operation.OPEN:
                reply(fd, unique, struct.pack("<QII", 1, 0, 0))
            case Operation.READ:
                reply(fd, unique, b"x" * _SIZE)
            case Operation.FLUSH:
                if not theirs:
                    reply(fd, unique)
            case Operation.RELEASE:
                reply(fd, unique)
            case Operation.FORGET | Operation.INTERRUPT | Operation.BATCH_FORGET:
                pass
            case _:
                reply(fd, unique, error=_ENOSYS)


if __name__ == "__main__":
    requests = mount(sys.argv[1])
    print("mounted", flush=True)
    serve(requests, sys.argv[2])
