"""Strangers change hooks of ours in every way that the kernel allows: each is told once, with who did it."""

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.conformance import needs
from integration.conformance.kinds import REPO, Kprobe, compiled
from tests.kernel.test_watch import Signals
from tests.lab import Daemon, World
from tests.lab.daemon import builtin
from tests.lab.world import run, until

BURST = 2_000


@pytest.fixture(scope="module")
def watcher(warm: None) -> Iterator[Daemon]:
    """A daemon whose sweep never comes, and which says that its sentinel is live."""
    with World() as world:
        world.veth("v0", "v1")
        daemon = world.daemon("--sweep-interval", "3600")
        source = daemon.manager_property("WatchSources")["sentinel"]
        if not source["live"]:
            missing = needs.missing("sentinel")
            assert missing, f"this kernel runs tracing programs, and the daemon says: {source['detail']}"
            pytest.skip(f"no {missing}")
        yield daemon


@pytest.fixture
def daemon(watcher: Daemon) -> Daemon:
    if watcher.process is None or watcher.process.poll() is not None:
        watcher.start()
    for name in watcher.links():
        watcher.detach(name)
    for mode in ("xdp", "xdpgeneric"):
        watcher.world.ip("link", "set", "v0", mode, "off")
    return watcher


@pytest.fixture
def signals(daemon: Daemon) -> Iterator[Signals]:
    listening = Signals(daemon)
    yield listening
    listening.close()


def foreign(signals: Signals, name: str = "edge") -> list[tuple[str, dict[str, Any]]]:
    """Kind and details of each change that was told of a link."""
    return [
        (words[1], words[2])
        for signal, words in signals.all()
        if signal == "ForeignChange" and words[0] == name
    ]


def told(signals: Signals, kind: str, name: str = "edge") -> dict[str, Any]:
    """The one change that was told; waits a moment for another that must not come."""
    until(lambda: bool(foreign(signals, name)), f"{kind} is told", seconds=30)
    time.sleep(1)
    found = foreign(signals, name)
    assert [was for was, _ in found] == [kind], found
    details = found[0][1]
    assert details["source"] == "sentinel"
    return details


def check_culprit(details: dict[str, Any], executable: str) -> None:
    """It names who did it, although that process is gone."""
    who = details["who"]
    # A guest may have its root in a directory of the kernel's first one.
    assert who["executable"].endswith(executable)
    # Whoever is started through a symbolic link is called by that.
    assert Path(executable).name.startswith(who["comm"])
    assert who["uid"] == 0
    assert not Path(f"/proc/{who['pid']}").exists()
    own = Path("/proc/self/cgroup").read_text()
    match = re.search(r"^0::(.*)$", own, re.MULTILINE)
    assert match
    assert who["cgroup"] == match[1]


def tool(name: str) -> str:
    found = shutil.which(name)
    assert found
    return os.path.realpath(found)


def python(code: str) -> None:
    """A stranger of our own making."""
    run(sys.executable, "-c", f"from bpflinkd.kernel import libbpf\n{code}", cwd=REPO)


def update(daemon: Daemon, pin: Path) -> int:
    """Put a program behind the link; returns its kernel id."""
    link, ours = daemon.link("edge")["KernelLinkId"], daemon.link("edge")["Program"]["id"]
    python(
        f"link, old = libbpf.link_fd_by_id({link}), libbpf.prog_fd_by_id({ours})\n"
        f"libbpf.link_update(link, libbpf.obj_get('{pin}'), old_prog_fd=old)\n"
    )
    return int(link)


@pytest.fixture
def theirs(daemon: Daemon) -> Callable[[str, str], Path]:
    """Somebody else's program, loaded and pinned."""

    def load(name: str, kind: str) -> Path:
        place = daemon.world.bpffs / f"theirs_{name}_{kind.replace('/', '_')}"
        if not place.exists():
            run("bpftool", "prog", "loadall", compiled(name), place)
        return place / "count"

    return load


def test_own_changes_are_not_told(daemon: Daemon, signals: Signals) -> None:
    place = daemon.world.cgroup()
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    daemon.attach("egress", {"cgroup": place, "attach_type": "egress"}, builtin())
    for name in ("edge", "egress"):
        daemon.replace(name, builtin())
        daemon.detach(name)
    time.sleep(1)
    assert foreign(signals) + foreign(signals, "egress") == []


def test_an_xdp_link_is_detached(daemon: Daemon, signals: Signals) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    ours = daemon.link("edge")
    run("bpftool", "link", "detach", "id", str(ours["KernelLinkId"]))
    details = told(signals, "link-detached")
    check_culprit(details, tool("bpftool"))
    assert details["before"][0] == ours["Program"]["id"]
    assert "after" not in details
    assert daemon.state("edge") == "severed"


