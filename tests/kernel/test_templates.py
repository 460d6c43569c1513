"""Templates: interfaces and cgroups that come and go, are renamed and come again."""

import itertools
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gi.repository import GLib

from tests.kernel.test_declared import NEW, OLD, in_kernel, reload
from tests.lab import Daemon, World
from tests.lab.compiled import program
from tests.lab.daemon import Refused, builtin
from tests.lab.declarations import declare, link, template
from tests.lab.world import run, until

EGRESS = f'object = "{program("count")}", name = "egress_count"'


def pair(world: World, name: str, *more: str) -> None:
    """A veth pair, down."""
    world.ip("link", "add", name, *more, "type", "veth", "peer", "name", f"q-{name}")


def soon(daemon: Daemon, expected: dict[str, str]) -> None:
    """Until these links, and no others, are in these states."""

    def there() -> bool:
        return {name: found["State"] for name, found in daemon.links().items()} == expected

    try:
        until(there, "", seconds=5)
    except TimeoutError:
        assert {name: found["State"] for name, found in daemon.links().items()} == expected


@pytest.fixture
def quiet(world: World) -> Callable[[], Daemon]:
    """Starts a daemon that does not sweep: what is noticed, a watcher told of."""
    return lambda: world.daemon("--sweep-interval", "3600")


def test_interfaces_by_name(world: World, quiet: Callable[[], Daemon]) -> None:
    pair(world, "pod1")
    declare(world, "a.toml", link("pods", "xdp:pod?", OLD, 'policy = "restore"'))
    daemon = quiet()
    soon(daemon, {"pods@pod1": "active"})
    pair(world, "pod2")
    soon(daemon, {"pods@pod1": "active", "pods@pod2": "active"})
    made = daemon.link("pods@pod2")
    assert made["Target"]["xdp"] == "pod2"
    assert made["Policy"] == "restore"
    assert made["Origin"] == (str(world.dir / "etc/links.d/a.toml"), "pods")
    world.ip("link", "del", "pod1")
    soon(daemon, {"pods@pod2": "active"})
    assert daemon.pinned() == {"pods_40pod2"}


def test_an_interface_made_again_gets_a_link_of_its_own(world: World, quiet: Callable[[], Daemon]) -> None:
    declare(world, "a.toml", link("pods", "xdp:pod*"))
    daemon = quiet()
    ids = set()
    for _ in range(5):
        pair(world, "pod1")
        soon(daemon, {"pods@pod1": "active"})
        ids.add(daemon.link("pods@pod1")["KernelLinkId"])
        world.ip("link", "del", "pod1")
        pair(world, "pod1")
        until(
            lambda: daemon.links().get("pods@pod1", {}).get("KernelLinkId") not in {None, *ids}, "a new link"
        )
        soon(daemon, {"pods@pod1": "active"})
        world.ip("link", "del", "pod1")
        soon(daemon, {})


def test_a_renamed_interface(world: World, quiet: Callable[[], Daemon]) -> None:
    pair(world, "pod1")
    declare(world, "a.toml", link("pods", "xdp:pod*"))
    daemon = quiet()
    soon(daemon, {"pods@pod1": "active"})
    before = in_kernel(daemon)["pods@pod1"]
    world.ip("link", "set", "pod1", "name", "pod9")
    soon(daemon, {"pods@pod9": "active"})
    assert in_kernel(daemon) == {"pods@pod9": before}, "the kernel's link is the same: no gap"
    assert daemon.pinned() == {"pods_40pod9"}
    daemon.restart()
    assert in_kernel(daemon) == {"pods@pod9": before}
    world.ip("link", "set", "pod9", "name", "other")
    soon(daemon, {})
    assert "prog" not in world.ip("link", "show", "other")
    world.ip("link", "set", "other", "name", "pod1")
    soon(daemon, {"pods@pod1": "active"})


