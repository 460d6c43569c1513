"""`check` on a real kernel: what an attach or replace would meet, without doing it."""

import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from gi.repository import GLib

from tests.kernel.test_bpflinkctl import ctl, document
from tests.kernel.test_watch import netlink_attach
from tests.lab import Daemon, World
from tests.lab.as_user import AsUser, memfd
from tests.lab.compiled import compile_c, program
from tests.lab.daemon import Refused, builtin, elf
from tests.lab.world import until

FOUND = 6
NOBODY = 65534


def held(daemon: Daemon) -> int:
    """How many programs and maps the daemon holds open."""
    assert daemon.process is not None
    found = [
        os.readlink(each) for each in Path(f"/proc/{daemon.process.pid}/fd").iterdir() if each.is_symlink()
    ]
    return sum("bpf" in each for each in found)


def test_a_program_is_looked_at_and_leaves_nothing(daemon: Daemon) -> None:
    before = held(daemon)
    words = ("xdp:v0", "--object", program("filter"), "--program", "filter")
    report = document(daemon, "check", *words)
    assert (report["target"], report["attach_type"]) == ({"xdp": "v0", "mode": "auto"}, "xdp")
    assert (report["obstacle"], report["refusal"]) == ("", None)
    assert report["features"] == {"xdp": {"supported": True, "reason": ""}}
    maps: Any = {each["name"]: each for each in report["maps"]}  # type: ignore[attr-defined]
    assert {name: maps[name]["type"] for name in ("allowed", "seen", "total", "told")} == {
        "allowed": "hash",
        "seen": "lru_hash",
        "total": "percpu_array",
        "told": "ringbuf",
    }
    assert (maps["allowed"]["key_size"], maps["allowed"]["value_size"]) == (4, 1)
    assert maps["allowed"]["max_entries"] == 1024
    assert report["memory"] == report["program_memory"] + sum(each["memory"] for each in maps.values())
    tests: Any = report["tests"]
    assert [test["verdict"] for test in tests] == ["XDP_DROP", "XDP_PASS"]  # IPv4 of nobody we know; IPv6
    assert all(0 < test["nanoseconds"] < 1_000_000 for test in tests)
    assert "processed" in str(report["log"])
    assert "R1=ctx()" not in str(report["log"])
    assert "R1=ctx()" in str(document(daemon, "check", *words, "--log")["log"])
    until(lambda: held(daemon) == before, "all closed")
    assert daemon.links() == {}
    assert daemon.pinned() == set()


def test_a_target_that_is_held_or_gone_is_told(daemon: Daemon) -> None:
    count = ("--object", program("count"), "--program", "count_old")
    gone = ctl(daemon, "check", "xdp:nope", *count)
    assert (gone.returncode, "there is no interface 'nope'" in gone.stdout) == (FOUND, True)
    daemon.attach("edge", {"xdp": "v0"}, elf(program("filter"), "filter"))
    ours = ctl(daemon, "check", "xdp:v0", *count)
    assert (ours.returncode, "held by our own link 'edge'; replace that one" in ours.stdout) == (FOUND, True)
    replaced = ctl(daemon, "check", "xdp:v0", *count, "--link", "edge")
    assert replaced.returncode == 0, replaced.stdout + replaced.stderr
    assert "generation 1, filter" in replaced.stdout
    elsewhere = ctl(daemon, "check", "xdp:v1", *count, "--link", "edge")
    assert (elsewhere.returncode, "link 'edge' is on xdp:v0, not on xdp:v1" in elsewhere.stderr) == (1, True)
    daemon.detach("edge")
    netlink_attach(daemon.world)
    strangers = ctl(daemon, "check", "xdp:v0", *count)
    assert (strangers.returncode, "held by program only_one" in strangers.stdout) == (FOUND, True)


def test_maps_of_other_sizes_are_told(daemon: Daemon, tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "programs" / "count.bpf.c").read_text()
    source = tmp_path / "wide.bpf.c"
    source.write_text(text.replace("max_entries)[2]", "max_entries)[3]"))
    wide = compile_c(source, tmp_path / "wide.bpf.o")
    daemon.attach("edge", {"xdp": "v0"}, elf(program("count"), "count_old"))
    words = ("check", "--object", wide, "--program", "count_old", "--link", "edge")
    told: dict[str, Any] = json.loads(ctl(daemon, *words, "--json").stdout)
    assert told["compatibility"] == ["map 'counters': max_entries 2, now 3"]
    assert told["refusal"] == "IncompatibleMaps"
    refused = ctl(daemon, "replace", "edge", *words[1:-2])
    assert refused.stderr.strip().endswith(told["obstacle"]), "the same sentence"
    shown = ctl(daemon, *words).stdout
    assert "cannot be kept" in shown
    fresh = ctl(daemon, *words, "--map", "counters=fresh")
    assert (fresh.returncode, "anew" in fresh.stdout) == (0, True)
    told = json.loads(ctl(daemon, *words, "--json", "--fresh-maps").stdout)
    assert not any(each["kept"] for each in told["maps"])
    new = ("--object", program("count"), "--program", "count_new", "--link", "edge", "--json")
    same: dict[str, Any] = json.loads(ctl(daemon, "check", *new).stdout)
    assert [each["kept"] for each in same["maps"] if each["name"] == "counters"] == [True]
    odd = ctl(daemon, *words, "--map", "countrs=fresh")
    assert (odd.returncode, "did you mean 'counters'?" in odd.stderr) == (1, True)
    alone = ctl(daemon, "check", "xdp:v1", *words[1:-2], "--fresh-maps")
    assert (alone.returncode, "of a --link" in alone.stderr) == (2, True)


