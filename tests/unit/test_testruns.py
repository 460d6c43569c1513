"""Packets that are sent to be tried, and what is told of what became of them."""

import struct

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpflinkd.core import testruns
from bpflinkd.core.attach_types import ProgramType
from bpflinkd.core.errors import BadOption
from bpflinkd.core.map_shapes import MapUse
from bpflinkd.core.maps import AS_USUAL, fates
from bpflinkd.core.testruns import Packet, Tally

XDP, SKB = ProgramType.XDP, ProgramType.CGROUP_SKB


def sent(*packets: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(packet)) + packet for packet in packets)


@given(st.lists(st.binary(max_size=80), min_size=1, max_size=20))
def test_packets_are_found_as_they_were_sent(packets: list[bytes]) -> None:
    data = sent(*packets)
    assert testruns.count(data) == len(packets)
    assert [data[at : at + size] for at, size in testruns.packets(data)] == packets


@given(st.binary(max_size=200))
def test_any_bytes_are_packets_or_refused(data: bytes) -> None:
    try:
        assert sum(4 + packet.size for packet in testruns.packets(data)) == len(data)
    except BadOption as refused:
        assert "packet" in str(refused)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"", "no packets to compare by", id="nothing"),
        pytest.param(sent(b"abc") + b"\1\0", "within the length of number 2", id="an end within a length"),
        pytest.param(
            sent(b"abc")[:-1], "packet 1 has 3 bytes by its length, and 2 follow", id="a cut packet"
        ),
        pytest.param(b"\xff" * 8, "packet 1 has 4294967295 bytes", id="a length of gigabytes"),
        pytest.param(bytes(4 * 1_000_001), "more than 1000000 packets", id="too many"),
    ],
)
def test_what_does_not_fit_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(BadOption, match=says):
        testruns.count(data)


@pytest.mark.parametrize(
    ("kind", "packet", "why"),
    [
        pytest.param(XDP, bytes(14), "", id="a header alone"),
        pytest.param(XDP, bytes(13), "shorter than an Ethernet header, 14 bytes", id="less than a header"),
        pytest.param(XDP, bytes(1 + (1 << 17)), "longer than 131072 bytes", id="longer than anything"),
        pytest.param(SKB, bytes(12) + b"\x08\x00" + bytes(20), "", id="IPv4 for a cgroup"),
        pytest.param(SKB, bytes(12) + b"\x86\xdd" + bytes(40), "", id="IPv6 for a cgroup"),
        pytest.param(
            SKB, bytes(12) + b"\x08\x06" + bytes(28), "neither IPv4 nor IPv6", id="ARP for a cgroup"
        ),
    ],
)
def test_what_is_never_tried(kind: ProgramType, packet: bytes, why: str) -> None:
    said = testruns.why_never_run(kind, b"before" + packet, Packet(6, len(packet)))
    assert said.startswith(why)
    assert bool(said) == bool(why)


@pytest.mark.parametrize(
    ("kind", "value", "name", "goes_on"),
    [
        pytest.param(XDP, 0, "XDP_ABORTED", False, id="aborted"),
        pytest.param(XDP, 1, "XDP_DROP", False, id="dropped"),
        pytest.param(XDP, 4, "XDP_REDIRECT", True, id="redirected"),
        pytest.param(XDP, 77, "77, which is no verdict", True, id="nonsense"),
        pytest.param(SKB, 0, "drop", False, id="a cgroup drops"),
        pytest.param(SKB, 1, "pass", True, id="a cgroup passes"),
        pytest.param(SKB, 2, "drop, congestion told", False, id="egress tells congestion"),
    ],
)
def test_verdicts_have_names(kind: ProgramType, value: int, name: str, goes_on: bool) -> None:
    assert testruns.verdict(kind, value) == name
    assert testruns.goes_on(kind, value) == goes_on


def test_a_tally_counts_all_and_keeps_some() -> None:
    tally = Tally(2)
    for number in range(5):
        tally.add(number, 2, 1, altered=False)
    tally.add(5, 2, 2, altered=True)
    tally.add(6, 2, 2, altered=False)
    assert (tally.differing, dict(tally.verdicts)) == (6, {(2, 1): 5, (2, 2): 2})
    assert [tuple(each) for each in tally.differences] == [(0, 2, 1, False), (1, 2, 1, False)]


def test_packets_that_we_make_up_are_whole() -> None:
    first, second = (dpkt.ethernet.Ethernet(sample.data) for sample in testruns.samples())
    assert isinstance(first.data.data, dpkt.udp.UDP)
    assert isinstance(second.data.data, dpkt.tcp.TCP)
    for frame in (first, second):
        before = bytes(frame)
        frame.data.sum = 0
        if second is frame:
            frame.data.data.sum = 0
        assert bytes(frame) == before  # dpkt fills in what is zero


def use(name: str, kind: str = "hash", value: int = 8, entries: int = 10) -> MapUse:
    return MapUse(name, {"hash": 1, "array": 2}[kind], kind, 4, value, entries, 0, 100)


@pytest.mark.parametrize(
    ("running", "new", "lines"),
    [
        pytest.param([use("a")], [use("a")], (), id="the same"),
        pytest.param([use("a")], [use("b", value=99)], (), id="another name"),
        pytest.param(
            [use("a")], [use("a", value=16)], ("map 'a': value size 8, now 16",), id="another value"
        ),
        pytest.param(
            [use("a")],
            [use("a", "array", entries=5)],
            ("map 'a': type hash, now array",),
            id="another type",
        ),
        pytest.param(
            [use("a")],
            [use("a", value=16, entries=5)],
            ("map 'a': value size 8, now 16, max_entries 10, now 5",),
            id="two things",
        ),
        pytest.param(
            [use("a_name_of_many_")],
            [use("a_name_of_many_characters", value=4)],
            ("map 'a_name_of_many_characters': value size 8, now 4",),
            id="a name that the kernel cut",
        ),
        pytest.param([use("x.bss")], [use("x.bss", value=4)], (), id="variables of the program"),
    ],
)
def test_maps_are_compared(running: list[MapUse], new: list[MapUse], lines: tuple[str, ...]) -> None:
    found = fates([each.shape for each in running], [each.shape for each in new], AS_USUAL)
    assert tuple(found.wrong.values()) == lines
