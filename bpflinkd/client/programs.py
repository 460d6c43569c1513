"""Where a program comes from, as a client says it, and how its file travels."""

# ruff: noqa: PLC0415  # limits are known where there is a file to send

import errno
import fcntl
import os
import stat
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from bpflinkd.client.errors import BadInput

_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_CHUNK: Final = 1 << 20

File: TypeAlias = str | os.PathLike[str] | bytes
"""The path of a file, or the file itself as bytes."""


class Object(NamedTuple):
    """An ELF object; the program's name may be left out where it holds one."""

    file: File
    program: str | None = None
    constants: Mapping[str, str] | None = None
    """Values of global constants (`const volatile`), by name."""


class CSource(NamedTuple):
    """C for bcc, which the daemon compiles; the function's name may be left out where it holds one."""

    file: File
    program: str | None = None


class Pinned(NamedTuple):
    """A program that is pinned on a bpffs. The daemon opens it, so it is for root."""

    path: str


class ProgramId(NamedTuple):
    """A loaded program, by its kernel id. For root, as a pin."""

    id: int


class ProgramFd(NamedTuple):
    """A loaded program, by a descriptor of it. It stays the caller's, who may close it after the call."""

    fd: int


class Builtin(NamedTuple):
    """A program that ships with bpflinkd. `pass` lets everything through."""

    name: str


class Generation(NamedTuple):
    """A generation of the same link from before; only for a replace, which is a rollback then."""

    number: int | None = None
    """None for the one before the present one."""


Program: TypeAlias = Object | CSource | Pinned | ProgramId | ProgramFd | Builtin | Generation


def sealed(source: Object | CSource) -> int:
    """Copy a file into a memfd that nobody can change any more; its descriptor is the caller's to close.

    The daemon takes nothing else from a caller that is not root: what it has checked must be what it loads.

    Raises:
        BadInput: the file cannot be opened, is not a regular file, or is too large.
        OSError: there is no memory for the copy.
    """
    return sealed_together([(source, "")])[0]


def sealed_together(
    sources: Sequence[tuple[Object | CSource, str]],
) -> tuple[int, dict[object, tuple[int, int]]]:
    """The same of several files in one memfd, each once.

    Args:
        sources: with each where it is named, which refusals begin with; empty where that is plain.

    Returns:
        The descriptor; and by kind (`object` or `source`) and file its offset and length.
    """
    kinds = {"object" if isinstance(source, Object) else "source" for source, _ in sources}
    name = kinds.pop() if len(kinds) == 1 else "programs"
    copy = os.memfd_create(f"bpflinkd-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    parts: dict[object, tuple[int, int]] = {}
    offset = 0
    try:
        for source, where in sources:
            what = "object" if isinstance(source, Object) else "source"
            if (what, source.file) not in parts:
                size = _append(copy, source, what, where)
                parts[what, source.file] = offset, size
                offset += size
        os.lseek(copy, 0, os.SEEK_SET)
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(copy)
        raise
    return copy, parts


def _append(copy: int, source: Object | CSource, what: str, where: str) -> int:
    from bpflinkd.core.sources import MAX_OBJECT, MAX_SOURCE

    limit = MAX_OBJECT if what == "object" else MAX_SOURCE
    try:
        size = _fill(copy, source.file, what, limit + 1)
        if size > limit:
            raise BadInput(
                f"{_named(source.file, what)} is larger than {limit >> 20} MiB, which is the limit"
            )
    except BadInput as error:
        raise BadInput(f"{where}: {error.sentence}" if where else error.sentence) from None
    return size


def _fill(copy: int, file: File, what: str, most: int) -> int:
    """Write at most so many bytes of the file; returns how many it were."""
    if isinstance(file, bytes):
        with open(copy, "wb", closefd=False) as memory:
            return memory.write(file[:most])
    opened = _open(file, what)
    size = 0
    try:
        while size < most and (sent := os.sendfile(copy, opened, None, min(_CHUNK, most - size))):
            size += sent
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise BadInput(f"{_named(file, what)} cannot be read: {error.strerror}") from None
    finally:
        os.close(opened)
    return size


def _open(file: str | os.PathLike[str], what: str) -> int:
    try:
        # Without O_NONBLOCK a FIFO would make us wait for its writer.
        opened = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BadInput(f"{_named(file, what)} cannot be opened: {error.strerror}") from None
    except ValueError as error:
        raise BadInput(f"{_named(file, what)} cannot be opened: {error}") from None
    mode = os.fstat(opened).st_mode
    if not stat.S_ISREG(mode):
        os.close(opened)
        found = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        such_as = "an ELF object such as filter.bpf.o" if what == "object" else "C for bcc such as filter.c"
        raise BadInput(f"{_named(file, what)} is {found}; give {such_as}")
    return opened


def _named(file: File, what: str) -> str:
    return f"the {what}" if isinstance(file, bytes) else f"the {what} file {os.fspath(file)}"
