"""The pins of each link: `<root>/<encoded name>/{link,slot,program,maps/...}`, staged ones as `next_*`.

Staged pins become current by `rename`, each atomic; a crash between two renames is healed at start.
"""

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol, cast

from bpflinkd.core import names
from bpflinkd.core.errors import BadProgram, BpflinkdError, KernelRefused, NameTaken, StorageFailed
from bpflinkd.core.ports import Link, Pinned, Program
from bpflinkd.core.sources import Source
from bpflinkd.kernel import info, libbpf
from bpflinkd.kernel import program as programs
from bpflinkd.kernel.dispatched import DispatchedLink, reopened
from bpflinkd.kernel.link import HeldLink
from bpflinkd.kernel.program import HeldProgram

log = logging.getLogger(__name__)

BPFFS_MAGIC: Final = 0xCAFE4A11
_LINK, _SLOT, _PROGRAM, _MAPS, _ASIDE = "link", "slot", "program", "maps", "_aside"
_NEXT: Final = "next_"
"""Before the name of a pin that is staged."""
_libc: Final = ctypes.CDLL(None, use_errno=True)


def _filesystem_magic(path: Path) -> int:
    """f_type of statfs(2): the first long of the struct."""
    buffer = (ctypes.c_long * 32)()
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(path))
    return buffer[0] & 0xFFFFFFFF


def _remove_tree(directory: Path) -> None:
    """Remove a directory of pins with what is in it; nothing there is no error."""
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            _remove_tree(Path(entry.path))
        else:
            os.unlink(entry.path)
    os.rmdir(directory)


def _maps_in(maps: Path) -> tuple[str, ...]:
    """Names of the maps pinned in a directory."""
    return tuple(sorted(names.decode(pin.name) for pin in maps.iterdir())) if maps.exists() else ()


