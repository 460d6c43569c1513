"""`bpflinkctl doctor` on a real kernel: what strangers leave is found, and each printed command mends it."""

import json
import os
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from gi.repository import GLib

from bpflinkd.core import attach_types
from bpflinkd.kernel import libbpf, objects
from bpflinkd.kernel.cgroup import CgroupTree
from tests.kernel.test_adopt import REPO, stranger_link
from tests.kernel.test_bpflinkctl import CTL
from tests.kernel.test_replace import load_counters, tamper
from tests.kernel.test_watch import becomes, netlink_attach, sever
from tests.lab import Daemon, World
from tests.lab.as_user import AsUser
from tests.lab.compiled import program
from tests.lab.daemon import builtin, elf
from tests.lab.world import run, until

FOUND = 5
_HOLDER = """
import os, socket, sys, time
from bpflinkd.core import attach_types
from bpflinkd.kernel import libbpf, objects
program = objects.load(open(sys.argv[1], "rb").read(), "count_old", attach_types.XDP)
link = libbpf.link_create(program.fd, socket.if_nametoindex("v0"), 37)
print("ready", flush=True)
time.sleep(60)
"""
_OF_NAMESPACE = """
import os, subprocess, sys, time
from bpflinkd.kernel import info, libbpf
place = sys.argv[2] + "/flow"
subprocess.run(["bpftool", "prog", "load", sys.argv[1], place, "type", "flow_dissector"], check=True)
link = libbpf.link_create(libbpf.obj_get(place), os.open("/proc/self/ns/net", os.O_RDONLY), 17)
print(info.link_info(link).id, flush=True)
time.sleep(60)
"""