@pytest.mark.parametrize(
    "match",
    [
        'altname = "uplink*"',
        'mac = "02:00:5e:10:00:01"',
        'mac = "02:00:5E:*"',
        'driver = "veth", altname = "uplink-0"',
        'name = "x*", mac = "02:00:5e:10:00:01"',
    ],
)
def test_interfaces_by_what_they_are(world: World, quiet: Callable[[], Daemon], match: str) -> None:
    declare(world, "a.toml", template("wan", match))
    daemon = quiet()
    pair(world, "x1", "address", "02:00:5e:10:00:01")
    pair(world, "x2", "address", "02:ff:ff:10:00:02")
    world.ip("link", "set", "x1", "up")
    world.ip("link", "property", "add", "dev", "x1", "altname", "uplink-0")
    soon(daemon, {"wan@x1": "active"})
    assert reload(daemon) == ({"unchanged": 1}, [])
    if "mac" in match:
        world.ip("link", "set", "x1", "address", "02:ff:ff:10:00:03")
        soon(daemon, {})
        world.ip("link", "set", "x1", "address", "02:00:5e:10:00:01")
    else:
        world.ip("link", "property", "del", "dev", "x1", "altname", "uplink-0")
        soon(daemon, {})
        world.ip("link", "property", "add", "dev", "x1", "altname", "uplink-0")
    soon(daemon, {"wan@x1": "active"})


def test_interfaces_by_driver(world: World, quiet: Callable[[], Daemon]) -> None:
    declare(world, "a.toml", template("v", 'driver = "veth", name = "[!v]*"'))
    daemon = quiet()
    pair(world, "x1")
    soon(daemon, {"v@x1": "active", "v@q-x1": "active"})


def test_a_plain_target_may_be_an_alternative_name(world: World, quiet: Callable[[], Daemon]) -> None:
    long = "the-uplink-of-this-host-with-a-long-name"
    declare(world, "a.toml", link("short", "xdp:wan0"), link("long", f"xdp:{long}"))
    daemon = quiet()
    soon(daemon, {"short": "waiting", "long": "waiting"})
    for name, alternative in (("x1", "wan0"), ("x2", long)):
        pair(world, name)
        world.ip("link", "set", name, "up")
        world.ip("link", "property", "add", "dev", name, "altname", alternative)
    soon(daemon, {"short": "active", "long": "active"})
    daemon.restart()
    soon(daemon, {"short": "active", "long": "active"})


def test_a_link_of_its_own_goes_before_a_template(world: World, quiet: Callable[[], Daemon]) -> None:
    pair(world, "pod1")
    declare(world, "a.toml", link("all", "xdp:pod*"), link("one", "xdp:pod1", OLD))
    declare(world, "b.toml", link("late", "xdp:[pq]*"))
    daemon = quiet()
    soon(daemon, {"one": "active", "late@q-pod1": "active"})
    assert reload(daemon) == ({"unchanged": 2}, [])
    pair(world, "pod2")
    soon(daemon, {"one": "active", "late@q-pod1": "active", "all@pod2": "active", "late@q-pod2": "active"})


def test_a_changed_template_changes_what_it_made(world: World, quiet: Callable[[], Daemon]) -> None:
    for name in ("pod1", "pod2"):
        pair(world, name)
    declare(world, "a.toml", link("pods", "xdp:pod?", OLD))
    daemon = quiet()
    soon(daemon, {"pods@pod1": "active", "pods@pod2": "active"})
    before = in_kernel(daemon)
    declare(world, "a.toml", link("pods", "xdp:pod?", NEW))
    assert reload(daemon) == ({"replaced": 2}, [])
    after = in_kernel(daemon)
    assert {name: ids[0] for name, ids in after.items()} == {name: ids[0] for name, ids in before.items()}
    declare(world, "a.toml", link("pods", "xdp:pod1", NEW))
    done, refused = reload(daemon)
    assert (done, refused) == ({"detached": 2, "attached": 1}, [])


def test_a_bad_file_leaves_its_template_at_work(world: World, quiet: Callable[[], Daemon]) -> None:
    file = declare(world, "a.toml", link("pods", "xdp:pod?"))
    pair(world, "pod1")
    daemon = quiet()
    soon(daemon, {"pods@pod1": "active"})
    file.write_text("[[link]]\nnam = 1\n")
    done, refused = reload(daemon)
    assert (done, bool(refused)) == ({"unchanged": 1}, True)
    pair(world, "pod2")
    soon(daemon, {"pods@pod1": "active", "pods@pod2": "active"})


def test_what_a_caller_detached_stays_away_while_the_target_is_there(
    world: World, quiet: Callable[[], Daemon]
) -> None:
    declare(world, "a.toml", link("pods", "xdp:pod?"))
    pair(world, "pod1")
    daemon = quiet()
    soon(daemon, {"pods@pod1": "active"})
    daemon.detach("pods@pod1")
    world.ip("link", "set", "pod1", "mtu", "1400")
    pair(world, "pod2")
    soon(daemon, {"pods@pod2": "active"})
    world.ip("link", "del", "pod1")
    time.sleep(0.1)
    pair(world, "pod1")
    soon(daemon, {"pods@pod1": "active", "pods@pod2": "active"})