@contextlib.contextmanager
def _failures(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KernelRefused(f"{what} failed on the bpffs: {error.strerror}") from error


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
        self._keeper = keeper
        self._kept = keeper.inherited()
        try:
            there = root if root.exists() else root.parent
            if _filesystem_magic(there) != BPFFS_MAGIC:
                raise StorageFailed(
                    f"{there} is not on a bpffs, where links are pinned; mount one with "
                    "'mount -t bpf bpf /sys/fs/bpf', or name another place with --bpffs"
                )
            root.mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageFailed(
                f"another bpflinkd uses {root}; stop it, or name another place with --bpffs"
            ) from None
        except OSError as error:
            raise StorageFailed(f"{root} cannot be used for pins: {error.strerror}") from None

    def taken(self, name: str) -> bool:
        return self._of(name).exists()

    def open(self, name: str, source: Source) -> Pinned:
        home = self._of(name)
        link, staged_link = self._open_link(home / _LINK), self._open_link(home / (_NEXT + _LINK))
        kept = self._kept.pop(self._keeper.key(names.encode(name)), [])
        try:
            if link is None and staged_link is None:
                link = self._from_kept(home, kept)
        finally:
            for fd in kept:
                os.close(fd)
        holding = staged_link or link
        if holding is not None:
            self._keep(name, holding)
        if staged_link is None:
            # A slot is pinned before its link, and moved before it: alone it is what a crash left.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                (home / (_NEXT + _SLOT)).unlink()
        if isinstance(link, DispatchedLink):
            self._keep_slot(home, link)
        return Pinned(
            link=link,
            program=self._open_program(home, source, ""),
            staged_link=staged_link,
            staged_program=self._open_program(home, source, _NEXT),
        )

    def maps(self, name: str) -> tuple[str, ...]:
        return _maps_in(self._of(name) / _MAPS)

    def put_back(self, name: str, program: Program) -> None:
        held, home = cast(HeldProgram, program), self._of(name)
        with _failures(f"pinning the program of link {name!r} again"):
            home.mkdir(mode=0o700, exist_ok=True)
            libbpf.obj_pin(held.fd, str(home / _PROGRAM))
            if held.maps:
                return
            with held.opened_maps() as maps:
                if maps:
                    (home / _MAPS).mkdir(mode=0o700, exist_ok=True)
                for map_name, fd in maps.items():
                    libbpf.obj_pin(fd, str(home / _MAPS / names.encode(map_name)))
            held.maps = tuple(maps)

    def stage_program(self, name: str, staged: Program) -> None:
        held = cast(HeldProgram, staged)
        home = self._of(name)
        with _failures(f"pinning the program of link {name!r}"):
            home.mkdir(mode=0o700, exist_ok=True)
            libbpf.obj_pin(held.fd, f"{home}/{_NEXT}{_PROGRAM}")
            # Maps come and go with their program. The directory is staged even where it stays
            # empty, if there is an older one that it must replace.
            if held.map_fds or os.path.lexists(f"{home}/{_MAPS}"):
                os.mkdir(f"{home}/{_NEXT}{_MAPS}", mode=0o700)
            for map_name, fd in held.map_fds.items():
                libbpf.obj_pin(fd, f"{home}/{_NEXT}{_MAPS}/{names.encode(map_name)}")
        held.settle()

    def stage_link(self, name: str, staged: Link) -> None:
        home = self._of(name)
        with _failures(f"pinning link {name!r}"):
            home.mkdir(mode=0o700, exist_ok=True)
            if isinstance(staged, DispatchedLink):
                libbpf.obj_pin(staged.slot.fd, f"{home}/{_NEXT}{_SLOT}")
            libbpf.obj_pin(cast(HeldLink, staged).fd, f"{home}/{_NEXT}{_LINK}")
        self._keep(name, cast(HeldLink, staged))

    def promote(self, name: str) -> None:
        home = self._of(name)
        with _failures(f"moving the pins of link {name!r} into place"):
            staged = [entry for entry in os.listdir(home) if entry.startswith(_NEXT)]
            # The program last, the link before it: while one of them is staged, a start promotes
            # again what was cut short.
            last = (f"{_NEXT}{_LINK}", f"{_NEXT}{_PROGRAM}")
            for pin in sorted(staged, key=lambda pin: last.index(pin) + 1 if pin in last else 0):
                if pin == f"{_NEXT}{_MAPS}":
                    _remove_tree(home / _MAPS)
                os.rename(f"{home}/{pin}", f"{home}/{pin.removeprefix(_NEXT)}")

    def unstage_link(self, name: str) -> None:
        with _failures(f"unpinning the staged link {name!r}"):
            for pin in (_LINK, _SLOT):
                (self._of(name) / (_NEXT + pin)).unlink(missing_ok=True)
        self._keeper.drop(names.encode(name))
        current = self._open_link(self._of(name) / _LINK)
        if current is not None:
            self._keep(name, current)
            current.close()

    def discard_staged(self, name: str) -> None:
        home = self._of(name)
        with _failures(f"removing the staged pins of link {name!r}"):
            if not home.exists():
                return
            for pin in home.iterdir():
                if pin.name == f"{_NEXT}{_MAPS}":
                    _remove_tree(pin)
                elif pin.name.startswith(_NEXT):
                    pin.unlink()
            if not any(home.iterdir()):
                home.rmdir()

    def set_aside(self, name: str) -> str:
        aside = self.root / _ASIDE
        with _failures(f"moving the pin of link {name!r} aside"):
            aside.mkdir(mode=0o700, exist_ok=True)
            place = aside / names.encode(name)
            (self._of(name) / _LINK).rename(place)
            with contextlib.suppress(FileNotFoundError):
                # Encoded names have an underscore only before two hexadecimal digits.
                (self._of(name) / _SLOT).rename(place.with_name(f"{place.name}_{_SLOT}"))
        return str(place)

    def rename(self, name: str, to: str) -> None:
        if self.taken(to):
            raise NameTaken(f"the pin directory {self._of(to)} is in use")
        with _failures(f"renaming the pins of link {name!r}"), contextlib.suppress(FileNotFoundError):
            self._of(name).rename(self._of(to))
            link = self._open_link(self._of(to) / _LINK)
            if link is not None:
                self._keep(to, link)
                link.close()
        self._keeper.drop(names.encode(name))

    def remove(self, name: str) -> None:
        self._keeper.drop(names.encode(name))
        with _failures(f"removing the pins of link {name!r}"):
            _remove_tree(self._of(name))

    def forget_kept(self) -> None:
        for key, fds in self._kept.items():
            for fd in fds:
                os.close(fd)
            self._keeper.drop(key)
        self._kept = {}

    def strangers(self, known: Iterable[str]) -> tuple[str, ...]:
        ours = {names.encode(name) for name in known} | {_ASIDE}
        return tuple(str(entry) for entry in self.root.iterdir() if entry.name not in ours)

    def _of(self, name: str) -> Path:
        return self.root / names.encode(name)

    def _keep(self, name: str, link: HeldLink) -> None:
        fds = [link.fd, link.slot.fd] if isinstance(link, DispatchedLink) else [link.fd]
        self._keeper.drop(names.encode(name))
        self._keeper.keep(names.encode(name), fds)

    @staticmethod
    def _from_kept(home: Path, kept: Sequence[int]) -> HeldLink | None:
        """The link whose pin is gone, from the descriptor that was kept; pinned again."""
        fd = next((fd for fd in kept if info.kind_of_fd(fd) == "link"), None)
        if fd is None:
            return None
        link = reopened(os.dup(fd))
        if link.facts().hook is None:
            link.close()
            return None
        with _failures(f"pinning a link in {home} again"):
            home.mkdir(mode=0o700, exist_ok=True)
            libbpf.obj_pin(link.fd, str(home / _LINK))
        log.warning("the pin %s was gone; it is back, from a descriptor that was kept", home / _LINK)
        return link

    @staticmethod
    def _keep_slot(home: Path, link: DispatchedLink) -> None:
        """Pin the slot again if its pin is gone: without it the slot is emptied when we end."""
        if any((home / pin).exists() for pin in (_SLOT, _NEXT + _SLOT)):
            return
        with _failures(f"pinning the slot in {home} again"):
            libbpf.obj_pin(link.slot.fd, str(home / _SLOT))
        log.warning("the pin %s was gone; it is back", home / _SLOT)

    def _open_link(self, path: Path) -> HeldLink | None:
        try:
            return reopened(libbpf.obj_get(str(path)))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise KernelRefused(f"the pin {path} cannot be opened: {error}") from None

    def _open_program(self, home: Path, source: Source, prefix: str) -> HeldProgram | None:
        pin, maps = home / (prefix + _PROGRAM), home / (prefix + _MAPS)
        if not pin.exists():
            return None
        if not maps.exists():
            maps = home / _MAPS  # moved there already, before a crash
        try:
            return programs.from_pin(str(pin), source, map_names=_maps_in(maps))
        except BadProgram as error:
            raise BpflinkdError(str(error)) from None
