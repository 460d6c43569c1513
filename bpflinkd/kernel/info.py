"""What the kernel tells of programs, links and maps by fd, parsed. Layouts: include/uapi/linux/bpf.h."""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from ctypes import c_uint32
from dataclasses import dataclass
from typing import Final, NamedTuple

from bpflinkd.core.ids import LinkId, ProgId
from bpflinkd.core.model import LinkFacts, ProgramInfo
from bpflinkd.core.targets import CgroupHook, CgroupId, Hook, IfIndex, XdpHook
from bpflinkd.kernel import libbpf

LINK_INFO_SIZE: Final = 64
"""Bytes of `struct bpf_link_info` that we ask for; XDP and cgroup links fill the first 28."""
_PROG_INFO_SIZE: Final = 80
_PROG_INFO_STATS_SIZE: Final = 216
_PROG_INFO_VERIFIED_SIZE: Final = 224
_MAP_INFO_SIZE: Final = 64


class LinkInfo(NamedTuple):
    """The head of `struct bpf_link_info`, and the hook for the kinds of link that we know."""

    type: int
    id: LinkId
    prog_id: ProgId
    hook: Hook | None
    attach_type: int | None
    """For cgroup links: `enum bpf_attach_type`."""


def link_info(fd: int) -> LinkInfo:
    """Ask once. OSError: EINVAL the fd is no bpf_link."""
    buffer = ctypes.create_string_buffer(LINK_INFO_SIZE)
    libbpf.obj_info(fd, buffer, c_uint32(LINK_INFO_SIZE))
    return parse_link_info(buffer.raw)


def parse_link_info(raw: bytes | bytearray) -> LinkInfo:
    """The union begins at byte 16: u32 ifindex for XDP; u64 cgroup id, u32 attach type for cgroup."""
    kind, link_id, prog_id = struct.unpack_from("=III", raw)
    hook: Hook | None = None
    attach_type = None
    if kind == libbpf.BPF_LINK_TYPE_XDP:
        (ifindex,) = struct.unpack_from("=I", raw, 16)
        hook = XdpHook(IfIndex(ifindex)) if ifindex else None
    elif kind == libbpf.BPF_LINK_TYPE_CGROUP:
        cgroup_id, attach_type = struct.unpack_from("=QI", raw, 16)
        hook = CgroupHook(CgroupId(cgroup_id)) if cgroup_id else None
    return LinkInfo(kind, LinkId(link_id), ProgId(prog_id), hook, attach_type)


def facts_of(info: LinkInfo) -> LinkFacts:
    """The part that the core wants."""
    return LinkFacts(id=info.id, prog_id=info.prog_id, hook=info.hook)


def program_info(fd: int) -> ProgramInfo:
    """`struct bpf_prog_info`: u32 type, u32 id, u8 tag[8]; the name is at byte 64."""
    buffer = ctypes.create_string_buffer(_PROG_INFO_SIZE)
    libbpf.obj_info(fd, buffer, c_uint32(_PROG_INFO_SIZE))
    kind, prog_id, tag = struct.unpack_from("=II8s", buffer.raw)
    (name,) = struct.unpack_from("=16s", buffer.raw, 64)
    return ProgramInfo(
        id=ProgId(prog_id),
        name=name.split(b"\0")[0].decode(errors="replace"),
        tag=tag.hex(),
        type=kind,
    )


_MOST_MAPS: Final = 64
"""Maps of one program that the kernel allows: MAX_USED_MAPS."""


def map_ids(prog_fd: int) -> tuple[int, ...]:
    """Kernel ids of the maps that a program uses: u32 count at byte 52, u64 address of the ids at 56."""
    ids = (c_uint32 * _MOST_MAPS)()
    buffer = ctypes.create_string_buffer(_PROG_INFO_SIZE)
    struct.pack_into("=IQ", buffer, 52, _MOST_MAPS, ctypes.addressof(ids))
    libbpf.obj_info(prog_fd, buffer, c_uint32(_PROG_INFO_SIZE))
    (count,) = struct.unpack_from("=I", buffer.raw, 52)
    return tuple(ids[:count])


