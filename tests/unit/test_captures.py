"""Captures as people have them: which are read, what is said of the others."""

import os
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpflinkd.cli import captures
from bpflinkd.cli.failures import InputError
from bpflinkd.cli.summaries import summary
from tests.lab.captures import arp, pcap, pcapng, udp, written

PACKETS = [udp("10.0.0.1", 53), udp("fd00::1", 80, 600), arp()]
RAW = [packet[14:] for packet in PACKETS[:2]]
PCAP, PCAPNG = pcap(PACKETS), pcapng(PACKETS)


def swapped(data: bytes) -> bytes:
    """A little-endian pcap as a big-endian machine writes it."""
    made = struct.pack(">IHHIIII", *struct.unpack_from("<IHHIIII", data))
    at = 24
    while at < len(data):
        header = struct.unpack_from("<IIII", data, at)
        made += struct.pack(">IIII", *header) + data[at + 16 : at + 16 + header[2]]
        at += 16 + header[2]
    return made


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(PCAP, id="pcap"),
        pytest.param(pcap(PACKETS, nano=True), id="pcap with nanoseconds"),
        pytest.param(
            swapped(pcap(PACKETS)) if PCAP[:1] == b"\xd4" else PCAP, id="pcap of the other byte order"
        ),
        pytest.param(PCAPNG, id="pcapng"),
    ],
)
def test_packets_and_their_times_are_read(data: bytes, tmp_path: Path) -> None:
    read = captures.read(str(written(tmp_path / "c", data)), ethernet=True)
    assert [packet.data for packet in read.packets] == PACKETS
    assert [packet.time for packet in read.packets] == [(1_700_000_000 + n) * 1_000_000 for n in range(3)]
    assert read.notes == []


@pytest.mark.parametrize("link_type", [12, 14, 101, 228])
def test_raw_ip_gets_a_header_for_cgroups_and_that_is_said(link_type: int, tmp_path: Path) -> None:
    file = written(tmp_path / "c", pcap(RAW, link_type=link_type))
    read = captures.read(str(file), ethernet=False)
    assert [packet.data for packet in read.packets] == [bytes(12) + p[12:] for p in PACKETS[:2]]
    assert "made-up" in read.notes[0]
    with pytest.raises(InputError, match=r"link type raw IP.*sees Ethernet frames"):
        captures.read(str(file), ethernet=True)


def test_a_capture_of_any_interface_is_read_for_cgroups(tmp_path: Path) -> None:
    cooked = [bytes(14) + packet[12:] for packet in PACKETS[:2]]
    read = captures.read(str(written(tmp_path / "c", pcap(cooked, link_type=113))), ethernet=False)
    assert [packet.data[12:] for packet in read.packets] == [packet[12:] for packet in PACKETS[:2]]


def test_packets_that_were_cut_are_told(tmp_path: Path) -> None:
    data = pcap([packet[:40] for packet in PACKETS], snaplen=40)
    read = captures.read(str(written(tmp_path / "c", data)), ethernet=True)
    assert read.notes == ["the capture keeps 40 bytes of a packet, and 3 of them were perhaps longer"]


def block(kind: int, body: bytes) -> bytes:
    size = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + size + body + size


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"", "is empty: it has no bytes", id="no bytes"),
        pytest.param(PCAP[:24], "is empty: it holds no packet", id="no packets"),
        pytest.param(PCAP[:20], "is truncated: it ends within its header", id="an end within the header"),
        pytest.param(
            PCAP[:30], "is truncated: it ends within packet 1", id="an end within a packet's header"
        ),
        pytest.param(
            PCAP[:40], "is truncated: it ends within packet 1", id="an end behind a packet's header"
        ),
        pytest.param(PCAP[:-1], "is truncated: it ends within packet 3", id="an end within the last packet"),
        pytest.param(PCAPNG[:-1], "is truncated: it ends within a block, after packet 2", id="a cut pcapng"),
        pytest.param(PCAPNG[:20], "is truncated", id="a pcapng that is cut early"),
        pytest.param(PCAPNG + b"\1\0\0\0\4" + bytes(7), "is damaged: a block", id="a block of no length"),
        pytest.param(PCAPNG + block(3, bytes(8)), "simple packet blocks", id="packets without a time"),
        pytest.param(PCAPNG + PCAPNG, "several sections", id="two files in one"),
        pytest.param(PCAPNG + block(1, struct.pack("<HHI", 101, 0, 0)), "several link types", id="two kinds"),
        pytest.param(pcap(PACKETS, link_type=105), "link type 802.11, 105", id="wireless"),
        pytest.param(pcap(PACKETS, link_type=4000), "link type 4000", id="an unknown link type"),
        pytest.param(b"\x7fELF" + bytes(100), "is not a capture", id="another file"),
        pytest.param(b"\x1f\x8b" + bytes(30), "give what gunzip makes of it", id="compressed"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(data: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        captures.read(str(written(tmp_path / "c", data)), ethernet=True)
    assert says in str(refused.value)


def test_what_is_no_file_is_a_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    huge = tmp_path / "huge"
    huge.write_bytes(PCAP)
    os.truncate(huge, captures.MAX_FILE + 1)
    for path, says in (
        (tmp_path / "nope", "No such file"),
        (tmp_path, "is not a regular file"),
        (tmp_path / "fifo", "is not a regular file"),
        (huge, "at most 128 are read; cut it with: tcpdump -r"),
        ("a\0b", "null byte"),
    ):
        with pytest.raises(InputError, match=says):
            captures.read(str(path), ethernet=True)


@given(
    st.sampled_from([PCAP, PCAPNG, pcap(RAW, link_type=101)]),
    st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), max_size=8),
    st.integers(0, 2000),
    st.booleans(),
)
def test_a_damaged_capture_is_read_or_refused(
    data: bytes, changes: list[tuple[int, int]], length: int, ethernet: bool
) -> None:
    damaged = bytearray(data[:length])
    for at, value in changes:
        if at < len(damaged):
            damaged[at] = value
    with tempfile.NamedTemporaryFile() as file:
        file.write(damaged)
        file.flush()
        try:
            assert captures.read(file.name, ethernet=ethernet).packets
        except InputError as refused:
            assert file.name in str(refused)


@pytest.mark.parametrize(
    ("packet", "line"),
    [
        pytest.param(PACKETS[0], "10.0.0.1:999 > 10.0.0.9:53 UDP, 60 bytes", id="UDP"),
        pytest.param(PACKETS[1], "[fd00::1]:999 > [fd00::9]:80 UDP, 662 bytes", id="UDP over IPv6"),
        pytest.param(PACKETS[2], "ARP who has 10.0.0.9, 42 bytes", id="ARP"),
        pytest.param(b"x" * 5, "no whole Ethernet header, 5 bytes", id="no header"),
        pytest.param(
            PACKETS[0][:20],
            "02:02:02:02:02:02 > 02:02:02:02:02:02 type 0800, 20 bytes",
            id="a cut header of IP",
        ),
    ],
)
def test_a_packet_in_a_line(packet: bytes, line: str) -> None:
    assert summary(packet) == line


@given(st.binary(max_size=120), st.sampled_from([b"", PACKETS[0][:14], PACKETS[0][:34], PACKETS[1][:54]]))
def test_any_bytes_are_a_line(data: bytes, head: bytes) -> None:
    line = summary(head + data)
    assert line.endswith(f"{len(head + data)} bytes")
    assert "\n" not in line
