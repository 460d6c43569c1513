"""What a disk may hold after a loss of power, from a record of all that a process wrote to a directory.

The disk keeps what was synced. Of what came after the last sync of a file it has any beginning, cut
between two sectors, or the last write without those before it; entries of the directory are on the
disk once the directory was synced, before that perhaps.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TypeAlias

SECTOR = 512
_CALLS = "openat,pwrite64,write,ftruncate,fsync,fdatasync,unlink,unlinkat,rename,renameat,renameat2"
_LINE = re.compile(r"^\d+ +(?P<at>\d+\.\d+) (?P<call>\w+)\((?P<rest>.*)$")
_FD = re.compile(r"^\d+<(?P<path>[^>]*)>")
_STRING = re.compile(r'"(?P<text>[^"]*)"')
_WRITE = re.compile(r'^\d+<[^>]*>, "(?P<data>[^"]*)", (?P<length>\d+)(?:, (?P<offset>\d+))?')
_LENGTH = re.compile(r"^\d+<[^>]*>, (?P<length>\d+)")

Image: TypeAlias = dict[str, bytes]
"""Names and contents of the files of a directory."""


def recorder(log: Path) -> list[str]:
    """Before a command line: writes all that it writes to the log, as a child of whoever starts it."""
    # -xx: data in numbers; -s: all of it, of which a page of the database is the most.
    words = f"strace -f -D --seccomp-bpf -ttt -y -xx -s 65536 -e trace={_CALLS} -o {log}"
    return words.split()


@dataclass(frozen=True)
class Event:
    """A call that changed the directory or a file in it."""

    at: float
    """When it was begun, in seconds since the epoch."""
    call: str
    """create, write, truncate, sync, sync directory, unlink."""
    name: str
    offset: int = 0
    data: bytes = b""

    def __str__(self) -> str:
        return f"{self.call} {self.name} at {self.offset}, {len(self.data)} bytes"


def recorded(log: Path, directory: Path) -> Iterator[Event]:
    """The events of one log, in order.

    All that concerns the directory is done by one thread at a time, so that a call has ended when
    the next one begins.
    """
    for line in log.read_text().splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        at, call, rest = float(found["at"]), found["call"], found["rest"]
        path = _path(call, rest)
        if path is None or directory not in (path, path.parent) or path.name.endswith("-shm"):
            continue  # the index of the log is made anew from the log
        if path != directory and path.is_dir():
            continue  # what is in a directory of its own has its own fate
        name = path.name
        match call:
            case "openat":
                if "O_CREAT" in rest and path != directory:
                    yield Event(at, "create", name)
            case "pwrite64":
                written = _WRITE.match(rest)
                assert written, line[:200]
                data = _bytes(written["data"])
                assert len(data) == int(written["length"]), "strace did not record all of it"
                yield Event(at, "write", name, int(written["offset"]), data)
            case "ftruncate":
                length = _LENGTH.match(rest)
                assert length, line[:200]
                yield Event(at, "truncate", name, int(length["length"]))
            case "fsync" | "fdatasync":
                yield Event(at, "sync directory" if path == directory else "sync", name)
            case "unlink" | "unlinkat":
                yield Event(at, "unlink", name)
            case _:
                raise AssertionError(f"not expected in a directory of records: {line[:200]}")


def _path(call: str, rest: str) -> Path | None:
    """The file that a call is about."""
    found = _STRING.search(rest) if call in ("openat", "unlink", "unlinkat", "rename") else _FD.match(rest)
    if found is None:
        return None
    return Path(_bytes(found[1]).decode(errors="replace"))


def _bytes(text: str) -> bytes:
    """What strace shows as hexadecimal numbers, or plainly."""
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else text.encode()


@dataclass
class _File:
    durable: bytes = b""
    pending: list[Event] = field(default_factory=list)

    def content(self, pending: Sequence[Event]) -> bytes:
        made = bytearray(self.durable)
        for event in pending:
            if event.call == "truncate":
                del made[event.offset :]
                made.extend(bytes(event.offset - len(made)))
            else:
                made.extend(bytes(max(0, event.offset - len(made))))
                made[event.offset : event.offset + len(event.data)] = event.data
        return bytes(made)

    def sync(self) -> None:
        self.durable = self.content(self.pending)
        self.pending.clear()


class Disk:
    """The directory as the process sees it, and what of it is on the disk for sure."""

    def __init__(self) -> None:
        self._now: dict[str, _File] = {}
        self._durable: dict[str, _File] = {}

    def seen(self) -> Image:
        """What whoever reads the files now is told."""
        return {name: file.content(file.pending) for name, file in self._now.items()}

    def during(self, event: Event) -> Iterator[Image]:
        """What can be found if the power goes while this is being done, or just before."""
        written = self._now.get(event.name) if event.call in ("write", "truncate") else None
        entries = [self._durable] + ([self._now] if self._now != self._durable else [])
        for directory, lost in product(entries, (True, False)):
            others = {
                name: file.content([] if lost else file.pending)
                for name, file in directory.items()
                if file is not written
            }
            if written is None or event.name not in directory:
                yield others
                continue
            for beginning in _beginnings(event):
                yield {**others, event.name: written.content([*written.pending, *beginning])}
            yield {**others, event.name: written.content([event])}
            yield {**others, event.name: written.content([])}

    def do(self, event: Event) -> None:
        """It has been done."""
        match event.call:
            case "create":
                self._now.setdefault(event.name, _File())
            case "unlink":
                self._now = {name: file for name, file in self._now.items() if name != event.name}
            case "sync":
                self._now[event.name].sync()
            case "sync directory":
                self._durable = dict(self._now)
            case _:
                self._now[event.name].pending.append(event)


def _beginnings(event: Event) -> Iterator[list[Event]]:
    """None of a write, all of it, and all that ends with a sector of the file."""
    yield []
    first = SECTOR - event.offset % SECTOR
    for cut in range(first, len(event.data), SECTOR):
        yield [Event(event.at, event.call, event.name, event.offset, event.data[:cut])]
    yield [event]
