"""Adopt: links and netlink attachments of others become ours, and go on as they were."""

import contextlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from gi.repository import GLib

from tests.kernel.test_watch import netlink_attach
from tests.lab import Daemon, World
from tests.lab.compiled import program
from tests.lab.daemon import Refused, builtin, elf
from tests.lab.faults import Watched, require_strace, when_quiet
from tests.lab.world import run, until

REPO = Path(__file__).parents[2]
_FLOW_DISSECTOR = """
import os, sys
from bpflinkd.kernel import info, libbpf
from tests.lab.compiled import program
import subprocess
place = sys.argv[1] + "/flow"
subprocess.run(["bpftool", "prog", "load", program("flow"), place, "type", "flow_dissector"], check=True)
link = libbpf.link_create(libbpf.obj_get(place), os.open("/proc/self/ns/net", os.O_RDONLY), 17)
print(info.link_info(link).id, flush=True)
libbpf.obj_pin(link, place + "_link")
"""
_STRANGER = """
import os, socket, sys
from bpflinkd.core import attach_types
from bpflinkd.kernel import libbpf, objects
place, object_file, name, interface, cgroup = sys.argv[1:]
attach_type = attach_types.XDP if interface else attach_types.by_name("egress")
program = objects.load(open(object_file, "rb").read(), name, attach_type)
target = socket.if_nametoindex(interface) if interface else os.open(cgroup, os.O_RDONLY)
libbpf.obj_pin(program.fd, place + "_program")
libbpf.obj_pin(libbpf.link_create(program.fd, target, attach_type.number), place)
"""


def stranger_link(world: World, *, interface: str = "", cgroup: str = "") -> tuple[int, Path]:
    """A bpf_link that another process made and pinned: its id, and its pin."""
    pin = world.bpffs / "stranger"
    name = "count_old" if interface else "egress_count"
    words = (pin, program("count"), name, interface, cgroup)
    run(*world.inside(sys.executable, "-c", _STRANGER, *words), cwd=REPO)
    return int(run("bpftool", "link", "show", "pinned", pin).split(":")[0]), pin


def test_a_link_on_an_interface_is_adopted_without_a_gap(daemon: Daemon) -> None:
    number, pin = stranger_link(daemon.world, interface="v0")
    assert daemon.adopt("edge", number).endswith("/edge")
    link = daemon.link("edge")
    assert (link["KernelLinkId"], link["State"]) == (number, "active")
    assert link["Message"] == f"adopted from bpf_link {number}"
    assert (link["Program"]["name"], link["Generation"]) == ("count_old", 1)
    assert link["Target"] == {"xdp": "v0", "mode": "native"}
    assert daemon.replace("edge", builtin()) == 2
    assert daemon.link("edge")["KernelLinkId"] == number
    pin.unlink()
    daemon.restart()
    assert (daemon.link("edge")["KernelLinkId"], daemon.state("edge")) == (number, "active")
    daemon.detach("edge")
    assert "prog/xdp" not in daemon.world.ip("link", "show", "v0")


def test_a_link_on_a_cgroup_is_adopted_by_its_pin(daemon: Daemon) -> None:
    path = daemon.world.cgroup()
    number, pin = stranger_link(daemon.world, cgroup=str(World.cgroup_dir(path)))
    daemon.adopt("edge", pin=GLib.Variant("s", str(pin)), policy=GLib.Variant("s", "restore"))
    link = daemon.link("edge")
    assert link["Target"] == {"cgroup": path, "attach_type": "egress"}
    assert (link["KernelLinkId"], link["Policy"]) == (number, "restore")
    assert link["Message"] == f"adopted from pin {pin}"
    daemon.replace("edge", elf(program("count"), "egress_count"))
    assert daemon.state("edge") == "active"


def test_a_netlink_attachment_is_taken_over_and_the_gap_is_told(daemon: Daemon) -> None:
    netlink_attach(daemon.world)
    before = re.findall(r"prog/xdp id (\d+)", daemon.world.ip("link", "show", "v0"))
    daemon.adopt("edge", xdp=GLib.Variant("s", "v0"))
    link = daemon.link("edge")
    assert (link["State"], link["Program"]["id"]) == ("active", int(before[0]))
    assert link["KernelLinkId"] != 0
    told = re.fullmatch(r"adopted from netlink; the hook was empty for (\d+\.\d+) ms", link["Message"])
    assert told is not None
    assert 0 < float(told[1]) < 1000
    with pytest.raises(RuntimeError):
        netlink_attach(daemon.world)
    daemon.restart()
    assert (daemon.state("edge"), daemon.link("edge")["Message"]) == ("active", link["Message"])
    assert daemon.replace("edge", builtin()) == 2


def test_what_cannot_be_adopted_is_refused_and_stays_as_it_is(daemon: Daemon) -> None:
    world = daemon.world
    number, pin = stranger_link(world, interface="v0")
    daemon.attach("other", {"xdp": "v1"}, builtin())
    ours = daemon.link("other")["KernelLinkId"]
    cases = [
        ({"name": "other", "link_id": number}, "NameTaken"),
        ({"name": "a/b", "link_id": number}, "BadName"),
        ({"name": "edge", "link_id": ours}, "NameTaken"),
        ({"name": "edge", "link_id": 2**31}, "BadOption"),
        ({"name": "edge", "pin": GLib.Variant("s", f"{pin}_program")}, "BadOption"),
        ({"name": "edge", "pin": GLib.Variant("s", "/nowhere")}, "BadOption"),
        ({"name": "edge", "pin": GLib.Variant("s", "relative")}, "BadOption"),
        ({"name": "edge", "xdp": GLib.Variant("s", "v0")}, "HookBusy"),
        ({"name": "edge", "xdp": GLib.Variant("s", "lo")}, "BadOption"),
        ({"name": "edge", "xdp": GLib.Variant("s", "none0")}, "HookGone"),
        ({"name": "edge"}, "BadOption"),
    ]
    for arguments, error in cases:
        with pytest.raises(Refused) as refused:
            daemon.adopt(**arguments)
        assert refused.value.name == error, arguments
    assert set(daemon.links()) == {"other"}
    assert f"{number}:" in run("bpftool", "link", "show")
    assert daemon.pinned() == {"other"}


