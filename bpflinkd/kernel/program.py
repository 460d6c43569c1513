"""A loaded program that we hold by fd."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bpflinkd.core import attach_types
from bpflinkd.core.attach_types import AttachType
from bpflinkd.core.errors import BadProgram
from bpflinkd.core.ids import ProgId
from bpflinkd.core.sources import Source
from bpflinkd.kernel import info, libbpf, trial

if TYPE_CHECKING:
    from bpflinkd.core.model import ProgramInfo

_NO_CGROUP = -1


class HeldProgram:
    """Implements `core.ports.Program`."""

    def __init__(
        self,
        fd: int,
        source: Source,
        *,
        declared: AttachType | None = None,
        image: bytes | None = None,
        map_fds: Mapping[str, int] | None = None,
        map_names: tuple[str, ...] = (),
    ) -> None:
        self.fd = fd
        self.info: ProgramInfo = info.program_info(fd)
        self.source: Source = source
        self.declared = declared
        self.image = image
        self.map_fds: dict[str, int] = {}
        """Open fds of the maps that it came with, until they are pinned."""
        self.map_ids: dict[str, int] = {}
        """Kernel ids of its maps by name, as far as we know them."""
        self.maps = map_names
        self.log = ""
        """What the verifier wrote when it was loaded, where it was asked to."""
        self._fits: dict[AttachType, bool] = {}
        if map_fds:
            self.take_maps(map_fds)

    def fits(self, attach_type: AttachType) -> bool:
        """Try the attach with a bad cgroup fd: the kernel checks the program first.

        EBADF means that only the target was wrong. For XDP the kernel does not tell this way; there
        the swap itself compares, so anything of type XDP that declares nothing else passes here. A kprobe
        program must fit a slot, so one is tried that is on no probe.
        Source: kernel/bpf/syscall.c link_create(), bpf_prog_attach_check_attach_type().
        """
        if attach_type not in self._fits:
            self._fits[attach_type] = self._ask_whether_it_fits(attach_type)
        return self._fits[attach_type]

    def _ask_whether_it_fits(self, attach_type: AttachType) -> bool:
        if attach_type in attach_types.KPROBES:
            by_others = self.declared is None and attach_type is attach_types.KPROBE
            return trial.slot_takes(self.fd, attach_type) and not (by_others and trial.may_sleep(self.fd))
        if attach_type is attach_types.XDP:
            return self.info.type == attach_types.ProgramType.XDP
        try:
            os.close(libbpf.link_create(self.fd, _NO_CGROUP, attach_type.number))
        except OSError as error:
            return error.errno == errno.EBADF
        return False

    def again(self) -> "HeldProgram":
        """The same program, held once more. Not for one that came with maps that are not pinned yet."""
        assert not self.map_fds
        other = object.__new__(HeldProgram)
        vars(other).update(vars(self))
        other.map_fds, other.map_ids = {}, dict(self.map_ids)
        other.fd = os.dup(self.fd)
        return other

    @contextmanager
    def opened_maps(self) -> Iterator[dict[str, int]]:
        """The maps that it uses, by what the kernel calls them (at most 15 characters)."""
        found: dict[str, int] = {}
        try:
            for map_id in info.map_ids(self.fd):
                fd = libbpf.map_fd_by_id(map_id)
                name = info.map_name(fd)
                found[name if name and name not in found else f"map_{map_id}"] = fd
            yield found
        finally:
            for fd in found.values():
                os.close(fd)

    def take_maps(self, map_fds: Mapping[str, int]) -> None:
        """These are its maps; the fds are ours from now on, until it is pinned."""
        self.map_fds = dict(map_fds)
        self.know({name: info.map_info(fd).id for name, fd in map_fds.items()})

    def know(self, map_ids: Mapping[str, int]) -> None:
        """Take note of all its maps."""
        self.map_ids = dict(map_ids)
        self.maps = tuple(map_ids)

    def settle(self) -> None:
        """Drop what was needed only until it was stored and pinned; the program holds its maps."""
        self.image = None
        for fd in self.map_fds.values():
            os.close(fd)
        self.map_fds.clear()

    def close(self) -> None:
        """Give up our references; safe to call again."""
        self.settle()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def require_program_fd(fd: int, where: str) -> None:
    """Refuse any descriptor that is not a BPF program's."""
    kind = info.kind_of_fd(fd)
    if kind != "program":
        raise BadProgram(f"{where} is not a BPF program but {_described(kind)}")


def _described(kind: str) -> str:
    return {"map": "a BPF map", "link": "a BPF link"}.get(kind, kind)


def from_id(prog_id: ProgId, source: Source, map_names: tuple[str, ...] = ()) -> HeldProgram:
    """Open a program by its kernel id."""
    try:
        return HeldProgram(libbpf.prog_fd_by_id(prog_id), source, map_names=map_names)
    except OSError as error:
        reason = "there is none" if error.errno == errno.ENOENT else error.strerror
        raise BadProgram(f"program id {prog_id} cannot be opened: {reason}") from None


def from_pin(path: str, source: Source, map_names: tuple[str, ...] = ()) -> HeldProgram:
    """Open a pinned program."""
    if not path.startswith("/"):
        raise BadProgram(f"the pin {path[:200]!r} must be an absolute path on a bpffs")
    try:
        fd = libbpf.obj_get(path)
    except (OSError, ValueError) as error:
        reason = _PIN_REASONS.get(getattr(error, "errno", 0), str(error))
        raise BadProgram(f"the pin {path[:200]!r} cannot be opened: {reason}") from None
    try:
        require_program_fd(fd, f"the pin {path!r}")
        return HeldProgram(fd, source, map_names=map_names)
    except BaseException:
        os.close(fd)
        raise


_PIN_REASONS = {
    errno.ENOENT: "there is no such file; `bpftool prog show pinned PATH` shows what is there",
    errno.EACCES: "it is not a BPF object on a bpffs, or may not be read and written",
    errno.ENOTDIR: "a part of the path is not a directory",
    errno.ELOOP: "it leads through too many symbolic links",
    errno.ENAMETOOLONG: "the path is too long",
}