def test_what_was_left_to_a_stranger_is_not_made_again(world: World, quiet: Callable[[], Daemon]) -> None:
    declare(world, "a.toml", link("pods", "xdp:pod?", OLD, 'policy = "yield"', 'mode = "generic"'))
    pair(world, "pod1")
    daemon = quiet()
    soon(daemon, {"pods@pod1": "active"})
    world.ip("link", "set", "pod1", "up")  # only then netlink tells of a program
    run("bpftool", "link", "detach", "id", str(daemon.link("pods@pod1")["KernelLinkId"]))
    world.ip("link", "set", "pod1", "xdpgeneric", "object", str(program("single")), "section", "xdp")
    soon(daemon, {})
    world.ip("link", "set", "pod1", "mtu", "1400")
    world.ip("link", "set", "pod1", "xdpgeneric", "off")
    pair(world, "pod2")
    soon(daemon, {"pods@pod2": "active"})


def test_matches_that_came_and_went_while_the_daemon_was_away(
    world: World, quiet: Callable[[], Daemon]
) -> None:
    parent = world.cgroup()
    place = world.cgroup_dir(parent)
    declare(world, "a.toml", link("pods", "xdp:pod?"), link("svc", f"cgroup:{parent}/*", EGRESS))
    pair(world, "pod1")
    (place / "a").mkdir()
    daemon = quiet()
    soon(daemon, {"pods@pod1": "active", "svc@a": "active"})
    daemon.kill()
    world.ip("link", "del", "pod1")
    (place / "a").rmdir()
    pair(world, "pod2")
    (place / "b").mkdir()
    daemon.start()
    soon(daemon, {"pods@pod2": "active", "svc@b": "active"})
    assert daemon.pinned() == {"pods_40pod2", "svc_40b"}


def test_cgroups_by_path(world: World, quiet: Callable[[], Daemon]) -> None:
    parent = world.cgroup()
    place = world.cgroup_dir(parent)
    declare(
        world,
        "a.toml",
        link("svc", f"cgroup:{parent}/*.service egress", EGRESS),
        link("deep", f"cgroup:{parent}/pods/*/box-? egress"),
        link("plain", f"cgroup:{parent}/web.slice egress"),
    )
    daemon = quiet()
    soon(daemon, {"plain": "waiting"})
    (place / "nginx.service").mkdir()
    (place / "nginx.scope").mkdir()
    (place / "web.slice").mkdir()
    os.makedirs(place / "pods/p1/box-1")
    soon(
        daemon,
        {"plain": "active", "svc@nginx.service": "active", "deep@p1:box-1": "active"},
    )
    for path in ("nginx.service", "web.slice", "pods/p1/box-1", "pods/p1"):
        (place / path).rmdir()
    soon(daemon, {"plain": "waiting"})
    os.makedirs(place / "pods/p1/box-2")
    (place / "web.slice").mkdir()
    soon(daemon, {"plain": "active", "deep@p1:box-2": "active"})
    world.cgroup_dir(f"{parent}/pods/p1/box-2").rmdir()


def test_attached_within_100_ms_and_its_first_traffic_is_counted(
    world: World, quiet: Callable[[], Daemon]
) -> None:
    parent = world.cgroup()
    declare(world, "a.toml", link("svc", f"cgroup:{parent}/*", EGRESS), link("pods", "xdp:pod?"))
    daemon = quiet()
    times = []
    for n in range(9):
        began = time.monotonic()
        (world.cgroup_dir(parent) / f"g{n}").mkdir()
        until(lambda n=n: (daemon.pins / f"svc_40g{n}/link").exists(), "the link")  # type: ignore[misc]
        times.append(time.monotonic() - began)
    assert sorted(times)[4] < 0.1
    times.clear()
    for n in range(9):
        pair(world, f"pod{n}")
        began = time.monotonic()
        until(lambda n=n: (daemon.pins / f"pods_40pod{n}/link").exists(), "the link")  # type: ignore[misc]
        times.append(time.monotonic() - began)
    assert sorted(times)[4] < 0.1


