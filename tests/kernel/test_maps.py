"""Maps go on being used when a program is replaced; what does not fit is refused, and nothing is touched."""

import ctypes
import json
import os
import struct
import subprocess
from pathlib import Path

import pytest
from gi.repository import GLib

from bpflinkd.kernel import libbpf_maps
from tests.lab import Daemon
from tests.lab.compiled import program
from tests.lab.daemon import Refused, builtin, by_id, elf
from tests.lab.maps import Counters
from tests.lab.traffic import ETHERTYPE
from tests.lab.world import run, until

TEST, OTHER = ETHERTYPE.to_bytes(2, "big") + b"\0\0", b"\x08\x00\0\0"
"""Ether types as the keys of the policy."""
XDP_DROP, XDP_PASS, XDP_TX = 1, 2, 3
_MANY = 1000
FRESH = GLib.Variant("a{ss}", {"policy_by_ethertype": "fresh"})


@pytest.fixture
def edge(daemon: Daemon) -> Daemon:
    """A link whose policy drops the test's packets."""
    daemon.attach("edge", {"xdp": "v0", "mode": "generic"}, elf(program("policy")))
    with opened(daemon, "policy_by_ethertype") as policy:
        policy.put(TEST, XDP_DROP)
    return daemon


class Opened:
    """A map by its stable path."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def put(self, key: bytes, value: int) -> None:
        libbpf_maps.map_put(self.fd, key, struct.pack("=I", value))

    def get(self, key: bytes, size: int = 4) -> int | None:
        value = ctypes.create_string_buffer(size)
        try:
            libbpf_maps.map_lookup(self.fd, struct.unpack("=I", key)[0], value)
        except FileNotFoundError:
            return None
        return int.from_bytes(value.raw, "little")


def pin(daemon: Daemon, name: str) -> Path:
    return daemon.pins / "edge" / "maps" / name.replace("_", "_5f").replace(".", "_2e")


def opened(daemon: Daemon, name: str) -> Opened:
    from bpflinkd.kernel import libbpf  # noqa: PLC0415

    return Opened(libbpf.obj_get(str(pin(daemon, name))))


def map_id(daemon: Daemon, name: str) -> int:
    return int(run("bpftool", "map", "show", "pinned", pin(daemon, name)).partition(":")[0])


def seen(daemon: Daemon, index: int) -> int:
    counters = Counters(pin(daemon, "seen"))
    try:
        return counters[index]
    finally:
        counters.close()


def run_once(daemon: Daemon, ethertype: int = ETHERTYPE, *, repeat: int = 1) -> int:
    """The verdict of the program that runs on the hook."""
    running = daemon.link("edge")["Program"]["id"]
    packet = daemon.world.dir / "packet"
    packet.write_bytes(b"\xff" * 6 + b"\2" * 6 + ethertype.to_bytes(2, "big") + b"\0" * 50)
    said = run("bpftool", "prog", "run", "id", str(running), "data_in", packet, "repeat", str(repeat))
    return int(said.partition("Return value: ")[2].split(",")[0])


def test_five_versions_with_a_live_policy(edge: Daemon) -> None:
    """Counters go on, the policy holds, an application that has the map open writes into what runs."""
    policy = opened(edge, "policy_by_ethertype")
    first = map_id(edge, "policy_by_ethertype"), map_id(edge, "seen")
    assert run_once(edge) == XDP_DROP
    counted = 1
    for version in range(2, 7):
        number = edge.replace("edge", elf(program("policy", ADDED=version)))
        assert number == version
        assert (map_id(edge, "policy_by_ethertype"), map_id(edge, "seen")) == first
        assert run_once(edge) == XDP_DROP
        counted += version
        assert seen(edge, 1) == counted
        policy.put(OTHER, XDP_TX if version % 2 else XDP_DROP)
        assert run_once(edge, 0x0800) == (XDP_TX if version % 2 else XDP_DROP)
        counted += version
        policy.put(TEST, XDP_DROP)
        libbpf_maps.map_remove(policy.fd, OTHER)
        assert seen(edge, 1) == counted
    assert sorted(edge.link("edge")["Maps"]) == [
        "bpflinkd.bss",
        "bpflinkd.data",
        "bpflinkd.rodata",
        "policy_by_ethertype",
        "seen",
    ]
    edge.restart()
    assert (map_id(edge, "policy_by_ethertype"), map_id(edge, "seen")) == first
    edge.replace("edge", elf(program("policy", ADDED=9)))
    assert map_id(edge, "seen") == first[1], "also after a restart"
    policy.__exit__()


def test_a_map_has_its_path_all_the_time(edge: Daemon) -> None:
    """Opened again and again by its path while programs are swapped, with other maps fresh each time."""
    path = pin(edge, "policy_by_ethertype")
    script = (
        "import ctypes, os, sys, select\n"
        "lib = ctypes.CDLL('libbpf.so.1')\n"
        "opened = 0\nprint('opening', flush=True)\n"
        "while not select.select([sys.stdin], [], [], 0)[0]:\n"
        f"  fd = lib.bpf_obj_get({str(path)!r}.encode())\n"
        "  assert fd >= 0, (fd, opened)\n"
        "  os.close(fd); opened += 1\n"
        "print(opened)\n"
    )
    opener = edge.world.process("python3", "-c", script, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert opener.stdout
    opener.stdout.readline()
    other = GLib.Variant("a{ss}", {"seen": "fresh"})
    for version in range(20):
        edge.replace("edge", elf(program("policy", ADDED=version % 3 + 1)), maps=other)
    told = opener.communicate("")[0]
    assert opener.returncode == 0
    assert int(told) > 20


def refused(edge: Daemon, source: object, **options: GLib.Variant) -> Refused:
    before, ids = edge.link("edge"), {name: map_id(edge, name) for name in ("policy_by_ethertype", "seen")}
    homes = sorted(str(path) for path in (edge.pins / "edge").rglob("*"))
    with pytest.raises(Refused) as refusal:
        edge.replace("edge", source, **options)  # type: ignore[arg-type]
    assert edge.link("edge") == before
    assert {name: map_id(edge, name) for name in ids} == ids
    assert sorted(str(path) for path in (edge.pins / "edge").rglob("*")) == homes
    assert run_once(edge) == XDP_DROP
    return refusal.value


def test_what_does_not_fit_is_refused_with_the_difference(edge: Daemon) -> None:
    wrong = refused(edge, elf(program("policy", ENTRIES=128)))
    assert wrong.name == "IncompatibleMaps"
    assert "map 'policy_by_ethertype': max_entries 64, now 128" in wrong.message
    assert "--map policy_by_ethertype=fresh" in wrong.message
    wrong = refused(edge, elf(program("policy", VALUE="__u64", FLAGS=1)))
    assert "value size 4, now 8, flags 0x0, now 0x1" in wrong.message
    wrong = refused(edge, elf(program("policy", ENTRIES=128)), maps=GLib.Variant("a{ss}", {"seen": "fresh"}))
    assert wrong.name == "IncompatibleMaps"
    for maps, error, says in (
        ({"sean": "fresh"}, "BadOption", "did you mean 'seen'?"),
        ({"seen": "old"}, "BadOption", "'keep' or 'fresh'"),
        ({".rodata": "keep"}, "BadOption", "constants"),
        ({"x" * 5000: "keep"}, "BadOption", "4096 characters"),
    ):
        wrong = refused(edge, elf(program("policy")), maps=GLib.Variant("a{ss}", maps))
        assert (wrong.name, says in wrong.message) == (error, True), wrong
    wrong = refused(edge, builtin(), maps=FRESH)
    assert wrong.name == "BadOption"
    assert "loaded already" in wrong.message
    edge.replace("edge", elf(program("policy", ENTRIES=128)), maps=FRESH)
    assert run_once(edge) == XDP_PASS, "the policy begins empty"
    assert seen(edge, 0) > 1, "the counters go on"


def test_fresh_maps_variables_and_constants(edge: Daemon) -> None:
    # Hosts say a few packets by themselves on a new interface.
    run_once(edge, repeat=_MANY)
    keep = GLib.Variant("a{ss}", {".bss": "keep"})
    edge.replace("edge", elf(program("policy", ADDED=2)), maps=keep)
    with opened(edge, "bpflinkd.bss") as variables:
        assert (variables.get(b"\0" * 4, 8) or 0) >= _MANY
    edge.replace("edge", elf(program("policy", ADDED=3)))
    with opened(edge, "bpflinkd.bss") as variables:
        assert (variables.get(b"\0" * 4, 8) or 0) < _MANY
    edge.replace("edge", elf(program("policy")), fresh_maps=GLib.Variant("b", True))
    assert run_once(edge) == XDP_PASS
    assert seen(edge, 1) == 0


def test_constants_are_set_by_their_types(edge: Daemon) -> None:
    edge.replace("edge", elf(program("policy"), otherwise="1", label="web"))
    assert run_once(edge, 0x1234) == XDP_DROP
    edge.replace("edge", elf(program("policy"), otherwise="0x3", offset="-1"))
    assert run_once(edge, 0x1234) == XDP_PASS
    edge.replace("edge", elf(program("policy"), enabled="false"))
    assert run_once(edge) == XDP_PASS
    assert edge.history("edge")[-1]["constants"] == {"enabled": "false"}
    edge.kill()
    subprocess.run(["rm", "-r", str(edge.pins / "edge")], check=True)
    edge.start()
    until(lambda: edge.state("edge") == "active", "it is attached again")
    assert run_once(edge) == XDP_PASS, "loaded again with the same constants"


@pytest.mark.parametrize(
    ("constants", "says"),
    [
        pytest.param({"otherwyse": "1"}, "did you mean 'otherwise'?", id="it does not exist"),
        pytest.param({"otherwise": "4294967296"}, "from 0 to 4294967295", id="it overflows"),
        pytest.param({"offset": "128"}, "from -128 to 127", id="it overflows a signed one"),
        pytest.param({"otherwise": "-1"}, "from 0 to", id="it is negative"),
        pytest.param({"otherwise": "many"}, "is a number", id="it is no number"),
        pytest.param({"enabled": "2"}, "true or false", id="it is no bool"),
        pytest.param({"label": "too long"}, "7 bytes of text", id="it is too long"),
        pytest.param({"ports": "1"}, "an array", id="it is an array"),
        pytest.param({"total": "1"}, "no constant", id="it is a variable"),
    ],
)
def test_a_constant_that_cannot_be(edge: Daemon, constants: dict[str, str], says: str) -> None:
    wrong = refused(edge, elf(program("policy"), **constants))
    assert wrong.name == "BadOption"
    assert says in wrong.message


def test_maps_of_a_program_that_another_loaded(daemon: Daemon) -> None:
    """The kernel knows 15 characters of a map's name."""
    place = daemon.world.bpffs / "theirs"
    run("bpftool", "prog", "load", program("policy"), place)
    number = run("bpftool", "prog", "show", "pinned", place).partition(":")[0]
    daemon.attach("edge", {"xdp": "v0", "mode": "generic"}, by_id(int(number)))
    ids = json.loads(run("bpftool", "-j", "prog", "show", "id", number))["map_ids"]
    names = {each: json.loads(run("bpftool", "-j", "map", "show", "id", str(each)))["name"] for each in ids}
    (before,) = (each for each, name in names.items() if name == "policy_by_ether")
    daemon.replace("edge", elf(program("policy", ADDED=2)))
    assert map_id(daemon, "policy_by_ethertype") == before
