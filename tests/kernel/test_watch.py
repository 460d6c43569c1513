"""Strangers and vanishing targets: noticed, told once, handled by policy."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from gi.repository import Gio, GLib

from tests.kernel.test_replace import REPO, load_counters, tamper
from tests.lab import Daemon, World
from tests.lab.compiled import program
from tests.lab.daemon import MANAGER, builtin, elf
from tests.lab.world import run, until


class Signals:
    """The Manager's signals, in order."""

    def __init__(self, daemon: Daemon) -> None:
        self._seen: list[tuple[str, tuple[Any, ...]]] = []
        self._connection = daemon.connection
        self._id = self._connection.signal_subscribe(
            "org.bpflinkd1", MANAGER, None, None, None, Gio.DBusSignalFlags.NONE, self._take
        )

    def _take(self, *arguments: Any) -> None:
        self._seen.append((arguments[4], arguments[5].unpack()))

    def all(self) -> list[tuple[str, tuple[Any, ...]]]:
        """Everything so far."""
        context = GLib.MainContext.default()
        while context.pending():
            context.iteration(False)
        return self._seen

    def kinds(self, name: str = "edge") -> list[str]:
        """The kinds of foreign change of one link, in order."""
        return [words[1] for signal, words in self.all() if signal == "ForeignChange" and words[0] == name]

    def close(self) -> None:
        self._connection.signal_unsubscribe(self._id)


@pytest.fixture
def signals(daemon: Daemon) -> Iterator[Signals]:
    listening = Signals(daemon)
    yield listening
    listening.close()


def becomes(daemon: Daemon, state: str, name: str = "edge") -> dict[str, Any]:
    until(lambda: daemon.state(name) == state, f"link {name} is {state}")
    return daemon.link(name)


def sever(daemon: Daemon, name: str = "edge") -> None:
    run("bpftool", "link", "detach", "id", str(daemon.link(name)["KernelLinkId"]))


def netlink_attach(world: World, interface: str = "v0") -> None:
    world.ip("link", "set", interface, "xdp", "obj", str(program("single")), "sec", "xdp")


def test_a_severed_link_is_told_and_a_replace_attaches_again(daemon: Daemon, signals: Signals) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    sever(daemon)
    link = becomes(daemon, "severed")
    assert "detached by somebody" in link["Reason"]
    until(lambda: signals.kinds() == ["link-detached"], "told once")
    assert daemon.replace("edge", builtin()) == 2
    assert daemon.state("edge") == "active"
    assert "prog/xdp" in daemon.world.ip("link", "show", "v0")


def test_a_netlink_program_in_our_place_is_named(daemon: Daemon, signals: Signals) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    sever(daemon)
    netlink_attach(daemon.world)
    link = becomes(daemon, "displaced")
    assert link["Running"]["program"]["name"] == "only_one"
    until(lambda: signals.kinds()[-1:] == ["program-attached"], "told")
    with pytest.raises(Exception, match="HookBusy"):
        daemon.replace("edge", builtin())
    daemon.world.ip("link", "set", "v0", "xdp", "off")
    becomes(daemon, "severed")
    assert signals.kinds().count("program-attached") == 1


def test_netlink_tells_before_the_sweep_would(world: World) -> None:
    daemon = world.daemon("--sweep-interval", "3600")
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    sever(daemon)
    netlink_attach(world)
    assert becomes(daemon, "displaced")["Running"]["program"]["name"] == "only_one"
    world.ip("link", "del", "v0")
    becomes(daemon, "waiting")
    world.veth("v0", "v1")
    becomes(daemon, "active")


def test_netlink_does_not_see_a_foreign_link_update_but_the_sweep_does(world: World) -> None:
    daemon = world.daemon("--sweep-interval", "1.5")
    pins, _ = load_counters(daemon)
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    time.sleep(1.6)
    tamper(daemon, "edge", pins[0])
    assert daemon.state("edge") == "active"
    link = becomes(daemon, "tampered")
    assert link["Running"]["program"]["name"] == "count_old"
    assert "count_old" in link["Reason"]


def test_a_stranger_behind_our_link_who_still_holds_it_is_named(daemon: Daemon) -> None:
    pins, _ = load_counters(daemon)
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    code = (
        "import time\nfrom bpflinkd.kernel import libbpf\n"
        f"link = libbpf.link_fd_by_id({daemon.link('edge')['KernelLinkId']})\n"
        f"old = libbpf.prog_fd_by_id({daemon.link('edge')['Program']['id']})\n"
        f"libbpf.link_update(link, libbpf.obj_get('{pins[0]}'), old_prog_fd=old)\n"
        "time.sleep(60)\n"
    )
    stranger = daemon.world.process(sys.executable, "-c", code, cwd=REPO)
    link = becomes(daemon, "tampered")
    assert {"pid": stranger.pid, "comm": "python"} in link["Running"]["processes"]


