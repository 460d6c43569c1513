"""`diff` on a real kernel: what another program would do with packets, and nothing that runs is touched."""

import json
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gi.repository import GLib

from tests.kernel.test_bpflinkctl import ctl
from tests.lab import Daemon
from tests.lab.as_user import memfd
from tests.lab.captures import arp, pcap, pcapng, udp, written
from tests.lab.compiled import program
from tests.lab.daemon import Refused, Source, builtin, by_id, elf
from tests.lab.world import run

FOUND = 6
KNOWN, UNKNOWN = "10.0.0.1", "10.0.0.2"


def attach_filter(daemon: Daemon, name: str = "filter") -> None:
    daemon.attach("edge", {"xdp": "v0"}, elf(program("filter"), name))


def put(daemon: Daemon, name: str, key: bytes, value: str) -> None:
    run(
        "bpftool",
        "map",
        "update",
        "pinned",
        daemon.pins / "edge/maps" / name,
        "key",
        *map(str, key),
        *value.split(),
    )


def allow(daemon: Daemon, key: bytes) -> None:
    put(daemon, "allowed", key, "value 1")


def contents(daemon: Daemon) -> dict[str, str]:
    """All that the live maps hold, as bpftool shows it."""
    maps = [each for each in (daemon.pins / "edge/maps").iterdir() if each.name != "told"]
    assert len(maps) == 4
    return {each.name: run("bpftool", "-j", "map", "dump", "pinned", each) for each in maps}


def diff(daemon: Daemon, name: str, capture: Path, *words: str) -> dict[str, Any]:
    done = ctl(
        daemon,
        "diff",
        "edge",
        "--object",
        program("filter"),
        "--program",
        name,
        "--pcap",
        capture,
        *words,
        "--json",
    )
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (FOUND if found.get("differing") else 0), found
    return found