def test_a_burst_of_1000_cgroups_is_covered_and_the_loop_answers(
    world: World, quiet: Callable[[], Daemon]
) -> None:
    parent = world.cgroup()
    declare(world, "a.toml", link("svc", f"cgroup:{parent}/*", EGRESS))
    daemon = quiet()
    names = {f"svc@burst{n}" for n in range(1000)}
    for name in names:
        (world.cgroup_dir(parent) / name.removeprefix("svc@")).mkdir()
    waits = []
    deadline = time.monotonic() + 60
    pins = [daemon.pins / f"svc_40burst{n}/link" for n in range(1000)]
    while not all(pin.exists() for pin in pins):
        assert time.monotonic() < deadline
        began = time.monotonic()
        daemon.call(
            "Get", "(ss)", ("org.bpflinkd1.Manager", "Version"), interface="org.freedesktop.DBus.Properties"
        )
        waits.append(time.monotonic() - began)
    assert len(waits) > 100
    assert sorted(waits)[len(waits) // 2] < 0.02
    assert set(daemon.links()) == names
    assert all(found["State"] == "active" for found in daemon.links().values())
    for name in names:
        (world.cgroup_dir(parent) / name.removeprefix("svc@")).rmdir()
    until(lambda: not daemon.links(), "all are gone with their cgroups", seconds=60)
    assert not daemon.pinned()


def test_the_sweep_finds_what_no_watcher_told(world: World) -> None:
    declare(world, "a.toml", template("wan", 'altname = "uplink*"'))
    daemon = world.daemon("--sweep-interval", "0.05")
    pair(world, "x1")
    world.ip("link", "property", "add", "dev", "x1", "altname", "uplink-0")
    soon(daemon, {"wan@x1": "active"})


def test_an_interface_deleted_and_made_again_during_replaces(world: World) -> None:
    """A stress: whatever happens in which order, what is told in the end is so."""
    declare(world, "a.toml", link("pods", "xdp:pod?", OLD), link("edge", "xdp:edge0", OLD))
    daemon = world.daemon("--sweep-interval", "0.2")
    programs = itertools.cycle((OLD, NEW))
    for _ in range(12):
        for name in ("pod1", "edge0"):
            pair(world, name)
        declare(
            world,
            "a.toml",
            link("pods", "xdp:pod?", next(programs)),
            link("edge", "xdp:edge0", next(programs)),
        )
        process = world.process(
            Path(run("which", "busctl").strip()),
            f"--address={world.bus}",
            "call",
            "org.bpflinkd1",
            "/org/bpflinkd1",
            "org.bpflinkd1.Manager",
            "Reload",
        )
        for name in ("pod1", "edge0"):
            world.ip("link", "del", name)
            pair(world, name)
        assert process.wait(20) == 0
        soon(daemon, {"pods@pod1": "active", "edge": "active"})
        shown = {name: world.ip("-d", "link", "show", name) for name in ("pod1", "edge0")}
        for name, which in (("pods@pod1", "pod1"), ("edge", "edge0")):
            assert f"prog/xdp id {daemon.link(name)['Program']['id']} " in shown[which]
        for name in ("pod1", "edge0"):
            world.ip("link", "del", name)
        soon(daemon, {"edge": "waiting"})
    assert "Traceback" not in daemon.said()


def test_a_caller_cannot_make_a_template(daemon: Daemon) -> None:
    with pytest.raises(Refused, match=r"links\.d"):
        daemon.attach("pods", {"xdp": "pod*"}, builtin(), wait=GLib.Variant("b", True))


def test_pins_that_had_not_followed_a_new_name_do_so_at_the_next_start(
    world: World, quiet: Callable[[], Daemon]
) -> None:
    """As `kill -9` leaves it between the two halves of a rename."""
    pair(world, "pod1")
    declare(world, "a.toml", link("pods", "xdp:pod?"))
    daemon = quiet()
    soon(daemon, {"pods@pod1": "active"})
    before = in_kernel(daemon)
    daemon.kill()
    (daemon.pins / "pods_40pod1").rename(daemon.pins / "pods_40pod0")
    state = sqlite3.connect(daemon.state_dir / "bpflinkd.sqlite")
    with state:
        state.execute("UPDATE link SET was = 'pods@pod0'")
    state.close()
    for _ in range(2):
        daemon.start()
        assert in_kernel(daemon) == before
        assert daemon.pinned() == {"pods_40pod1"}
        daemon.kill()
