"""The attach types we can hold a link on, by the names people use.

Short names are those of the ELF section and of bpftool (`egress`, `connect4`); long names
are libbpf's (`libbpf_bpf_attach_type_str`). Numbers are the kernel's stable ABI:
`enum bpf_attach_type` and `enum bpf_prog_type` in include/uapi/linux/bpf.h.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from bpflinkd.core.errors import BadTarget


class ProgramType(IntEnum):
    """`enum bpf_prog_type`, the part of it that our hooks take."""

    KPROBE = 2
    XDP = 6
    CGROUP_SKB = 8
    CGROUP_SOCK = 9
    SOCK_OPS = 13
    CGROUP_DEVICE = 15
    CGROUP_SOCK_ADDR = 18
    CGROUP_SYSCTL = 23
    CGROUP_SOCKOPT = 25


@dataclass(frozen=True, slots=True)
class AttachType:
    """One place of the kernel's that a program can be attached at."""

    name: str
    """Short name: `egress`, `connect4`, `xdp`."""
    number: int
    """`enum bpf_attach_type`, as a program's expected_attach_type has it: 0 for a plain kprobe."""
    program_type: ProgramType
    long_name: str
    """libbpf's name: `cgroup_inet_egress`."""
    sections: tuple[str, ...]
    """ELF section names that mean exactly this attach type."""

    def __str__(self) -> str:
        return self.name


XDP: Final = AttachType("xdp", 37, ProgramType.XDP, "xdp", ("xdp", "xdp.frags"))

# Entry and return, one function or many: the context is the same, and the target says which it is.
KPROBE: Final = AttachType(
    "kprobe", 0, ProgramType.KPROBE, "kprobe", ("kprobe", "kretprobe", "ksyscall", "kretsyscall")
)
KPROBE_MULTI: Final = AttachType(
    "kprobe-multi", 42, ProgramType.KPROBE, "trace_kprobe_multi", ("kprobe.multi", "kretprobe.multi")
)
KPROBES: Final = (KPROBE, KPROBE_MULTI)

_SKB, _SOCK, _ADDR, _OPT = (
    ProgramType.CGROUP_SKB,
    ProgramType.CGROUP_SOCK,
    ProgramType.CGROUP_SOCK_ADDR,
    ProgramType.CGROUP_SOCKOPT,
)

CGROUP_ATTACH_TYPES: Final = (
    AttachType("ingress", 0, _SKB, "cgroup_inet_ingress", ("cgroup_skb/ingress",)),
    AttachType("egress", 1, _SKB, "cgroup_inet_egress", ("cgroup_skb/egress",)),
    AttachType("sock_create", 2, _SOCK, "cgroup_inet_sock_create", ("cgroup/sock_create", "cgroup/sock")),
    AttachType("sock_release", 34, _SOCK, "cgroup_inet_sock_release", ("cgroup/sock_release",)),
    AttachType("sock_ops", 3, ProgramType.SOCK_OPS, "cgroup_sock_ops", ("sockops",)),
    AttachType("device", 6, ProgramType.CGROUP_DEVICE, "cgroup_device", ("cgroup/dev",)),
    AttachType("sysctl", 18, ProgramType.CGROUP_SYSCTL, "cgroup_sysctl", ("cgroup/sysctl",)),
    AttachType("getsockopt", 21, _OPT, "cgroup_getsockopt", ("cgroup/getsockopt",)),
    AttachType("setsockopt", 22, _OPT, "cgroup_setsockopt", ("cgroup/setsockopt",)),
    AttachType("bind4", 8, _ADDR, "cgroup_inet4_bind", ("cgroup/bind4",)),
    AttachType("bind6", 9, _ADDR, "cgroup_inet6_bind", ("cgroup/bind6",)),
    AttachType("connect4", 10, _ADDR, "cgroup_inet4_connect", ("cgroup/connect4",)),
    AttachType("connect6", 11, _ADDR, "cgroup_inet6_connect", ("cgroup/connect6",)),
    AttachType("connect_unix", 49, _ADDR, "cgroup_unix_connect", ("cgroup/connect_unix",)),
    AttachType("post_bind4", 12, _SOCK, "cgroup_inet4_post_bind", ("cgroup/post_bind4",)),
    AttachType("post_bind6", 13, _SOCK, "cgroup_inet6_post_bind", ("cgroup/post_bind6",)),
    AttachType("sendmsg4", 14, _ADDR, "cgroup_udp4_sendmsg", ("cgroup/sendmsg4",)),
    AttachType("sendmsg6", 15, _ADDR, "cgroup_udp6_sendmsg", ("cgroup/sendmsg6",)),
    AttachType("sendmsg_unix", 50, _ADDR, "cgroup_unix_sendmsg", ("cgroup/sendmsg_unix",)),
    AttachType("recvmsg4", 19, _ADDR, "cgroup_udp4_recvmsg", ("cgroup/recvmsg4",)),
    AttachType("recvmsg6", 20, _ADDR, "cgroup_udp6_recvmsg", ("cgroup/recvmsg6",)),
    AttachType("recvmsg_unix", 51, _ADDR, "cgroup_unix_recvmsg", ("cgroup/recvmsg_unix",)),
    AttachType("getpeername4", 29, _ADDR, "cgroup_inet4_getpeername", ("cgroup/getpeername4",)),
    AttachType("getpeername6", 30, _ADDR, "cgroup_inet6_getpeername", ("cgroup/getpeername6",)),
    AttachType("getpeername_unix", 52, _ADDR, "cgroup_unix_getpeername", ("cgroup/getpeername_unix",)),
    AttachType("getsockname4", 31, _ADDR, "cgroup_inet4_getsockname", ("cgroup/getsockname4",)),
    AttachType("getsockname6", 32, _ADDR, "cgroup_inet6_getsockname", ("cgroup/getsockname6",)),
    AttachType("getsockname_unix", 53, _ADDR, "cgroup_unix_getsockname", ("cgroup/getsockname_unix",)),
)

_ALL: Final = (XDP, *KPROBES, *CGROUP_ATTACH_TYPES)
_BY_NAME: Final = {
    word: attach_type
    for attach_type in (XDP, *CGROUP_ATTACH_TYPES)
    for word in (attach_type.name, attach_type.long_name)
}
_BY_SECTION: Final = {section: attach_type for attach_type in _ALL for section in attach_type.sections}
_BY_NUMBER: Final = {attach_type.number: attach_type for attach_type in _ALL if attach_type is not KPROBE}


def by_name(word: str) -> AttachType:
    """The attach type of a short or long name, or `BadTarget` listing the names."""
    found = _BY_NAME.get(word.lower())
    if found is None:
        names = ", ".join(attach_type.name for attach_type in CGROUP_ATTACH_TYPES)
        raise BadTarget(f"{word!r} is not an attach type we know; for a cgroup it is one of: {names}")
    return found


def by_section(section: str) -> AttachType | None:
    """The attach type that an ELF section name stands for; None where it does not say."""
    plain = section.removeprefix("?")
    found = _BY_SECTION.get(plain)
    if found is None and "/" in plain:
        # A kprobe's section may name its function: kprobe/tcp_connect. Where it goes is our target's word.
        kprobe = _BY_SECTION.get(plain.partition("/")[0])
        found = kprobe if kprobe in KPROBES else None
    return found


def by_number(number: int) -> AttachType | None:
    """The attach type of a kernel number; None for hooks that we do not hold links on."""
    return _BY_NUMBER.get(number)


def of_program_type(program_type: int) -> tuple[AttachType, ...]:
    """Every attach type that takes programs of this type."""
    return tuple(a for a in _ALL if a.program_type == program_type)
