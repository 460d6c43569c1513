"""Files of captured packets, read by dpkt, and what is wrong with those that cannot be."""

# ruff: noqa: PLC0415  # dpkt takes time to import

import io
import os
import stat
import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from bpflinkd.cli.failures import InputError

MAX_FILE: Final = 128 << 20
"""Bytes of a file; of packets the daemon takes half as much."""
_ETHERNET: Final = 1
_RAW: Final = {12: 0, 14: 0, 101: 0, 228: 0, 229: 0, 113: 16, 276: 20}
"""Link types that have the packet of IP after so many bytes: raw, and `any` of Linux (SLL, SLL2)."""
_KNOWN: Final = {
    0: "BSD loopback",
    9: "PPP",
    12: "raw IP",
    14: "raw IP",
    101: "raw IP",
    105: "802.11",
    108: "OpenBSD",
    113: "Linux 'any'",
    127: "802.11 with radiotap",
    228: "raw IPv4",
    229: "raw IPv6",
    276: "Linux 'any'",
}
_PCAP: Final = frozenset(
    bytes.fromhex(word) for word in ("a1b2c3d4", "d4c3b2a1", "a1b23c4d", "4d3cb2a1", "34cdb2a1", "a1b2cd34")
)
_PCAPNG: Final = bytes.fromhex("0a0d0d0a")
_SECTION, _INTERFACE, _OBSOLETE, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
_COMPRESSED: Final = {b"\x1f\x8b": "gunzip", b"\x28\xb5": "unzstd", b"\xfd7": "unxz", b"BZ": "bunzip2"}
_NO_MACS: Final = bytes(12)
_FULL: Final = 65535
"""A limit on the length of packets, from which on nobody meant to cut them."""


class Captured(NamedTuple):
    """A packet."""

    time: int
    """Microseconds since 1970."""
    data: bytes
    """From the Ethernet header on."""


class Capture(NamedTuple):
    """What a file held."""

    packets: list[Captured]
    notes: list[str]
    """What is to be known of how they were read, a sentence each."""


