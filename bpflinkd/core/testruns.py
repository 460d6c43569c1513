"""Test runs of programs on packets: what goes in, what comes out, and how that is told. Pure."""

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from bpflinkd.core.attach_types import ProgramType
from bpflinkd.core.errors import BadOption

MAX_BYTES: Final = 64 << 20
"""Bytes of all packets that are sent to be compared, with their lengths."""
MAX_PACKETS: Final = 1_000_000
MAX_PACKET: Final = 1 << 17
"""Bytes of one packet that are tried on the kernel, which takes less."""
MOST_TOLD: Final = 10_000
"""Differences in one answer."""
TOLD: Final = 1000
"""Differences in one answer, where nobody says otherwise."""
TESTABLE: Final = (ProgramType.XDP, ProgramType.CGROUP_SKB)
"""Types of programs that run on a packet without being attached."""
_ETHER_TYPES: Final = (b"\x08\x00", b"\x86\xdd")
_VERDICTS: Final = {
    ProgramType.XDP: ("XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT"),
    # Of egress the second bit asks for congestion to be told. Source: include/linux/bpf-cgroup.h
    ProgramType.CGROUP_SKB: ("drop", "pass", "drop, congestion told", "pass, congestion told"),
}
_DROPPED: Final = {ProgramType.XDP: (0, 1), ProgramType.CGROUP_SKB: (0, 2)}


def verdict(program_type: int, value: int) -> str:
    """What a program returned, by the name people know it by."""
    known = _VERDICTS[ProgramType(program_type)]
    return known[value] if value < len(known) else f"{value}, which is no verdict"


def goes_on(program_type: int, value: int) -> bool:
    """Whether the packet that comes out matters: it was not dropped."""
    return value not in _DROPPED[ProgramType(program_type)]


class Packet(NamedTuple):
    """Where a packet lies among others, in bytes."""

    offset: int
    size: int


def count(data: bytes) -> int:
    """How many packets there are. `BadOption` where there are none, too many, or lengths do not fit."""
    found = sum(1 for _ in packets(data))
    if not found:
        raise BadOption("there are no packets to compare by: what was sent is empty")
    return found


def packets(data: bytes) -> Iterator[Packet]:
    """Find the packets: before each its length as u32, little-endian. `BadOption` where that does not fit."""
    at, end, number = 0, len(data), 0
    while at < end:
        number += 1
        if end - at < 4:
            raise BadOption(f"the packets end within the length of number {number}: each begins with a u32")
        (size,) = struct.unpack_from("<I", data, at)
        at += 4
        if size > end - at:
            raise BadOption(f"packet {number} has {size} bytes by its length, and {end - at} follow")
        if number > MAX_PACKETS:
            raise BadOption(f"more than {MAX_PACKETS} packets were sent; send fewer at a time")
        yield Packet(at, size)
        at += size


def why_never_run(program_type: int, data: bytes, packet: Packet) -> str:
    """Why a packet is not tried, as the end of a sentence; empty where it is."""
    if packet.size > MAX_PACKET:
        return f"longer than {MAX_PACKET} bytes"
    if packet.size < 14:
        return "shorter than an Ethernet header, 14 bytes"
    if program_type == ProgramType.CGROUP_SKB:
        kind = data[packet.offset + 12 : packet.offset + 14]
        if kind not in _ETHER_TYPES:
            return "neither IPv4 nor IPv6, which is all that a cgroup's programs see"
    return ""


class Difference(NamedTuple):
    """A packet that the programs treat otherwise."""

    number: int
    """From 0, in the order in which the packets were sent."""
    old: int
    new: int
    """What the running and the new program returned."""
    altered: bool
    """The verdict is the same, and the packet that comes out is another."""


@dataclass(slots=True)
class Tally:
    """The differences, while they are found."""

    most: int
    """Differences that are kept one by one."""
    verdicts: Counter[tuple[int, int]] = field(default_factory=Counter)
    """How many packets, by what the running and the new program returned."""
    differing: int = 0
    differences: list[Difference] = field(default_factory=list)
    not_run: Counter[str] = field(default_factory=Counter)
    """How many packets could not be tried, by the reason."""

    def add(self, index: int, old: int, new: int, *, altered: bool) -> None:
        """A packet that both have run on."""
        self.verdicts[old, new] += 1
        if old != new or altered:
            self.differing += 1
            if len(self.differences) < self.most:
                self.differences.append(Difference(index, old, new, altered))


class Sample(NamedTuple):
    """A packet that we make up."""

    what: str
    data: bytes


class TestedPacket(NamedTuple):
    """What a program made of one packet."""

    what: str
    verdict: int
    nanoseconds: int
    """Of one run: the median of several."""


def samples() -> tuple[Sample, ...]:
    """A packet of each version of IP, with addresses and names of documentation (RFC 5737, 3849, 7042)."""
    macs = bytes.fromhex("00005e005302 00005e005301")
    addresses = bytes((192, 0, 2, 1, 192, 0, 2, 2))
    udp = struct.pack(">4H", 1024, 53, 8 + 18, 0) + bytes(18)
    udp_sum = _checksum(addresses + struct.pack(">HH", 17, len(udp)) + udp)
    udp = udp[:6] + struct.pack(">H", udp_sum) + udp[8:]
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + addresses
    ip = ip[:10] + struct.pack(">H", _checksum(ip)) + ip[12:]
    source, to = (bytes.fromhex("20010db8" + "00" * 11 + last) for last in ("01", "02"))
    tcp = struct.pack(">HHIIHHHH", 1024, 443, 1, 0, 0x5002, 65535, 0, 0)
    tcp_sum = _checksum(source + to + struct.pack(">II", len(tcp), 6) + tcp)
    tcp = tcp[:16] + struct.pack(">H", tcp_sum) + tcp[18:]
    ip6 = struct.pack(">IHBB", 0x6000_0000, len(tcp), 6, 64) + source + to
    return (
        Sample("UDP 192.0.2.1:1024 > 192.0.2.2:53", macs + _ETHER_TYPES[0] + ip + udp),
        Sample("TCP SYN [2001:db8::1]:1024 > [2001:db8::2]:443", macs + _ETHER_TYPES[1] + ip6 + tcp),
    )


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Kept(NamedTuple):
    """A map of a program that is tried, which begins otherwise than the live one."""

    whose: str
    """`running` or `new`."""
    name: str
    why: str
    """As the end of a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the running and a new program make of the same packets."""

    packets: int
    tally: Tally
    copied: tuple[str, ...]
    """Names of the live maps whose contents both began with, or one of them did."""
    fresh: tuple[Kept, ...]
    """Maps that did not begin with the contents of a live one."""
