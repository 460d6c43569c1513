"""The pins of all links, on a bpffs: `<root>/<encoded name>/`, and `<root>/_aside/` for what is not ours."""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol, cast

from bpflinkd.core import names
from bpflinkd.core.errors import KernelRefused, NameTaken, StorageFailed
from bpflinkd.core.ports import Link, Pinned, PinTrouble, Program, Promised
from bpflinkd.core.sources import Source
from bpflinkd.kernel import reopening, standing
from bpflinkd.kernel.dispatched import DispatchedLink
from bpflinkd.kernel.keptpins import KEPT
from bpflinkd.kernel.link import HeldLink
from bpflinkd.kernel.linkpins import LinkPins
from bpflinkd.kernel.mending import NEXT
from bpflinkd.kernel.program import HeldProgram

log = logging.getLogger(__name__)

SENTINEL: Final = "_sentinel"
"""The directory of the sentinel's pins. No link has this name: in an encoded one two hexadecimal digits come
after an underscore."""
_ASIDE: Final = "_aside"


class _failures:  # noqa: N801  # used as a word, a thousand times a call
    """A context: what the bpffs refuses is `KernelRefused`."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise KernelRefused(f"{self._what} failed on the bpffs: {error.strerror}") from error


def _open_locked(root: Path) -> int:
    """Make the directory if it is not there; returns an fd that holds its lock. `StorageFailed`."""
    try:
        there = root if root.exists() else root.parent
        if not standing.on_bpffs(there):
            raise StorageFailed(
                f"{there} is not on a bpffs, where links are pinned; mount one with "
                "'mount -t bpf bpf /sys/fs/bpf', or name another place with --bpffs"
            )
        root.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise
    except BlockingIOError:
        raise StorageFailed(
            f"another bpflinkd uses {root}; stop it, or name another place with --bpffs"
        ) from None
    except OSError as error:
        raise StorageFailed(f"{root} cannot be used for pins: {error.strerror}") from None
    return lock


class Keeper(Protocol):
    """Holds descriptors while no daemon runs. Does nothing where there is nobody to hold them."""

    def keep(self, name: str, fds: Sequence[int]) -> object:
        """Hold these under a name."""

    def drop(self, name: str) -> object:
        """Hold nothing under a name any more."""

    def inherited(self) -> dict[str, list[int]]:
        """What a daemon before us had held, by key. Ours from now on, and still held."""

    def key(self, name: str) -> str:
        """The key of a name."""


class PinDirectory:
    """Implements `core.ports.Pins`."""

    def __init__(self, root: Path, keeper: Keeper) -> None:
        """Take the root into use; make it if its parent is on a bpffs.

        Args:
            keeper: holds the links' descriptors for the next daemon, should the pins be gone by then.

        Raises:
            StorageFailed: it is not on a bpffs, or another daemon uses it.
        """
        self.root = root
        self._aside = root / _ASIDE
        self._keeper = keeper
        self._kept = keeper.inherited()
        self._links: dict[str, LinkPins] = {}
        self._lock = _open_locked(root)

    def taken(self, name: str) -> bool:
        return self._home(name).exists()

    def open(self, name: str, source: Source, promised: Promised) -> Pinned:
        pins = self._of(name)
        with _failures(f"opening the pins of link {name!r}"):
            link, staged_link = pins.open_link(promised), pins.open_link(promised, NEXT)
            kept = self._kept.pop(self._keeper.key(names.encode(name)), [])
            try:
                if link is None and staged_link is None:
                    link = self._from_kept(pins, kept)
            finally:
                for fd in kept:
                    os.close(fd)
            program, staged_program = pins.open_programs(link, staged_link, source, promised.programs)
        holding = staged_link or link
        if holding is not None:
            self._keep(name, holding)
        return Pinned(link=link, program=program, staged_link=staged_link, staged_program=staged_program)

    def mend(self, name: str, link: Link | None, program: Program | None) -> tuple[PinTrouble, ...]:
        self._lock_again()
        with _failures(f"putting back the pins of link {name!r}"):
            return self._of(name).mend(cast(HeldLink | None, link), cast(HeldProgram | None, program))

    def maps(self, name: str) -> tuple[str, ...]:
        return self._of(name).maps()

    def put_back(self, name: str, program: Program) -> None:
        with _failures(f"pinning the program of link {name!r} again"):
            self._of(name).pin_program(cast(HeldProgram, program))

    def stage_program(self, name: str, staged: Program) -> None:
        held = cast(HeldProgram, staged)
        with _failures(f"pinning the program of link {name!r}"):
            self._of(name).stage_program(held)
        held.settle()

    def keep(self, name: str, number: int, program: Program) -> None:
        with _failures(f"pinning generation {number} of link {name!r}"):
            self._of(name).keep(number, cast(HeldProgram, program))

    def open_kept(self, name: str, number: int, source: Source) -> HeldProgram | None:
        with _failures(f"opening generation {number} of link {name!r}"):
            return self._of(name).kept.open(number, source)

    def kept_generations(self, name: str) -> frozenset[int]:
        with _failures(f"looking for the generations of link {name!r}"):
            return self._of(name).kept.numbers()

    def kept_place(self, name: str) -> str:
        return str(self._home(name) / KEPT)

    def drop_kept(self, name: str, number: int) -> None:
        with _failures(f"unpinning generation {number} of link {name!r}"):
            self._of(name).kept.drop(number)

    def drop_kept_before(self, name: str, number: int) -> None:
        with _failures(f"unpinning generations of link {name!r}"):
            self._of(name).kept.drop_before(number)

    def tidy_kept(self, name: str, first: int, present: int) -> None:
        with _failures(f"unpinning what a crash left of link {name!r}"):
            self._of(name).kept.tidy(first, present)

    def stage_link(self, name: str, staged: Link) -> None:
        held = cast(HeldLink, staged)
        with _failures(f"pinning link {name!r}"):
            self._of(name).pin_link(held, NEXT)
        self._keep(name, held)

    def promote(self, name: str) -> None:
        with _failures(f"moving the pins of link {name!r} into place"):
            self._of(name).promote()

    def unstage_link(self, name: str) -> None:
        pins = self._of(name)
        with _failures(f"unpinning the staged link {name!r}"):
            pins.unpin_staged_link()
            self._keeper.drop(names.encode(name))
            self._keep_pinned(name)

    def discard_staged(self, name: str) -> None:
        pins = self._of(name)
        with _failures(f"removing the staged pins of link {name!r}"):
            pins.discard_staged()
        if not pins.home.exists():
            del self._links[name]  # it was never attached

    def set_aside(self, name: str) -> str:
        with _failures(f"moving the pin of link {name!r} aside"):
            self._aside.mkdir(mode=0o700, exist_ok=True)
            place = standing.free_place(self._aside, names.encode(name))
            self._of(name).move_link(place)
        return str(place)

    def rename(self, name: str, to: str) -> None:
        if self.taken(to):
            raise NameTaken(f"the pin directory {self._home(to)} is in use")
        with _failures(f"renaming the pins of link {name!r}"):
            self._of(name).rename(self._home(to))
            self._links[to] = self._links.pop(name)
            self._keep_pinned(to)
        self._keeper.drop(names.encode(name))

    def remove(self, name: str) -> None:
        self._keeper.drop(names.encode(name))
        with _failures(f"removing the pins of link {name!r}"):
            self._of(name).remove()
        del self._links[name]

    def forget_kept(self) -> None:
        for key, fds in self._kept.items():
            for fd in fds:
                os.close(fd)
            self._keeper.drop(key)
        self._kept = {}

    def strangers(self, known: Iterable[str]) -> tuple[str, ...]:
        ours = {names.encode(name) for name in known} | {_ASIDE, SENTINEL}
        return tuple(str(entry) for entry in self.root.iterdir() if entry.name not in ours)

    def _home(self, name: str) -> Path:
        return self.root / names.encode(name)

    def _of(self, name: str) -> LinkPins:
        if name not in self._links:
            self._links[name] = LinkPins(self._home(name), self._aside)
        return self._links[name]

    def _lock_again(self) -> None:
        """Make the root again if it is gone or another. `StorageFailed`."""
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(self.root), os.fstat(self._lock)):
                return
        before, self._lock = self._lock, _open_locked(self.root)
        os.close(before)

    def _keep(self, name: str, link: HeldLink) -> None:
        fds = [link.fd, link.slot.fd] if isinstance(link, DispatchedLink) else [link.fd]
        self._keeper.drop(names.encode(name))
        self._keeper.keep(names.encode(name), fds)

    def _keep_pinned(self, name: str) -> None:
        link = self._of(name).open_link(Promised())
        if link is not None:
            self._keep(name, link)
            link.close()

    @staticmethod
    def _from_kept(pins: LinkPins, kept: Sequence[int]) -> HeldLink | None:
        """The link whose pin is gone, from the descriptor that was kept; pinned again."""
        link = reopening.from_kept(kept)
        if link is not None:
            pins.pin_link(link)
            log.warning("the pins in %s were gone; they are back, from descriptors that were kept", pins.home)
        return link
