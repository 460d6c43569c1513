"""What the sentinel's program and we tell each other, in bytes. Layouts: programs/sentinel.bpf.c."""

import struct
from typing import Final, NamedTuple, TypeAlias

from bpflinkd.core.culprits import Culprit
from bpflinkd.core.events import Operation, SlotHook, Touch
from bpflinkd.core.ids import LinkId, Micros, ProgId
from bpflinkd.core.model import ProgramInfo
from bpflinkd.core.targets import CgroupHook, CgroupId, IfIndex, XdpHook

Followed: TypeAlias = XdpHook | CgroupHook | SlotHook

LAYOUT: Final = 1
"""Number of these layouts. Records of another one are not read."""
OPERATIONS: Final = tuple(Operation)
"""Each at its number, which is that of `enum operation`."""
_XDP, _CGROUP, _SLOT = 1, 2, 3
_HOOK: Final = struct.Struct("=IIQ")
"""`struct hook`: kind, inode number of the network namespace, id."""
HOOK_SIZE: Final = _HOOK.size
_CONFIG: Final = struct.Struct("=QIIIIQ")
CONFIG_SIZE: Final = _CONFIG.size
_HEAD: Final = struct.Struct("=16sQIIIBB2xIIIHBB32s32s16s")
"""`struct record` without its paths."""


class _Head(NamedTuple):
    """The fields of `_HEAD`, as they come."""

    hook: bytes
    at: int
    operation: int
    attach_type: int
    link_id: int
    dying: int
    kernel_thread: int
    tgid: int
    pid: int
    uid: int
    executable: int
    executable_whole: int
    cgroup_whole: int
    before: bytes
    after: bytes
    comm: bytes


_PROGRAM: Final = struct.Struct("=II8s16s")
_CUT: Final = "..."
"""Before a path whose beginning is not known. No unit is called so."""


class Config(NamedTuple):
    """`struct config`."""

    build: int
    """Which compiled object made it (u64)."""
    layout: int
    operations: int
    """A bit for each operation that is told."""
    tgid: int
    """Of the daemon whose changes are not told; 0: none."""
    tick: int
    """Nanoseconds of a clock tick."""
    started: int
    """When that daemon was, in clock ticks since boot."""

    def pack(self) -> bytes:
        """As it is in the map."""
        return _CONFIG.pack(*self)


def config_of(raw: bytes) -> Config:
    """The configuration from its bytes, `CONFIG_SIZE` of them."""
    return Config(*_CONFIG.unpack(raw))


def key_of(hook: Followed, netns: int) -> bytes:
    """The key of a hook.

    Args:
        netns: inode number of our network namespace, in which an ifindex means something.
    """
    match hook:
        case XdpHook():
            return _HOOK.pack(_XDP, netns, hook.ifindex)
        case CgroupHook():
            return _HOOK.pack(_CGROUP, 0, hook.cgroup_id)
        case SlotHook():
            return _HOOK.pack(_SLOT, 0, hook.map_id)


def hook_of(key: bytes, netns: int) -> Followed | None:
    """The hook of a key; None where it is in another network namespace."""
    kind, inode, number = _HOOK.unpack(key)
    if kind == _CGROUP:
        return CgroupHook(CgroupId(number))
    if kind == _SLOT:
        return SlotHook(number)
    return XdpHook(IfIndex(number)) if inode == netns else None


def touch_of(record: bytes, netns: int) -> Touch | None:
    """A record, decoded; None where its hook is in another network namespace.

    Names and paths are what strangers chose: nothing but printable characters comes out of here.
    """
    head = _Head._make(_HEAD.unpack_from(record))
    hook = hook_of(head.hook, netns)
    if hook is None:
        return None
    paths = record[_HEAD.size :]
    return Touch(
        operation=OPERATIONS[head.operation],
        hook=hook,
        attach_type=head.attach_type,
        link_id=LinkId(head.link_id),
        before=_program(head.before),
        after=_program(head.after),
        dying=bool(head.dying),
        by=Culprit(
            pid=head.tgid,
            thread=head.pid,
            uid=head.uid,
            comm=_comm(head),
            executable=_path(paths[: head.executable], whole=bool(head.executable_whole)),
            cgroup=_path(paths[head.executable :], whole=bool(head.cgroup_whole))
            or ("/" if head.cgroup_whole else ""),
        ),
        at=Micros(head.at // 1000),
    )


def _comm(head: _Head) -> str:
    name = _text(head.comm.split(b"\0")[0])
    return f"[{name}]" if head.kernel_thread else name


def _program(raw: bytes) -> ProgramInfo | None:
    prog_id, kind, tag, name = _PROGRAM.unpack(raw)
    if not prog_id:
        return None
    return ProgramInfo(id=ProgId(prog_id), name=_text(name.split(b"\0")[0]), tag=tag.hex(), type=kind)


def _path(raw: bytes, *, whole: bool) -> str:
    """A path from its parts, the last of which comes first."""
    parts = [_text(part) for part in reversed(raw.split(b"\0")[:-1])]
    return "".join(f"/{part}" for part in parts) if whole or not parts else "/".join((_CUT, *parts))


def _text(raw: bytes) -> str:
    return "".join(c if c.isprintable() else "?" for c in raw.decode(errors="replace"))