def recursion_misses(prog_fd: int) -> int:
    """Runs that the kernel left out: u64 at byte 208; 0 on kernels that do not count them."""
    buffer = ctypes.create_string_buffer(_PROG_INFO_STATS_SIZE)
    libbpf.obj_info(prog_fd, buffer, c_uint32(_PROG_INFO_STATS_SIZE))
    (count,) = struct.unpack_from("=Q", buffer.raw, 208)
    return int(count)


@dataclass(frozen=True, slots=True)
class MapInfo:
    """The head of `struct bpf_map_info`."""

    type: int
    """`enum bpf_map_type`."""
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    """BPF_F_* that it was created with."""
    name: str
    """At most 15 characters."""


def map_info(map_fd: int) -> MapInfo:
    """Ask once: u32 type, id, key_size, value_size, max_entries, map_flags; the name is at byte 24."""
    buffer = ctypes.create_string_buffer(_MAP_INFO_SIZE)
    libbpf.obj_info(map_fd, buffer, c_uint32(_MAP_INFO_SIZE))
    kind, map_id, key_size, value_size, max_entries, flags = struct.unpack_from("=IIIIII", buffer.raw)
    (name,) = struct.unpack_from("=16s", buffer.raw, 24)
    return MapInfo(
        type=kind,
        id=map_id,
        key_size=key_size,
        value_size=value_size,
        max_entries=max_entries,
        flags=flags,
        name=name.split(b"\0")[0].decode(errors="replace"),
    )


@dataclass(frozen=True, slots=True)
class ProgramSize:
    """How large a loaded program is."""

    jited: int
    """Bytes of machine code; 0 where it is interpreted."""
    translated: int
    """Bytes of instructions after the verifier."""
    verified: int
    """Instructions that the verifier looked at, on all paths; 0 on kernels that do not tell (before 5.16)."""
    memory: int
    """Bytes that the kernel counts for it."""


def program_size(fd: int) -> ProgramSize:
    """Ask once: u32 jited_prog_len and xlated_prog_len at byte 16, verified_insns at 216."""
    buffer = ctypes.create_string_buffer(_PROG_INFO_VERIFIED_SIZE)
    libbpf.obj_info(fd, buffer, c_uint32(_PROG_INFO_VERIFIED_SIZE))
    jited, translated = struct.unpack_from("=II", buffer.raw, 16)
    (verified,) = struct.unpack_from("=I", buffer.raw, 216)
    return ProgramSize(jited, translated, verified, _memory(fd))


def map_memory(map_fd: int) -> int:
    """Bytes of memory that the kernel counts for a map just now. Source: bpf_map_show_fdinfo()."""
    return _memory(map_fd)


def _memory(fd: int) -> int:
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii", errors="replace") as told:
        lines = dict(line.split(":", 1) for line in told if ":" in line)
    return int(lines["memlock"])


def map_type(map_fd: int) -> int:
    """`enum bpf_map_type`."""
    return map_info(map_fd).type


def map_name(map_fd: int) -> str:
    """What the kernel calls a map, at most 15 characters."""
    return map_info(map_fd).name


@contextlib.contextmanager
def opened_program(prog_id: int) -> Iterator[int]:
    """An fd of a program that we do not hold. OSError: ENOENT it is gone."""
    fd = libbpf.prog_fd_by_id(prog_id)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def opened_link(link_id: int) -> Iterator[int]:
    """An fd of a link that we do not hold. OSError: ENOENT it is gone."""
    fd = libbpf.link_fd_by_id(link_id)
    try:
        yield fd
    finally:
        os.close(fd)


def program_info_by_id(prog_id: int) -> ProgramInfo:
    """The same for a program that we do not hold. OSError: ENOENT it is gone."""
    with opened_program(prog_id) as fd:
        return program_info(fd)


def kind_of_fd(fd: int) -> str:
    """`program`, `map`, `link`, or what /proc calls a descriptor that is none of these."""
    shown = os.readlink(f"/proc/self/fd/{fd}")
    known = {
        "anon_inode:bpf-prog": "program",
        "anon_inode:bpf-map": "map",
        # The one that made it has it by this name, who opens it later by the other.
        "anon_inode:bpf_link": "link",
        "anon_inode:bpf-link": "link",
    }
    return known.get(shown.replace("[", "").replace("]", ""), shown)