def verdicts(found: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {(each["running"], each["new"]): each["packets"] for each in found["verdicts"]}


def test_a_change_of_a_filter_is_shown_by_its_packets(daemon: Daemon, tmp_path: Path) -> None:
    """The live policy decides, in both; and not a bit of it, nor of the counters, is another afterwards."""
    attach_filter(daemon)
    allow(daemon, bytes((10, 0, 0, 1)))
    put(daemon, "seen", bytes((10, 0, 0, 1)), "value 7 0 0 0 0 0 0 0")
    before = contents(daemon)
    packets = [udp(KNOWN, 80), udp(KNOWN, 23), udp(UNKNOWN, 23), udp("fd00::1", 23), arp()] * 40
    capture = written(tmp_path / "monday.pcapng", pcapng(packets))
    found = diff(daemon, "no_telnet", capture, "--limit", "3")
    assert verdicts(found) == {
        ("XDP_PASS", "XDP_PASS"): 120,
        ("XDP_DROP", "XDP_DROP"): 40,
        ("XDP_PASS", "XDP_DROP"): 40,
    }
    assert (found["packets"], found["differing"], found["not_run"]) == (200, 40, [])
    assert [each["packet"] for each in found["differences"]] == [2, 7, 12]
    first = found["differences"][0]
    assert first["summary"] == "10.0.0.1:999 > 10.0.0.9:23 UDP, 60 bytes"
    assert bytes.fromhex(first["bytes"]) == packets[1]
    assert first["time"] == 1_700_000_001_000_000
    assert {"allowed", "seen", "total"} <= set(found["copied"])
    assert ("new", "told") in {(each["program"], each["map"]) for each in found["fresh"]}
    assert contents(daemon) == before
    table = ctl(
        daemon,
        "diff",
        "edge",
        "--object",
        program("filter"),
        "--program",
        "no_telnet",
        "--pcap",
        capture,
        "--limit",
        "1",
    )
    lines = table.stdout.splitlines()
    assert lines[0].split() == ["PACKET", "TIME", "WHAT", "RUNNING", "NEW"]
    assert lines[1].split()[-2:] == ["XDP_PASS", "XDP_DROP"]
    assert "200 packets were tried; 40 are treated otherwise" in table.stdout
    assert table.returncode == FOUND
    assert diff(daemon, "filter", capture)["differing"] == 0
    assert (contents(daemon), daemon.link("edge")["Generation"]) == (before, 1)


def test_a_packet_that_comes_out_changed_is_a_difference(daemon: Daemon, tmp_path: Path) -> None:
    attach_filter(daemon)
    allow(daemon, bytes((10, 0, 0, 1)))
    capture = written(tmp_path / "c", pcap([udp(KNOWN, 80), udp(UNKNOWN, 80)]))
    found = diff(daemon, "marks", capture)
    assert [(each["packet"], each["altered"]) for each in found["differences"]] == [(1, True)]
    assert found["differing"] == 1


def test_packets_seem_to_come_from_the_links_interface(daemon: Daemon, tmp_path: Path) -> None:
    attach_filter(daemon, "by_interface")
    allow(daemon, struct.pack("=I", daemon.link("edge")["Hook"]["ifindex"]))
    found = diff(daemon, "by_interface", written(tmp_path / "c", pcap([udp(KNOWN, 80)])))
    assert verdicts(found) == {("XDP_PASS", "XDP_PASS"): 1}


def test_a_cgroups_program_sees_what_is_ip(daemon: Daemon, tmp_path: Path) -> None:
    place = {"cgroup": daemon.world.cgroup(), "attach_type": "egress"}
    daemon.attach("edge", place, elf(program("filter"), "egress"))
    packets = [udp(KNOWN, 80, 4), udp(KNOWN, 80, 400), udp("fd00::1", 80, 400), arp(), udp(KNOWN, 80)[:20]]
    found = diff(daemon, "egress_short", written(tmp_path / "c", pcap(packets)))
    assert verdicts(found) == {("pass", "pass"): 1, ("pass", "drop"): 2}
    reasons = {each["reason"]: each["packets"] for each in found["not_run"]}
    assert sum(reasons.values()) == 2
    assert any("neither IPv4 nor IPv6" in reason for reason in reasons)
    raw = written(tmp_path / "raw", pcap([packet[14:] for packet in packets[:2]], link_type=101))
    found = diff(daemon, "egress_short", raw)
    assert (verdicts(found), "made-up" in found["notes"][0]) == (
        {("pass", "pass"): 1, ("pass", "drop"): 1},
        True,
    )


def compare(daemon: Daemon, source: Source, fd: int, **options: GLib.Variant) -> Any:
    with source as (wanted, fds):
        given = ("edge", wanted, len(fds), options)
        return daemon.call("Compare", "(sa{sv}ha{sv})", given, fds=[*fds, fd])


ONE = struct.pack("<I", 60) + bytes(60)


@pytest.mark.parametrize(
    ("source", "data", "sealed", "error", "says"),
    [
        pytest.param(builtin, ONE, False, "BadOption", "not a memfd sealed against", id="not sealed"),
        pytest.param(builtin, b"", True, "BadOption", "what was sent is empty", id="nothing"),
        pytest.param(builtin, ONE[:-1], True, "BadOption", "59 follow", id="a cut packet"),
        pytest.param(
            builtin, struct.pack("<I", 5) + bytes(5), True, "BadOption", "none of the 1", id="all short"
        ),
        pytest.param(
            lambda: by_id(1 << 31), ONE, True, "BadProgram", "loaded already", id="a loaded program"
        ),
        pytest.param(
            lambda: elf(program("count"), "verifier_hates"),
            ONE,
            True,
            "VerifierRejected",
            "log",
            id="refused",
        ),
        pytest.param(
            lambda: elf(program("count"), "egress_count"),
            ONE,
            True,
            "WrongProgramType",
            "takes xdp",
            id="a type",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(
    daemon: Daemon, source: Callable[[], Source], data: bytes, sealed: bool, error: str, says: str
) -> None:
    attach_filter(daemon)
    fd = memfd(data, sealed=sealed)
    with pytest.raises(Refused) as refused:
        compare(daemon, source(), fd)
    os.close(fd)
    assert (refused.value.name, says in refused.value.message) == (error, True), refused.value.message


def test_a_link_that_cannot_be_loaded_once_more_says_so(daemon: Daemon) -> None:
    fd = memfd(ONE)
    attach_filter(daemon)
    number = daemon.link("edge")["Program"]["id"]
    daemon.attach("other", {"xdp": "v1"}, builtin())
    daemon.replace("edge", by_id(number))
    with pytest.raises(Refused, match=r"BadProgram.*there is no file to load it from once more"):
        compare(daemon, builtin(), fd)
    daemon.detach("edge")
    daemon.attach("edge", {"cgroup": daemon.world.cgroup()}, elf(program("count"), "connect_ok"))
    with pytest.raises(Refused, match=r"NotSupported.*the types xdp and cgroup_skb only"):
        compare(daemon, builtin(), fd)
    os.close(fd)


def test_neither_readers_nor_swaps_wait_for_many_packets(daemon: Daemon) -> None:
    attach_filter(daemon)
    daemon.attach("other", {"xdp": "v1"}, builtin())
    packet = udp(UNKNOWN, 80)
    fd = memfd((struct.pack("<I", len(packet)) + packet) * 400_000)
    answers: list[Any] = []
    sent = daemon.connection
    from gi.repository import Gio  # noqa: PLC0415

    files = Gio.UnixFDList.new()
    files.append(fd)
    body = GLib.Variant("(sa{sv}ha{sv})", ("edge", {"builtin": GLib.Variant("s", "pass")}, 0, {}))
    sent.call_with_unix_fd_list(
        "org.bpflinkd1",
        "/org/bpflinkd1",
        "org.bpflinkd1.Manager",
        "Compare",
        body,
        None,
        0,
        60_000,
        files,
        None,
        lambda source, result: answers.append(source.call_with_unix_fd_list_finish(result)[0].unpack()[0]),
    )
    took = []
    context = GLib.MainContext.default()
    deadline = time.monotonic() + 60
    while not answers and time.monotonic() < deadline:
        begun = time.monotonic()
        daemon.replace("other", builtin())
        took.append(time.monotonic() - begun)
        context.iteration(False)
    os.close(fd)
    (answer,) = answers
    assert answer["verdicts"] == [(1, 2, 400_000)]
    assert len(answer["differences"]) == 1000
    # A swap waits for the kernel, and perhaps for a processor; a worker that is held up is one long wait.
    assert len(took) > 3
    assert max(took) < 1