@pytest.mark.parametrize("stranger", ["severs", "updates"])
def test_policy_restore_puts_ours_back(daemon: Daemon, signals: Signals, stranger: str) -> None:
    pins, _ = load_counters(daemon)
    daemon.attach("edge", {"xdp": "v0"}, builtin(), policy=GLib.Variant("s", "restore"))
    ours = daemon.link("edge")["Program"]["id"]
    if stranger == "updates":
        tamper(daemon, "edge", pins[0])
    else:
        sever(daemon)
    until(lambda: len(signals.kinds()) > 0, "told")
    until(lambda: f"id {ours} " in daemon.world.ip("link", "show", "v0"), "ours is back")
    becomes(daemon, "active")


def test_policy_restore_evicts_exactly_the_stranger(world: World) -> None:
    # No sweep in between: the stranger must have time to attach after it severed.
    daemon = world.daemon("--sweep-interval", "3600")
    daemon.attach("edge", {"xdp": "v0"}, builtin(), policy=GLib.Variant("s", "restore"))
    ours = daemon.link("edge")["Program"]["id"]
    sever(daemon)
    netlink_attach(world)
    until(lambda: f"id {ours} " in world.ip("link", "show", "v0"), "ours is back")
    becomes(daemon, "active")
    assert "program-attached" in daemon.said()
    assert "only_one" in daemon.said()


def test_a_fight_backs_off(daemon: Daemon, signals: Signals) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin(), policy=GLib.Variant("s", "restore"))
    for round_number in range(1, 5):
        sever(daemon)
        until(lambda n=round_number: len(signals.kinds()) == n, "told")  # type: ignore[misc]
        becomes(daemon, "active")
    assert signals.kinds() == ["link-detached"] * 4
    assert "contended" in daemon.said()


def test_policy_yield_lets_go(daemon: Daemon, signals: Signals) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin(), policy=GLib.Variant("s", "yield"))
    sever(daemon)
    until(lambda: not daemon.links(), "let go")
    assert [name for name, _ in signals.all()][-2:] == ["ForeignChange", "LinkRemoved"]
    assert not daemon.pinned()


def test_policy_yield_leaves_a_strangers_program_running(daemon: Daemon) -> None:
    pins, counters = load_counters(daemon)
    daemon.attach("edge", {"xdp": "v0"}, builtin(), policy=GLib.Variant("s", "yield"))
    tamper(daemon, "edge", pins[0])
    until(lambda: not daemon.links(), "let go")
    assert "prog/xdp" in daemon.world.ip("link", "show", "v0")
    assert [p.name for p in (daemon.pins / "_aside").iterdir()] == ["edge"]
    assert counters


def test_an_interface_that_goes_and_comes_back(daemon: Daemon, signals: Signals) -> None:
    daemon.attach("edge", {"xdp": "v0"}, elf(program("count"), "count_old"))
    daemon.world.ip("link", "del", "v0")
    assert "no interface" in becomes(daemon, "waiting")["Reason"]
    daemon.world.veth("v0", "v1")
    assert becomes(daemon, "active")["Generation"] == 1
    assert "prog/xdp" in daemon.world.ip("link", "show", "v0")
    until(lambda: signals.kinds() == ["target-gone", "target-back"], "told")
    assert (daemon.pins / "edge" / "maps" / "counters").exists()