def test_an_xdp_link_is_updated(daemon: Daemon, signals: Signals, theirs: Any) -> None:
    pin = theirs("xdp", "xdp")
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    update(daemon, pin)
    details = told(signals, "link-updated")
    check_culprit(details, os.path.realpath(sys.executable))
    assert details["after"][1] == "count"
    assert daemon.state("edge") == "tampered"


@pytest.mark.parametrize("mode", ["xdp", "xdpgeneric"])
def test_a_program_is_attached_by_netlink(daemon: Daemon, signals: Signals, theirs: Any, mode: str) -> None:
    pin = theirs("xdp", "xdp")
    modes = {"xdp": "native", "xdpgeneric": "generic"}
    daemon.attach("edge", {"xdp": "v0", "mode": modes[mode]}, builtin())
    run("bpftool", "link", "detach", "id", str(daemon.link("edge")["KernelLinkId"]))
    daemon.world.ip("link", "set", "v0", mode, "pinned", str(pin))
    until(lambda: len(foreign(signals)) >= 2, "both are told", seconds=30)
    time.sleep(1)
    kinds = [kind for kind, _ in foreign(signals)]
    assert kinds == ["link-detached", "program-attached"]
    check_culprit(foreign(signals)[1][1], tool("ip"))
    assert daemon.state("edge") == "displaced"


def test_xdp_loader_is_named(daemon: Daemon, signals: Signals) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    run("bpftool", "link", "detach", "id", str(daemon.link("edge")["KernelLinkId"]))
    run(*daemon.world.inside("xdp-loader", "load", "-m", "native", "v0", compiled("xdp")))
    until(lambda: len(foreign(signals)) >= 2, "both are told", seconds=30)
    time.sleep(1)
    kind, details = foreign(signals)[1]
    assert kind == "program-attached"
    assert details["who"]["executable"].endswith(tool("xdp-loader"))
    run(*daemon.world.inside("xdp-loader", "unload", "v0", "--all"))
    until(lambda: daemon.state("edge") == "severed", "the hook is empty", seconds=30)


def test_an_interface_goes_with_its_name(daemon: Daemon, signals: Signals) -> None:
    daemon.world.veth("late0", "late1")
    daemon.attach("edge", {"xdp": "late0"}, builtin())
    daemon.world.ip("link", "del", "late0")
    until(lambda: bool(foreign(signals)), "told", seconds=30)
    time.sleep(1)
    (found,) = foreign(signals)
    assert found[0] == "target-gone"
    assert found[1]["who"]["executable"].endswith(tool("ip"))


def test_neighbours_come_and_go(daemon: Daemon, signals: Signals, theirs: Any) -> None:
    pin, place = theirs("cgroup", "cgroup"), daemon.world.cgroup()
    daemon.attach("edge", {"cgroup": place, "attach_type": "egress"}, builtin())
    at = str(World.cgroup_dir(place))
    run("bpftool", "cgroup", "attach", at, "egress", "pinned", str(pin), "multi")
    run("bpftool", "cgroup", "detach", at, "egress", "pinned", str(pin))
    until(lambda: len(foreign(signals)) >= 2, "both are told", seconds=30)
    time.sleep(1)
    added, removed = foreign(signals)
    assert (added[0], removed[0]) == ("neighbour-added", "neighbour-removed")
    check_culprit(added[1], tool("bpftool"))
    check_culprit(removed[1], tool("bpftool"))
    assert added[1]["after"] == removed[1]["before"]
    assert daemon.state("edge") == "active"


def test_a_bpf_link_takes_our_place(daemon: Daemon, signals: Signals, theirs: Any) -> None:
    pin, link = theirs("xdp", "xdp"), daemon.world.bpffs / "their_link"
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    run("bpftool", "link", "detach", "id", str(daemon.link("edge")["KernelLinkId"]))
    run(*daemon.world.inside(sys.executable, "-m", "bench.barelink", "v0", pin, link), cwd=REPO)
    until(lambda: len(foreign(signals)) >= 2, "both are told", seconds=30)
    link.unlink()
    until(lambda: daemon.state("edge") == "severed", "the hook is empty", seconds=30)
    time.sleep(1)
    assert [kind for kind, _ in foreign(signals)] == ["link-detached", "program-attached"]
    check_culprit(foreign(signals)[1][1], os.path.realpath(sys.executable))