@pytest.mark.parametrize(
    ("name", "target", "error", "says"),
    [
        pytest.param("verifier_hates", "xdp:v0", "VerifierRejected", "invalid access to packet", id="log"),
        pytest.param("egress_count", "xdp:v0", "WrongProgramType", "takes xdp programs", id="another type"),
        pytest.param("nope", "xdp:v0", "BadProgram", "has no program 'nope'", id="no such program"),
        pytest.param("count_old", "cgroup:/", "WrongProgramType", "which no cgroup takes", id="no cgroup's"),
    ],
)
def test_a_refusal_is_that_of_attach(daemon: Daemon, name: str, target: str, error: str, says: str) -> None:
    words = (target, "--object", program("count"), "--program", name)
    checked = ctl(daemon, "check", *words)
    assert checked.returncode == 1
    assert checked.stderr.startswith(f"bpflinkctl: {error}: ")
    assert says in checked.stderr
    attached = ctl(daemon, "attach", "edge", *words)
    assert attached.stderr.splitlines()[0] == checked.stderr.splitlines()[0]


def test_a_cgroup_and_the_attach_type_that_its_program_tells(daemon: Daemon) -> None:
    path = daemon.world.cgroup()
    report = document(
        daemon, "check", f"cgroup:{path}", "--object", program("count"), "--program", "egress_count"
    )
    assert report["target"] == {"cgroup": path, "attach_type": "egress"}
    assert [test["verdict"] for test in report["tests"]] == ["pass", "pass"]  # type: ignore[attr-defined]
    report = document(
        daemon, "check", f"cgroup:{path}", "--object", program("count"), "--program", "connect_ok"
    )
    assert (report["attach_type"], report["tests"]) == ("connect4", [])
    assert "xdp and cgroup_skb" in str(report["not_tested"])
    daemon.attach("edge", {"xdp": "v0"}, elf(program("count"), "count_old"))
    loaded = document(daemon, "check", "xdp:v1", "--id", str(daemon.link("edge")["Program"]["id"]))
    assert (loaded["tests"], loaded["log"]) == ([], "")
    assert "a test run would change what its maps hold" in str(loaded["not_tested"])


def test_a_caller_that_is_not_root_checks_within_its_grant(world: World) -> None:
    place = world.dir / "etc" / "grants.d"
    place.mkdir(parents=True)
    (place / "x.toml").write_text(f'[[grant]]\nuser = {NOBODY}\ntargets = ["xdp:v0"]\nmax-maps = 3\n')
    daemon = world.daemon("--sweep-interval", "3600")
    nobody = AsUser(world, NOBODY)

    def check(interface: str, source: str, name: str, *, log: bool = False) -> dict[str, Any]:
        file = memfd(program(source).read_bytes())
        target = {"xdp": GLib.Variant("s", interface)}
        wanted = {"object": GLib.Variant("h", 0), "name": GLib.Variant("s", name)}
        options = {"log": GLib.Variant("b", log)}
        try:
            return dict(nobody.call("Check", "(a{sv}a{sv}a{sv})", (target, wanted, options), fds=[file]))
        finally:
            os.close(file)

    report = check("v0", "count", "count_old", log=True)
    assert "R1=ctx()" in report["log"]
    # No address of the kernel's, as that of a map, for those who may not read its memory.
    assert not re.search(r"\(18\) r\d = 0x[0-9a-f]{9}", report["log"])
    assert [test["verdict"] for test in report["tests"]] == ["XDP_PASS", "XDP_PASS"]
    with pytest.raises(Refused, match="NotAuthorized"):
        check("v1", "count", "count_old")
    with pytest.raises(Refused, match=r"LimitExceeded.*more than 3 maps"):
        check("v0", "filter", "filter")
    with pytest.raises(Refused, match="VerifierRejected"):
        check("v0", "count", "verifier_hates")
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    file = memfd(struct.pack("<I", 60) + bytes(60))
    wanted = {"builtin": GLib.Variant("s", "pass")}
    with pytest.raises(Refused, match="NotOwner"):
        nobody.call("Compare", "(sa{sv}ha{sv})", ("edge", wanted, 0, {}), fds=[file])
    os.close(file)
