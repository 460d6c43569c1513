"""What stands at a path of a bpffs, and moving aside what is not ours.

bpffs takes directories, pins, symbolic links and hard links (kernel/bpf/inode.c bpf_dir_iops), so each of
them can stand where a pin of ours should be.
"""

import contextlib
import ctypes
import itertools
import os
import stat
import struct
from collections.abc import Iterator
from ctypes import c_uint32
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bpflinkd.kernel import info, libbpf

BPFFS_MAGIC: Final = 0xCAFE4A11
_KINDS: Final = ("program", "map", "link")
_HEAD: Final = struct.Struct("=II")
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Found:
    """What stands at a path."""

    kind: str
    """`program`, `map`, `link`, `directory`, `symlink`, or `object` for one that cannot be opened."""
    id: int
    """The kernel's id of a program, map or link; else the inode number."""

    def __str__(self) -> str:
        """In words, with all that the kernel tells of it."""
        with contextlib.suppress(OSError):
            match self.kind:
                case "program":
                    return f"program {info.program_info_by_id(self.id)}"
                case "map":
                    with opened_map(self.id) as fd:
                        return f"map {info.map_name(fd) or '(unnamed)'} (id {self.id})"
                case "link":
                    return f"a bpf_link (id {self.id})"
                case "directory":
                    return "a directory"
                case "symlink":
                    return "a symbolic link"
        return "an object that cannot be opened"


def on_bpffs(path: Path) -> bool:
    """Whether a path is on a bpffs: f_type of statfs(2), the first long of the struct. OSError: ENOENT."""
    buffer = (ctypes.c_long * 32)()
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    return buffer[0] & 0xFFFFFFFF == BPFFS_MAGIC


@contextlib.contextmanager
def opened_map(map_id: int) -> Iterator[int]:
    """An fd of a map. OSError: ENOENT it is gone."""
    fd = libbpf.map_fd_by_id(map_id)
    try:
        yield fd
    finally:
        os.close(fd)


def found(fd: int) -> Found:
    """What a descriptor of a program, map or link would be if it were pinned.

    Each `struct bpf_{prog,map,link}_info` begins with u32 type, u32 id; no more is asked for.
    """
    kind = info.kind_of_fd(fd)
    if kind not in _KINDS:
        return Found("object", os.fstat(fd).st_ino)
    buffer = ctypes.create_string_buffer(_HEAD.size)
    libbpf.obj_info(fd, buffer, c_uint32(_HEAD.size))
    _, number = _HEAD.unpack(buffer.raw)
    return Found(kind, number)


def look(path: Path) -> Found | None:
    """What stands at a path itself, no symbolic link is followed; None where nothing does."""
    try:
        seen = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISDIR(seen.st_mode):
        return Found("directory", seen.st_ino)
    if stat.S_ISLNK(seen.st_mode):
        return Found("symlink", seen.st_ino)
    try:
        fd = libbpf.obj_get(str(path))
    except FileNotFoundError:
        return None
    except OSError:
        return Found("object", seen.st_ino)
    try:
        return found(fd)
    finally:
        os.close(fd)


def free_place(aside: Path, name: str, same: Found | None = None) -> Path:
    """A path in a directory where nothing stands, or the same does already."""
    for number in itertools.count(1):
        place = aside / (name if number == 1 else f"{name}-{number}")
        if look(place) in (None, same):
            return place
    raise AssertionError


def put_aside(path: Path, stranger: Found, aside: Path) -> str:
    """Move what somebody else put at a path out of our way: its pin may be all that keeps it.

    Each object is kept once, however often it is put in our way. A symbolic link keeps nothing, and goes.

    Returns:
        Where it is now; empty where it is kept nowhere.

    Raises:
        OSError: EBUSY something is mounted there.
    """
    if stranger.kind == "symlink":
        path.unlink(missing_ok=True)
        return ""
    aside.mkdir(mode=0o700, exist_ok=True)
    place = free_place(aside, f"{stranger.kind}-{stranger.id}", stranger)
    path.rename(place)
    # To rename a hard link to another one of the same pin does nothing (rename(2)).
    if stranger.kind != "directory":
        path.unlink(missing_ok=True)
    return str(place)


def make_directory(path: Path, aside: Path) -> None:
    """Let a path be a directory, whatever stood there; what is in it already stays."""
    stands = look(path)
    if stands is not None and stands.kind != "directory":
        put_aside(path, stands, aside)
        stands = None
    if stands is None:
        path.mkdir(mode=0o700, exist_ok=True)
