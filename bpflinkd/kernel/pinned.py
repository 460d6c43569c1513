"""Every pin on every bpffs that this process can see, whoever made it.

Directories there may belong to anybody, who may put symbolic links in them, mount over them and change them
meanwhile. So no path is followed: each name is opened as it stands in the directory that was opened before.
"""

import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Final

from bpflinkd.core.survey import Pin, PinKind
from bpflinkd.kernel import info, libbpf

_SECONDS: Final = 3.0
_DEEPEST: Final = 32
"""Directories within each other."""
_MOST: Final = 10_000
"""Names in a directory."""
_USUAL: Final = "/sys/fs/bpf"
_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")
_MOUNTS: Final = Path("/proc/self/mountinfo")
_MOUNT_ID: Final = re.compile(r"^mnt_id:\s+(\d+)$", re.MULTILINE)


class Part:
    """One part of a survey: how long it may take, and what it left out."""

    def __init__(self, what: str) -> None:
        """Its time begins. `what` names it in sentences, in the plural."""
        self._what = what
        self.skipped = 0
        """How many could not be looked at, though they are there."""
        self.cut = False
        self.begin()

    def begin(self) -> None:
        """Its time begins anew."""
        self._until = time.monotonic() + _SECONDS

    def go_on(self) -> bool:
        """Whether there is time left. Once there is none, the part is cut short for good."""
        self.cut = self.cut or time.monotonic() > self._until
        return not self.cut

    def sentences(self) -> Iterator[str]:
        """What was left out."""
        if self.cut:
            yield f"there are more {self._what} than can be looked at in {_SECONDS:g} s; the rest is left out"
        if self.skipped:
            yield f"some {self._what} could not be looked at, and are left out: {self.skipped}"


def everywhere(part: Part) -> Iterator[Pin]:
    """Each pin once, by the first path that leads to it."""
    known: set[tuple[int, int]] = set()
    for mount_id, place in _mounts():
        with suppress(OSError), _opened(place, None, mount_id) as root:
            yield from _below(root, place, mount_id, known, part, 0)


def usual_place() -> str:
    """Where people pin: /sys/fs/bpf, or else another place where a bpffs is mounted; empty where none is."""
    places = [place for _, place in _mounts()]
    return _USUAL if _USUAL in places else next(iter(places), "")


def _mounts() -> Iterator[tuple[int, str]]:
    """Each mounted bpffs: mount id and place. See proc_pid_mountinfo(5)."""
    for line in _MOUNTS.read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        if after.startswith(b"bpf "):
            fields = before.split(b" ")
            place = _ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), fields[4])
            yield int(fields[0]), os.fsdecode(place)


@contextmanager
def _opened(name: str, directory: int | None, mount_id: int) -> Iterator[int]:
    """A descriptor that only names a file, which must be on this mount. OSError."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        # To ask the file itself would be to ask its file system, which may be anybody's.
        told = _MOUNT_ID.search(Path(f"/proc/self/fdinfo/{fd}").read_text())
        if told is None or int(told[1]) != mount_id:
            raise OSError("it is on another mount")
        yield fd
    finally:
        os.close(fd)


def _below(
    directory: int, place: str, mount_id: int, known: set[tuple[int, int]], part: Part, depth: int
) -> Iterator[Pin]:
    names = _names(directory)
    if depth > _DEEPEST or len(names) > _MOST:
        part.skipped += 1
        return
    for name in names:
        if not part.go_on():
            return
        path = os.path.join(place, name)
        with suppress(OSError), _opened(name, directory, mount_id) as fd:
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) in known:
                continue  # mounted at several places
            known.add((status.st_dev, status.st_ino))
            if stat.S_ISDIR(status.st_mode):
                yield from _below(fd, path, mount_id, known, part, depth + 1)
            elif stat.S_ISREG(status.st_mode):
                yield _pin(path, fd)


def _names(directory: int) -> list[str]:
    """The names in a directory, and one more than are looked at where there are too many."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        with os.scandir(fd) as entries:
            return [entry.name for entry in islice(entries, _MOST + 1)]
    finally:
        os.close(fd)


def _pin(path: str, named: int) -> Pin:
    """What a pin is of. By the descriptor's own path, which leads to this file and to no other."""
    try:
        fd = libbpf.obj_get(f"/proc/self/fd/{named}")
    except OSError:
        return Pin(path=path, kind=PinKind.OTHER, id=0)
    try:
        match info.kind_of_fd(fd):
            case "link":
                return Pin(path=path, kind=PinKind.LINK, id=info.link_info(fd).id)
            case "program":
                return Pin(path=path, kind=PinKind.PROGRAM, id=info.program_info(fd).id)
            case _:
                return Pin(path=path, kind=PinKind.OTHER, id=0)
    finally:
        os.close(fd)