@pytest.mark.parametrize("end", ["killed", "unpinned"])
def test_a_link_beside_ours_goes(daemon: Daemon, signals: Signals, theirs: Any, end: str) -> None:
    pin, place = theirs("cgroup", "cgroup"), daemon.world.cgroup()
    daemon.attach("edge", {"cgroup": place, "attach_type": "egress"}, builtin())
    link = daemon.world.bpffs / "their_link"
    code = (
        "import os, sys, time\nfrom bpflinkd.kernel import libbpf\n"
        f"place = os.open('{World.cgroup_dir(place)}', os.O_RDONLY)\n"
        f"link = libbpf.link_create(libbpf.obj_get('{pin}'), place, 1)\n"
    )
    if end == "killed":
        holder = daemon.world.process(sys.executable, "-c", f"{code}time.sleep(60)", cwd=REPO)
        until(lambda: bool(foreign(signals)), "told", seconds=30)
        holder.kill()
        holder.wait()
    else:
        run(sys.executable, "-c", f"{code}libbpf.obj_pin(link, '{link}')", cwd=REPO)
        link.unlink()
    until(lambda: len(foreign(signals)) >= 2, "both are told", seconds=30)
    time.sleep(1)
    (came, added), (went, removed) = foreign(signals)
    assert (came, went) == ("neighbour-added", "neighbour-removed")
    check_culprit(added, os.path.realpath(sys.executable))
    if end == "killed":
        assert removed["who"]["pid"] == added["who"]["pid"]
    else:
        # 6.1 ends the link as it is unlinked, later kernels leave it to a thread of theirs.
        assert removed["who"]["comm"].startswith("[") or removed["who"]["pid"] == os.getpid()
    assert daemon.state("edge") == "active"


def test_a_cgroup_link_is_updated_and_detached(daemon: Daemon, signals: Signals, theirs: Any) -> None:
    pin, place = theirs("cgroup", "cgroup"), daemon.world.cgroup()
    daemon.attach("edge", {"cgroup": place, "attach_type": "egress"}, builtin())
    link = update(daemon, pin)
    run("bpftool", "link", "detach", "id", str(link))
    until(lambda: len(foreign(signals)) >= 2, "both are told", seconds=30)
    time.sleep(1)
    (_, updated), (_, detached) = foreign(signals)
    assert [kind for kind, _ in foreign(signals)] == ["link-updated", "link-detached"]
    assert updated["after"] == detached["before"]
    check_culprit(updated, os.path.realpath(sys.executable))
    check_culprit(detached, tool("bpftool"))


def test_a_slot_is_changed_and_emptied(daemon: Daemon, signals: Signals, theirs: Any) -> None:
    if needs.missing("kprobe"):
        pytest.skip(f"no {needs.missing('kprobe')}")
    pin = theirs("kprobe", "kprobe")
    daemon.attach("edge", {"kprobe": Kprobe.function}, builtin())
    slot = str(daemon.pins / "edge/slot")
    key = ("key", "0", "0", "0", "0")
    run("bpftool", "map", "update", "pinned", slot, *key, "value", "pinned", str(pin))
    run("bpftool", "map", "delete", "pinned", slot, *key)
    until(lambda: len(foreign(signals)) >= 2, "both are told", seconds=30)
    time.sleep(1)
    (_, changed), (_, emptied) = foreign(signals)
    assert [kind for kind, _ in foreign(signals)] == ["slot-changed", "slot-emptied"]
    check_culprit(changed, tool("bpftool"))
    check_culprit(emptied, tool("bpftool"))
    assert changed["after"] == emptied["before"]


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_what_happened_meanwhile_is_known(daemon: Daemon, theirs: Any, end: str) -> None:
    pin = theirs("xdp", "xdp")
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    ours = daemon.link("edge")
    if end == "stopped":
        daemon.end()
    else:
        daemon.kill()
    run("bpftool", "link", "detach", "id", str(ours["KernelLinkId"]))
    daemon.world.ip("link", "set", "v0", "xdp", "pinned", str(pin))
    before = len(daemon.said())
    daemon.start()
    # What somebody did less than seconds ago may be told a moment after the daemon is ready.
    told = ("link-detached:", "program-attached:")
    until(lambda: all(word in daemon.said()[before:] for word in told), "both are told", seconds=60)
    said = daemon.said()[before:]
    assert said.count("link-detached:") == 1
    assert said.count("program-attached:") == 1
    assert "by bpftool (pid" in said
    assert tool("ip") in said
    assert daemon.state("edge") == "displaced"


def test_a_burst_is_told_change_by_change(daemon: Daemon, signals: Signals, theirs: Any) -> None:
    pin, place = theirs("cgroup", "cgroup"), daemon.world.cgroup()
    daemon.attach("edge", {"cgroup": place, "attach_type": "egress"}, builtin())
    ours = daemon.link("edge")
    python(
        f"link = libbpf.link_fd_by_id({ours['KernelLinkId']})\n"
        f"programs = [libbpf.obj_get('{pin}'), libbpf.prog_fd_by_id({ours['Program']['id']})]\n"
        f"for number in range({BURST}):\n"
        "    libbpf.link_update(link, programs[number % 2], old_prog_fd=programs[(number + 1) % 2])\n"
    )
    until(lambda: len(signals.all()) >= BURST, "all are told", seconds=300)
    time.sleep(2)
    found = foreign(signals)
    assert len(found) == BURST
    ids = [details["after"][0] for _, details in found]
    assert ids[0::2] == [ids[0]] * (BURST // 2)
    assert ids[1::2] == [ours["Program"]["id"]] * (BURST // 2)
    assert all(kind == "link-updated" for kind, _ in found)
    assert daemon.state("edge") == "active"
