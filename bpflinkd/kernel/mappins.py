"""The maps that are pinned for one program: which is which, and those that nothing else keeps."""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from bpflinkd.core import names
from bpflinkd.kernel import info, standing
from bpflinkd.kernel.mending import Wanted
from bpflinkd.kernel.standing import Found


class PinnedMaps:
    """By name. A program keeps the maps that it uses; the others of its object we hold ourselves."""

    def __init__(self, program_fd: int, maps: Mapping[str, int]) -> None:
        """Take note.

        Args:
            maps: fds of the maps, which stay the caller's.
        """
        used = info.map_ids(program_fd) if maps else ()
        self.ids = {name: info.map_info(fd).id for name, fd in maps.items()}
        """Kernel ids."""
        self._held = {name: os.dup(fd) for name, fd in maps.items() if self.ids[name] not in used}

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[int]:
        """An fd of one of them, for the moment. OSError: it is no more."""
        if name in self._held:
            yield self._held[name]
            return
        with standing.opened_map(self.ids[name]) as fd:
            yield fd

    def wanted(self, directory: Path) -> Iterator[Wanted]:
        """The pins that they should have."""
        for name, number in self.ids.items():
            path = directory / names.encode(name)
            yield Wanted(path, Found("map", number), functools.partial(self.opened, name), atomic=False)

    def close(self) -> None:
        """Give up our references; safe to call again."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()