def test_a_link_of_another_namespace_is_refused(daemon: Daemon) -> None:
    with World() as elsewhere:
        elsewhere.veth("w0", "w1")
        number, _ = stranger_link(elsewhere, interface="w0")
        with pytest.raises(Refused, match="another network namespace"):
            daemon.adopt("edge", number)
    assert daemon.links() == {}


def test_a_kind_that_cannot_be_swapped_is_refused(daemon: Daemon) -> None:
    with World() as world:
        # A link of a network namespace is of another kind, and every kernel has it.
        number = int(run(*world.inside(sys.executable, "-c", _FLOW_DISSECTOR, world.bpffs), cwd=REPO))
        with pytest.raises(Refused, match="only those on interfaces") as refused:
            daemon.adopt("edge", number)
    assert refused.value.name == "NotSupported"


def by_netlink(daemon: Daemon) -> Callable[[], None]:
    """Attach a program by netlink; what removes it again."""
    netlink_attach(daemon.world)

    def remove() -> None:
        daemon.world.ip("link", "set", "v0", "xdp", "off")

    return remove


def by_link(daemon: Daemon) -> Callable[[], None]:
    """Attach a program by a pinned link; what removes it again."""
    _, pin = stranger_link(daemon.world, interface="v0")

    def remove() -> None:
        pin.unlink()
        Path(f"{pin}_program").unlink()

    return remove


LASTING_COMMANDS = ("BPF_OBJ_PIN", "BPF_LINK_CREATE", "BPF_LINK_UPDATE", "BPF_LINK_DETACH")
"""Of bpf(2); the others only look, or end with the process."""


def adopt(daemon: Daemon, how: Callable[[Daemon], object]) -> None:
    if how is by_netlink:
        daemon.adopt("edge", xdp=GLib.Variant("s", "v0"))
    else:
        daemon.adopt("edge", pin=GLib.Variant("s", str(daemon.world.bpffs / "stranger")))


def running(world: World) -> str:
    return " ".join(re.findall(r"prog/xdp id (\d+)", world.ip("link", "show", "v0")))


def test_a_take_over_that_fails_puts_the_program_back(world: World) -> None:
    """The kernel refuses the bpf_link, when the hook is empty already."""
    require_strace()
    daemon = world.daemon("--sweep-interval", "3600")
    log = world.dir / "strace.log"
    netlink_attach(world)
    assert daemon.process is not None
    with Watched(daemon.process.pid, log, kill_at={}) as watched:
        adopt(daemon, by_netlink)
        when_quiet(log)
    create = next(call for call in watched.calls if call.what == "BPF_LINK_CREATE")
    daemon.detach("edge")
    netlink_attach(world)
    before = running(world)
    failing = Watched(daemon.process.pid, log, kill_at={}, fail_at=(create.name, create.nth, "ENOSPC"))
    with failing, pytest.raises(Refused) as refused:
        adopt(daemon, by_netlink)
    assert refused.value.name == "KernelRefused", refused.value
    assert running(world) == before, "it is on its hook again"
    assert daemon.links() == {}
    assert not daemon.pinned()
    adopt(daemon, by_netlink)
    assert daemon.state("edge") == "active"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", [by_netlink, by_link])
def test_kill_9_at_every_call_of_an_adoption(
    world: World, how: Callable[[Daemon], Callable[[], None]]
) -> None:
    """The program that was there runs on, whenever it comes; and it is ours, or it is not."""
    require_strace()
    daemon = world.daemon("--sweep-interval", "3600")
    log = world.dir / "strace.log"
    remove = how(daemon)
    assert daemon.process is not None
    with Watched(daemon.process.pid, log, kill_at={}) as watched:
        adopt(daemon, how)
        when_quiet(log)
    points = [call for call in watched.calls if call.name != "bpf" or call.what in LASTING_COMMANDS]
    assert any(call.what == "BPF_LINK_CREATE" for call in points) == (how is by_netlink)
    daemon.detach("edge")
    if how is by_link:
        remove()
    outcomes = set()
    for call in points:
        remove = how(daemon)
        before = running(world)
        with Watched(daemon.process.pid, log, kill_at={call.name: call.nth}), contextlib.suppress(Refused):
            adopt(daemon, how)
        killed = daemon.process.poll() is not None
        daemon.end()
        daemon.start()
        assert running(world) == before, f"killed at {call}"
        found = daemon.links().get("edge")
        outcomes.add((killed, found["State"] if found else None))
        if found is None:
            assert not daemon.pinned()
        else:
            assert found["State"] == "active" or how is by_netlink
            daemon.detach("edge")
        with contextlib.suppress(RuntimeError, FileNotFoundError):
            remove()
        until(lambda: not running(world), "an empty hook")
    assert {(True, None), (True, "active")} <= outcomes
