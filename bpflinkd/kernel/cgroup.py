"""cgroup v2: where it is mounted, directories by path, ids."""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bpflinkd.core import attach_types, walk
from bpflinkd.core.errors import BadTarget, HookGone, NotSupported
from bpflinkd.core.ids import ProgId
from bpflinkd.core.targets import CgroupHook, CgroupId, CgroupTarget
from bpflinkd.kernel import libbpf

_MOUNTS: Final = Path("/proc/self/mountinfo")


class CgroupTree:
    """The cgroup v2 hierarchy as this process sees it."""

    def __init__(self) -> None:
        self._root: Path | None = None

    @property
    def root(self) -> Path:
        """Where it is mounted; on a host with v1 and v2 that is often /sys/fs/cgroup/unified."""
        if self._root is None:
            self._root = _find_mount()
        return self._root

    def hook(self, path: str) -> CgroupHook | None:
        """The cgroup's id: the inode number of its directory. None where there is none."""
        try:
            return CgroupHook(CgroupId(os.stat(self._place(path)).st_ino))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise BadTarget(f"the cgroup {path} cannot be looked at: {error.strerror}") from None

    @contextmanager
    def opened(self, path: str) -> Iterator[int]:
        """An fd of the cgroup's directory."""
        try:
            fd = os.open(self._place(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise HookGone(f"there is no cgroup {path}") from None
            raise BadTarget(f"the cgroup {path} cannot be opened: {error.strerror}") from None
        try:
            yield fd
        finally:
            os.close(fd)

    def matching(self, pattern: str) -> Iterator[str]:
        """Paths of the cgroups that match, wildcards of the shell part by part; `BadTarget` if unreadable."""
        return walk.matching(pattern, self._children)

    def _children(self, path: str) -> Iterable[str]:
        # kernfs tells the type with each name: this needs no stat() (a directory of 1,000 takes 0.6 ms).
        try:
            with os.scandir(self._place(path)) as found:
                return [entry.name for entry in found if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENAMETOOLONG):
                return ()
            raise BadTarget(f"the cgroups in {path or '/'} cannot be listed: {error.strerror}") from None

    def path_of(self, hook: CgroupHook) -> str | None:
        """The path of the cgroup with this id; None where there is none. Walks the whole tree."""
        if os.stat(self.root).st_ino == hook.cgroup_id:
            return "/"
        for directory, children, _ in os.walk(self.root):
            for child in children:
                place = os.path.join(directory, child)
                with contextlib.suppress(OSError):  # it went meanwhile
                    if os.stat(place).st_ino == hook.cgroup_id:
                        return place.removeprefix(str(self.root))
        return None

    def programs(self, path: str) -> Iterator[tuple[CgroupTarget, ProgId]]:
        """Every program attached to a cgroup itself, at every attach type of this kernel."""
        with self.opened(path) as fd:
            for attach_type in attach_types.CGROUP_ATTACH_TYPES:
                try:
                    found = libbpf.prog_query(fd, attach_type.number)
                except OSError:
                    continue  # an attach type that this kernel does not know
                for prog_id in found:
                    yield CgroupTarget(path=path, attach_type=attach_type), ProgId(prog_id)

    def company(self, target: CgroupTarget) -> "HeldCompany | None":
        """Those at one attach type; None where the cgroup is gone."""
        try:
            with self.opened(target.path) as fd:
                return HeldCompany(os.dup(fd), target.attach_type.number)
        except (OSError, HookGone):
            return None

    def _place(self, path: str) -> str:
        return f"{self.root}{path}"


class HeldCompany:
    """Implements `core.ports.Company`. Owns the fd of the cgroup.

    `unchanged` is what a sweep calls for every link, so it compares the kernel's answer byte by byte.
    """

    def __init__(self, fd: int, attach_type: int) -> None:
        """OSError: the cgroup is gone, or the kernel does not know the attach type."""
        self._fd = fd
        self._query = libbpf.ProgQuery(fd, attach_type)
        try:
            self.programs = tuple(map(ProgId, self._query.ask()))
        except BaseException:
            os.close(fd)
            raise

    def unchanged(self) -> bool:
        """Whether they are the same still."""
        return self._query.same()

    def close(self) -> None:
        """Give up our reference; safe to call again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _find_mount() -> Path:
    for line in _MOUNTS.read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split()[4].encode().decode("unicode_escape"))
    raise NotSupported(
        "no cgroup v2 hierarchy is mounted; mount one with 'mount -t cgroup2 none /sys/fs/cgroup/unified'"
    )