def test_an_interface_recreated_under_the_same_index_is_not_mistaken(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    index = daemon.link("edge")["Hook"]["ifindex"]
    daemon.world.ip("link", "del", "v0")
    words = ["add", "v0", "index", str(index), "type", "veth", "peer", "name", "v1"]
    daemon.world.ip("link", *words)
    assert becomes(daemon, "active")["Hook"]["ifindex"] == index
    until(lambda: "prog/xdp" in daemon.world.ip("link", "show", "v0"), "attached again")


def test_a_renamed_interface_keeps_its_program_until_the_name_is_back(daemon: Daemon) -> None:
    world = daemon.world
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    world.ip("link", "set", "v0", "down", "name", "wan0")
    assert "still runs" in becomes(daemon, "waiting")["Reason"]
    assert "prog/xdp" in world.ip("link", "show", "wan0")
    world.ip("link", "set", "wan0", "name", "v0")
    becomes(daemon, "active")


def test_the_name_is_followed_to_another_interface(daemon: Daemon) -> None:
    world = daemon.world
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    world.ip("link", "set", "v0", "down", "name", "old0")
    becomes(daemon, "waiting")
    world.veth("v0", "v2")
    becomes(daemon, "active")
    until(lambda: "prog/xdp" not in world.ip("link", "show", "old0"), "the old one is free")
    assert "prog/xdp" in world.ip("link", "show", "v0")


def test_an_interface_moved_to_another_namespace_and_back(daemon: Daemon, signals: Signals) -> None:
    with World() as elsewhere:
        daemon.attach("edge", {"xdp": "v0"}, builtin())
        daemon.world.ip("link", "set", "v0", "netns", elsewhere.netns)
        assert "still runs" in becomes(daemon, "waiting")["Reason"]
        assert "prog/xdp" in elsewhere.ip("link", "show", "v0")
        elsewhere.ip("link", "set", "v0", "netns", daemon.world.netns)
        becomes(daemon, "active")
        assert "prog/xdp" in daemon.world.ip("link", "show", "v0")


def test_waiting_for_an_interface(daemon: Daemon) -> None:
    wait = GLib.Variant("b", True)
    daemon.attach("edge", {"xdp": "later0"}, elf(program("count"), "count_old"), wait=wait)
    assert daemon.state("edge") == "waiting"
    assert daemon.replace("edge", elf(program("count"), "count_new")) == 2
    daemon.restart()
    assert daemon.state("edge") == "waiting"
    daemon.world.veth("later0", "v9")
    link = becomes(daemon, "active")
    assert (link["Generation"], link["Program"]["name"]) == (2, "count_new")


def test_waiting_target_taken_by_a_stranger_first(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    daemon.world.ip("link", "set", "v0", "down", "name", "x0")
    becomes(daemon, "waiting")
    daemon.world.ip("link", "add", "y0", "type", "veth", "peer", "name", "y1")
    netlink_attach(daemon.world, "y0")
    daemon.world.ip("link", "set", "y0", "name", "v0")
    assert becomes(daemon, "displaced")["Running"]["program"]["name"] == "only_one"
    daemon.world.ip("link", "set", "v0", "xdp", "off")
    becomes(daemon, "active")


def test_a_cgroup_that_goes_and_comes_back(daemon: Daemon, signals: Signals) -> None:
    path = daemon.world.cgroup()
    daemon.attach("it", {"cgroup": path}, elf(program("count"), "egress_count"))
    World.cgroup_dir(path).rmdir()
    becomes(daemon, "waiting", "it")
    World.cgroup_dir(path).mkdir()
    becomes(daemon, "active", "it")
    until(lambda: signals.kinds("it") == ["target-gone", "target-back"], "told")


def test_a_severed_and_a_tampered_cgroup_link(daemon: Daemon) -> None:
    path = daemon.world.cgroup()
    for name in ("one", "two"):
        daemon.attach(name, {"cgroup": path}, elf(program("count"), "connect_ok"))
    sever(daemon, "one")
    tamper(daemon, "two", daemon.pins / "one" / "program")
    becomes(daemon, "severed", "one")
    becomes(daemon, "tampered", "two")


def test_foreign_lists_strangers_only(daemon: Daemon) -> None:
    world, path = daemon.world, daemon.world.cgroup()
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    daemon.attach("it", {"cgroup": path}, elf(program("count"), "egress_count"))
    assert daemon.foreign() == []
    netlink_attach(world, "v1")
    pin = daemon.pins / "it" / "program"
    run("bpftool", "cgroup", "attach", World.cgroup_dir(path), "egress", "pinned", pin, "multi")
    found = {next(iter(each["target"].values())): each for each in daemon.foreign()}
    assert set(found) == {"v1", path}
    assert found["v1"]["program"]["name"] == "only_one"
    assert "link_id" not in found["v1"]


def test_lost_netlink_messages_lead_to_a_sweep(world: World) -> None:
    daemon = world.daemon("--sweep-interval", "3600")
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    assert daemon.process
    link_id = str(daemon.link("edge")["KernelLinkId"])
    os.kill(daemon.process.pid, signal.SIGSTOP)
    run("bpftool", "link", "detach", "id", link_id)
    batch = "\n".join(
        f"link set v1 mtu {1400 + n % 50}\nlink set v1 alias {'x' * 200}{n}" for n in range(4000)
    )
    subprocess.run(["ip", "-n", world.netns, "-batch", "-"], input=batch, text=True, check=True, timeout=60)
    os.kill(daemon.process.pid, signal.SIGCONT)
    until(lambda: "netlink messages were lost" in daemon.said(), "ENOBUFS", seconds=30)
    becomes(daemon, "severed")