def doctor(daemon: Daemon) -> list[dict[str, Any]]:
    """Every finding. Others run on this host as well, so the exit code is what they make of it."""
    done = subprocess.run(
        [CTL, "--bus", daemon.world.bus, "doctor", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode in (0, FOUND), done.stdout + done.stderr
    findings: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    bad = [each for each in findings if each["level"] != "note"]
    assert (done.returncode == FOUND) == bool(bad)
    return findings


def about(daemon: Daemon, kind: str, where: str) -> list[dict[str, Any]]:
    """The findings of a kind about one place."""
    return [each for each in doctor(daemon) if (each["kind"], each["where"]) == (kind, where)]


def paste(daemon: Daemon, lines: list[str]) -> None:
    """Run commands as an administrator does who copies them into a shell, where the daemon is."""
    assert lines
    path = f"{CTL.parent}:{os.environ['PATH']}"
    for line in lines:
        done = subprocess.run(
            daemon.world.inside("bash", "-c", line),
            cwd=daemon.world.dir,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"


def mends(daemon: Daemon, kind: str, where: str, level: str = "warning") -> dict[str, Any]:
    """The one finding is there, its commands work, and it is there no more."""
    (finding,) = about(daemon, kind, where)
    assert finding["level"] == level, finding
    paste(daemon, finding["commands"])
    assert about(daemon, kind, where) == []
    return finding


# What others attached


def test_a_netlink_program_is_adopted(daemon: Daemon) -> None:
    netlink_attach(daemon.world)
    found = mends(daemon, "netlink-xdp", "xdp:v0")
    assert "only_one" in found["what"]
    assert daemon.link("xdp-v0")["Program"]["name"] == "only_one"


def test_a_pinned_link_that_nobody_looks_after_is_adopted(daemon: Daemon) -> None:
    number, pin = stranger_link(daemon.world, interface="v0")
    found = mends(daemon, "unowned-link", "xdp:v0")
    assert str(pin) in found["what"]
    assert daemon.link("xdp-v0")["KernelLinkId"] == number


def test_a_link_on_a_cgroup_is_adopted(daemon: Daemon) -> None:
    path = daemon.world.cgroup()
    stranger_link(daemon.world, cgroup=str(World.cgroup_dir(path)))
    mends(daemon, "unowned-link", f"cgroup:{path} egress")
    assert [link["Target"] for link in daemon.links().values()] == [{"cgroup": path, "attach_type": "egress"}]


def test_a_link_that_would_end_with_its_process_is_adopted_and_outlives_it(daemon: Daemon) -> None:
    words = daemon.world.inside(sys.executable, "-c", _HOLDER, program("count"))
    holder = daemon.world.process(*words, cwd=REPO, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    found = mends(daemon, "unpinned-link", "xdp:v0")
    assert f"it ends with python (pid {holder.pid})" in found["what"]
    holder.kill()
    holder.wait()
    assert daemon.state("xdp-v0") == "active"
    assert "prog/xdp" in daemon.world.ip("link", "show", "v0")


def test_a_link_that_cannot_be_adopted_is_pinned(daemon: Daemon) -> None:
    world = daemon.world
    words = world.inside(sys.executable, "-c", _OF_NAMESPACE, program("flow"), world.bpffs)
    holder = world.process(*words, cwd=REPO, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    number = int(holder.stdout.readline())
    notes = [each for each in doctor(daemon) if f"(pid {holder.pid}): 1 netns" in each["what"]]
    assert [note["level"] for note in notes] == ["note"]
    (line,) = notes[0]["commands"]
    *command, place = shlex.split(line)
    assert command == ["bpftool", "link", "pin", "id", str(number)]
    # Not there, but on the bpffs of this test: others use that one.
    paste(daemon, [shlex.join([*command, f"{world.bpffs}/{Path(place).name}"])])
    holder.kill()
    holder.wait()
    assert f"{number}:" in run("bpftool", "link", "show")


def attach_legacy(world: World, path: str) -> None:
    """A program on a cgroup as PROG_ATTACH attaches it."""
    pin = world.bpffs / "legacy"
    if not pin.exists():
        loaded = objects.load(program("count").read_bytes(), "egress_count", attach_types.by_name("egress"))
        libbpf.obj_pin(loaded.fd, str(pin))
        loaded.close()
    run("bpftool", "cgroup", "attach", World.cgroup_dir(path), "egress", "pinned", pin, "multi")


def test_a_program_without_a_link_is_detached(daemon: Daemon) -> None:
    path = daemon.world.cgroup()
    attach_legacy(daemon.world, path)
    found = mends(daemon, "unowned-program", f"cgroup:{path} egress")
    assert "egress_count" in found["what"]
    assert "egress" not in run("bpftool", "cgroup", "show", World.cgroup_dir(path))


def test_what_runs_twice_is_told(daemon: Daemon) -> None:
    above = daemon.world.cgroup()
    below = f"{above}/below"
    World.cgroup_dir(below).mkdir()
    counter = elf(program("count"), "egress_count")
    daemon.attach("above", {"cgroup": above, "attach_type": "egress"}, counter)
    daemon.attach("below", {"cgroup": below, "attach_type": "egress"}, counter)
    attach_legacy(daemon.world, below)
    found = about(daemon, "attached-twice", f"cgroup:{below} egress")
    assert len(found) == 2
    assert any("PROG_ATTACH" in each["what"] for each in found)
    while found:
        paste(daemon, found[0]["commands"])
        found = about(daemon, "attached-twice", f"cgroup:{below} egress")
    assert "above" in daemon.links()


def test_device_rules_are_a_note(daemon: Daemon) -> None:
    path = daemon.world.cgroup()
    daemon.attach("rules", {"cgroup": path, "attach_type": "device"}, builtin())
    place = daemon.pins / "rules" / "program"
    run("bpftool", "cgroup", "attach", World.cgroup_dir(path), "device", "pinned", place, "multi")
    found = [each for each in doctor(daemon) if each["kind"] == "system-program"]
    assert any("(device)" in each["what"] and each["level"] == "note" for each in found)
    assert not about(daemon, "unowned-program", f"cgroup:{path} device")


# Pins


def test_a_pin_of_a_link_that_was_detached_is_removed(daemon: Daemon) -> None:
    number, pin = stranger_link(daemon.world, interface="v0")
    run("bpftool", "link", "detach", "id", str(number))
    mends(daemon, "dead-pin", str(pin))
    assert not pin.exists()


def test_a_pin_of_a_link_whose_interface_went_is_removed(daemon: Daemon) -> None:
    _, pin = stranger_link(daemon.world, interface="v0")
    daemon.world.ip("link", "del", "v0")
    mends(daemon, "dead-pin", str(pin))


def test_a_program_that_is_pinned_and_idle_is_a_note(daemon: Daemon) -> None:
    number, pin = stranger_link(daemon.world, interface="v0")
    assert not about(daemon, "idle-program", f"{pin}_program")
    run("bpftool", "link", "detach", "id", str(number))
    pin.unlink()
    mends(daemon, "idle-program", f"{pin}_program", "note")


def test_stray_pins_are_adopted_and_removed(daemon: Daemon) -> None:
    number, pin = stranger_link(daemon.world, interface="v0")
    stray = daemon.pins / "lost"
    stray.mkdir()
    pin.rename(stray / "link")
    (stray / "maps").mkdir()
    assert not about(daemon, "unowned-link", "xdp:v0")
    mends(daemon, "stray-pins", str(stray))
    assert (daemon.link("xdp-v0")["KernelLinkId"], daemon.state("xdp-v0")) == (number, "active")
    assert not stray.exists()


# Our own links


def test_a_severed_link_is_put_back(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, elf(program("count"), "count_new"))
    assert not about(daemon, "link-state", "link edge")
    sever(daemon)
    becomes(daemon, "severed")
    mends(daemon, "link-state", "link edge", "fault")
    link = daemon.link("edge")
    assert (link["State"], link["Program"]["name"], link["Source"][0]) == ("active", "count_new", "object")


def test_a_tampered_link_is_made_anew(daemon: Daemon) -> None:
    pins, _ = load_counters(daemon)
    daemon.attach("edge", {"xdp": "v0", "mode": "native"}, builtin(), policy=GLib.Variant("s", "alert"))
    tamper(daemon, "edge", pins[0])
    becomes(daemon, "tampered")
    mends(daemon, "link-state", "link edge", "fault")
    link = daemon.link("edge")
    assert (link["State"], link["Source"], link["Target"]["mode"]) == (
        "active",
        ("builtin", "pass"),
        "native",
    )


def test_a_displaced_link_is_put_back(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    sever(daemon)
    becomes(daemon, "severed")
    netlink_attach(daemon.world)
    becomes(daemon, "displaced")
    mends(daemon, "link-state", "link edge", "fault")
    assert daemon.state("edge") == "active"


def test_a_link_that_waits_for_nothing_is_detached(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "nowhere0"}, builtin(), wait=GLib.Variant("b", True))
    daemon.transfer("edge", uid=GLib.Variant("u", 65534), force=True)
    mends(daemon, "link-state", "link edge")
    assert daemon.links() == {}


def test_a_link_whose_holder_is_gone_is_claimed(daemon: Daemon) -> None:
    app = AsUser(daemon.world, 0)
    options = {"lifetime": GLib.Variant("s", "owner"), "grace": GLib.Variant("t", 60_000_000)}
    app.attach("edge", {"xdp": "v0"}, builtin(), **options)
    assert not about(daemon, "holder-gone", "link edge")
    app.end()
    until(lambda: "until" in daemon.link("edge")["Hold"], "the grace time")
    (finding,) = about(daemon, "holder-gone", "link edge")
    assert "60 s" in finding["what"]
    (line,) = finding["commands"]
    path = f"{CTL.parent}:{os.environ['PATH']}"
    daemon.world.process("bash", "-c", f"exec {line}", env={**os.environ, "PATH": path}, cwd="/")
    until(lambda: "until" not in daemon.link("edge")["Hold"], "a new holder")
    assert not about(daemon, "holder-gone", "link edge")


def test_a_file_that_was_refused_is_a_fault_until_it_is_corrected(daemon: Daemon) -> None:
    file = daemon.world.dir / "etc" / "links.d" / "edge.toml"
    file.parent.mkdir(parents=True)
    file.write_text('[[link]]\nname = "edge"\ntarget = "xdp:v0"\n')
    daemon.call("Reload")
    (finding,) = [each for each in doctor(daemon) if each["kind"] == "refused"]
    assert finding["level"] == "fault"
    assert str(file) in finding["what"]
    file.write_text('[[link]]\nname = "edge"\ntarget = "xdp:v0"\nprogram = { builtin = "pass" }\n')
    paste(daemon, finding["commands"])
    assert [each for each in doctor(daemon) if each["kind"] == "refused"] == []
    assert daemon.state("edge") == "active"


# Whatever names hold


def test_names_cannot_make_another_command(daemon: Daemon) -> None:
    """A cgroup that was made by somebody with fewer rights than whoever pastes."""
    world = daemon.world
    marker = world.dir / "ran"
    path = f"{world.cgroup()}/$(touch ran)';touch ran;' --force #"
    World.cgroup_dir(path).mkdir()
    attach_legacy(world, path)
    mends(daemon, "unowned-program", f"cgroup:{path} egress")
    stranger_link(world, cgroup=str(World.cgroup_dir(path)))
    mends(daemon, "unowned-link", f"cgroup:{path} egress")
    assert not marker.exists()


def test_names_that_steer_a_terminal_are_in_no_command(daemon: Daemon) -> None:
    world = daemon.world
    for nasty in ("\x1b[2J", "\u202e", "\udcff"):
        path = f"{world.cgroup()}/{nasty}"
        World.cgroup_dir(path).mkdir()
        attach_legacy(world, path)
    found = [each for each in doctor(daemon) if "ls -b" in each["advice"]]
    assert len(found) == 3
    assert all(each["commands"] == [] for each in found)
    shown = subprocess.run(
        [CTL, "--bus", world.bus, "doctor"], capture_output=True, check=False, timeout=60
    ).stdout
    assert b"\\x1b[2J" in shown
    assert b"\x1b" not in shown


def test_odd_directories_of_a_bpffs_are_walked_and_left_as_they_are(daemon: Daemon) -> None:
    world = daemon.world
    odd = world.bpffs / "odd"
    odd.mkdir()
    (odd / "loop").symlink_to(odd)
    (odd / "out").symlink_to("/proc")
    run(
        "bpftool",
        "map",
        "create",
        odd / "map",
        "type",
        "array",
        "key",
        "4",
        "value",
        "4",
        "entries",
        "1",
        "name",
        "m",
    )
    deep = odd
    for _ in range(40):
        deep /= "d"
        deep.mkdir()
    mounted = odd / "mounted"
    mounted.mkdir()
    run("mount", "-t", "tmpfs", "none", mounted)
    world.at_end(lambda: run("umount", mounted))
    (mounted / "file").write_text("no pin")
    (odd / "new\nline").mkdir()
    _, pin = stranger_link(world, interface="v0")
    pin.rename(odd / "new\nline" / "pin")
    run("bpftool", "link", "detach", "pinned", odd / "new\nline" / "pin")
    findings = doctor(daemon)
    (dead,) = [each for each in findings if each["where"] == f"{odd}/new\nline/pin"]
    assert (dead["kind"], dead["commands"]) == ("dead-pin", [])
    assert any("some pins could not be looked at" in each["what"] for each in findings)
    assert not any(str(mounted) in each["where"] for each in findings)


def test_others_may_not_ask(daemon: Daemon) -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", CTL, "--bus", daemon.world.bus, "doctor"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 4
    assert "have the host examined" in done.stderr


def test_the_whole_tree_of_cgroups_is_walked(daemon: Daemon) -> None:
    above = daemon.world.cgroup()
    root = CgroupTree().root
    for number in range(300):
        os.makedirs(f"{root}{above}/c{number}/inner")
    last = f"{above}/c299/inner"
    attach_legacy(daemon.world, last)
    assert about(daemon, "unowned-program", f"cgroup:{last} egress")
    with suppress(OSError):
        os.rmdir(f"{root}{last}")
