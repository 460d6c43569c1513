"""The files that callers send as open descriptors: read whole, and checked before they are."""

import fcntl
import os
import stat
from typing import Final

from bpflinkd.core.errors import BadProgram
from bpflinkd.core.sources import Part

_SEALS: Final = {
    fcntl.F_SEAL_WRITE: "writing",
    fcntl.F_SEAL_SHRINK: "shrinking",
    fcntl.F_SEAL_GROW: "growing",
}


def read_file(fd: int, what: str, most: int, part: Part | None = None) -> bytes:
    """The bytes of a file of root's. Copied: later writes do not matter. `BadProgram`.

    Args:
        what: what it should hold, for sentences.
        most: bytes that are accepted.
        part: where it is in the file; None: it is all of it.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise BadProgram(f"the {what} is not a regular file")
    offset, size = part or (0, status.st_size)
    if size > most:
        raise BadProgram(f"the {what} file has {size} bytes; at most {most} are accepted")
    if offset + size > status.st_size:
        raise BadProgram(
            f"the {what} is to be {size} bytes from {offset} on, but the file that was sent has "
            f"{status.st_size}; 'part' is its offset and length"
        )
    try:
        return os.pread(fd, size if part else most, offset)
    except OSError as error:
        raise BadProgram(f"the {what} file cannot be read: {os.strerror(error.errno or 0)}") from None


def read_sealed(fd: int, what: str, most: int, part: Part | None = None) -> bytes:
    """The same from a caller who is not root: it must be a memfd that nobody can change any more.

    Whoever serves a FUSE file lets a read of it, or a mere fstat, hang for ever, and us with it. Asking for
    the seals enters no file system, and only memory files have them. Source: mm/memfd.c memfd_fcntl().
    """
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        raise BadProgram(f"the {what} is not a memfd; {_advice(what)}") from None
    open_to = [word for seal, word in _SEALS.items() if not seals & seal]
    if open_to:
        raise BadProgram(f"the {what} is not a memfd sealed against {', '.join(open_to)}; {_advice(what)}")
    return read_file(fd, what, most, part)


def _advice(what: str) -> str:
    return (
        f"copy the {what} into a memfd and seal it against writing, shrinking and growing, as bpflinkctl and "
        "bpflinkd.client do"
    )