class _Whole(io.BytesIO):
    """Tells of an end within what is read: dpkt takes what there is."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if size is not None and 0 < len(data) < size:
            raise EOFError
        return data


def read(path: str, *, ethernet: bool) -> Capture:
    """Read a capture, pcap or pcapng.

    Args:
        ethernet: the packets must have an Ethernet header; else one is made up where there is none.

    Raises:
        InputError: it cannot be read, or is not what can be compared.
    """
    data = _bytes(path)
    reader = _reader(path, data)
    kind = reader.datalink()
    if kind != _ETHERNET and (ethernet or kind not in _RAW):
        raise _wrong_link_type(path, kind, ethernet)
    packets: list[Captured] = []
    try:
        for time, packet in _packets(reader):
            if not packet:
                raise EOFError
            framed = packet if kind == _ETHERNET else _framed(packet, kind)
            packets.append(Captured(round(float(time) * 1_000_000), framed))
    except EOFError:
        raise InputError(
            f"the capture {path} is truncated: it ends within packet {len(packets) + 1}; "
            f"the ones before it can be saved with: tcpdump -r {path} -w WHOLE"
        ) from None
    if not packets:
        raise InputError(f"the capture {path} is empty: it holds no packet")
    return Capture(packets, _notes(reader, kind, packets))


def _bytes(path: str) -> bytes:
    try:
        # Without O_NONBLOCK a FIFO would make us wait for its writer.
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the capture {path} cannot be opened: {reason}") from None
    about = os.fstat(opened)
    if not stat.S_ISREG(about.st_mode):
        os.close(opened)
        raise InputError(f"the capture {path} is not a regular file; give one that tcpdump -w wrote")
    with open(opened, "rb") as file:
        if about.st_size > MAX_FILE:
            raise InputError(
                f"the capture {path} has {about.st_size >> 20} MiB; at most {MAX_FILE >> 20} are read; "
                f"cut it with: tcpdump -r {path} -c 100000 -w PART"
            )
        try:
            return file.read()
        except OSError as error:
            raise InputError(f"the capture {path} cannot be read: {error.strerror}") from None


def _reader(path: str, data: bytes) -> Any:
    if not data:
        raise InputError(f"the capture {path} is empty: it has no bytes")
    for magic, tool in _COMPRESSED.items():
        if data.startswith(magic):
            raise InputError(f"the capture {path} is compressed; give what {tool} makes of it")
    if data[:4] not in _PCAP and data[:4] != _PCAPNG:
        raise InputError(
            f"{path} is not a capture: it begins neither as pcap nor as pcapng does; "
            "give a file that tcpdump -w or Wireshark wrote"
        )
    from dpkt import dpkt, pcap, pcapng

    try:
        if data[:4] != _PCAPNG:
            return pcap.Reader(_Whole(data))
        _check_blocks(path, data)
        return pcapng.Reader(_Whole(data))
    except (EOFError, dpkt.NeedData):
        raise InputError(f"the capture {path} is truncated: it ends within its header") from None
    except (ValueError, struct.error, dpkt.Error) as error:
        raise InputError(f"the capture {path} cannot be read: {error}") from None


def _check_blocks(path: str, data: bytes) -> None:
    """Refuse what dpkt's reader of pcapng passes over, or would stumble at."""
    kinds = set()
    order = "<" if data[8:12] == b"\x4d\x3c\x2b\x1a" else ">"
    at, number, sections = 0, 0, 0
    while at < len(data):
        if len(data) - at < 12:
            raise _cut(path, number)
        block, size = struct.unpack_from(f"{order}II", data, at)
        if size < 12 or size % 4:
            raise InputError(f"the capture {path} is damaged: a block at byte {at} has the length {size}")
        if size > len(data) - at:
            raise _cut(path, number)
        sections += block == _SECTION
        number += block in (_ENHANCED, _OBSOLETE)
        if block == _INTERFACE:
            kinds.add(struct.unpack_from(f"{order}H", data, at + 8)[0])
        if block == _SIMPLE:
            raise InputError(
                f"the capture {path} has packets without a time (simple packet blocks), which are not read; "
                f"convert it with: editcap -F pcap {path} CONVERTED"
            )
        at += size
    if sections > 1 or len(kinds) > 1:
        what = "several sections" if sections > 1 else "packets of several link types"
        raise InputError(f"the capture {path} has {what}; split it, by interface or file, and give one part")


def _cut(path: str, number: int) -> InputError:
    return InputError(
        f"the capture {path} is truncated: it ends within a block, after packet {number}; "
        f"the ones before it can be saved with: tcpdump -r {path} -w WHOLE"
    )


def _packets(reader: Any) -> Iterator[tuple[Any, bytes]]:
    """What dpkt reads; what it stumbles at is an end within a packet."""
    from dpkt import dpkt

    try:
        yield from reader
    except (dpkt.Error, struct.error):
        raise EOFError from None


def _framed(packet: bytes, kind: int) -> bytes:
    """With an Ethernet header; what is not IP gets one that says so."""
    packet = packet[_RAW[kind] :]
    version = packet[0] >> 4 if packet else 0
    return _NO_MACS + {4: b"\x08\x00", 6: b"\x86\xdd"}.get(version, b"\xff\xff") + packet


def _wrong_link_type(path: str, kind: int, ethernet: bool) -> InputError:
    name = f"{_KNOWN[kind]}, {kind}" if kind in _KNOWN else str(kind)
    wanted = (
        "an XDP program sees Ethernet frames (1); capture on the interface itself, as tcpdump -i eth0 does"
        if ethernet
        else "what is read is Ethernet (1), raw IP (101) and Linux 'any' (113, 276)"
    )
    return InputError(f"the capture {path} is of the link type {name}; {wanted}")


def _notes(reader: Any, kind: int, packets: list[Captured]) -> list[str]:
    notes = []
    if kind != _ETHERNET:
        notes.append("the capture has no Ethernet headers, so each packet got a made-up one, all zeros")
    limit = reader.snaplen
    cut = sum(len(packet.data) >= limit for packet in packets) if 0 < limit < _FULL else 0
    if cut:
        notes.append(f"the capture keeps {limit} bytes of a packet, and {cut} of them were perhaps longer")
    return notes
