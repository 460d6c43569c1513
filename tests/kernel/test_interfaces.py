"""What is told of interfaces, asked for and unasked; in a network namespace of the test's own."""

import ctypes
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from gi.repository import GLib

from bpflinkd.core.addresses import mac_text
from bpflinkd.core.events import InterfaceChanged, InterfaceGone, Tiding
from bpflinkd.core.patterns import Interface
from bpflinkd.core.targets import IfIndex, XdpHook
from bpflinkd.kernel import interfaces, xdp
from bpflinkd.watch.netlink import NetlinkWatch
from tests.lab import World
from tests.lab.world import run

LONG = "a-name-of-more-than-fifteen-bytes"
LONGEST = "x" * 127
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


def inside(world: World, function: Callable[[], T]) -> T:
    """Call something in the namespace: by a thread of its own, since setns(2) is for one thread."""
    results: list[T] = []

    def there() -> None:
        with Path(f"/run/netns/{world.netns}").open() as netns:
            if _libc.setns(netns.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        results.append(function())

    thread = threading.Thread(target=there)
    thread.start()
    thread.join()
    (result,) = results
    return result


def all_of(world: World) -> dict[str, Interface]:
    return {each.name: each for each in inside(world, interfaces.interfaces)}


def altname(world: World, interface: str, *names: str) -> None:
    for name in names:
        world.ip("link", "property", "add", "dev", interface, "altname", name)


class Heard:
    """What the netlink watch tells of a namespace."""

    def __init__(self, world: World) -> None:
        self.told: list[Tiding] = []
        self.lost = 0
        self.watch = inside(world, lambda: NetlinkWatch(self.told.append, self._lose))

    def _lose(self) -> None:
        self.lost += 1

    def now(self) -> list[Tiding]:
        """What was told since the last call."""
        context = GLib.MainContext.default()
        while context.iteration(False):
            pass
        told = self.told[:]
        self.told.clear()
        return told


@pytest.fixture
def heard(world: World) -> Iterator[Heard]:
    made = Heard(world)
    yield made
    made.watch.close()
    assert made.lost == 0


def test_all_interfaces_as_ip_tells_them(world: World) -> None:
    altname(world, "v0", "short0", LONG, LONGEST)
    world.ip("link", "set", "v1", "address", "02:00:5e:10:00:0a")
    world.ip("link", "add", "br0", "type", "bridge")
    expected = {
        each["ifname"]: (each["ifindex"], set(each.get("altnames", ())), each.get("address", ""))
        for each in json.loads(world.ip("-json", "link"))
    }
    found = all_of(world)
    assert {x.name: (x.ifindex, set(x.altnames), x.mac) for x in found.values()} == expected
    assert found["v1"].mac == "02:00:5e:10:00:0a"
    assert set(found["v0"].altnames) == {"short0", LONG, LONGEST}


@pytest.mark.parametrize(
    ("words", "driver"),
    [
        pytest.param(["type", "veth"], "veth", id="veth"),
        pytest.param(["type", "dummy"], "dummy", id="dummy"),
        pytest.param(["type", "bridge"], "bridge", id="bridge"),
        pytest.param(["type", "ifb"], "ifb", id="ifb"),
        pytest.param(["type", "vxlan", "id", "1", "dstport", "4789"], "vxlan", id="vxlan"),
        # No driver that ethtool could name: what kind of interface it is.
        pytest.param(["type", "vrf", "table", "10"], "vrf", id="vrf"),
    ],
)
def test_the_driver(world: World, words: list[str], driver: str) -> None:
    try:
        world.ip("link", "add", "it0", *words)
    except RuntimeError as error:
        if "Unknown device type" in str(error) or "not supported" in str(error):
            pytest.skip(f"this kernel has no {driver}")
        raise
    altname(world, "it0", LONG)
    assert all_of(world)["it0"].driver == driver
    assert inside(world, lambda: interfaces.driver("it0")) == driver
    assert inside(world, lambda: interfaces.driver(LONG)) == driver


def test_no_driver(world: World) -> None:
    assert all_of(world)["lo"].driver == ""
    assert inside(world, lambda: interfaces.driver("lo")) == ""
    assert inside(world, lambda: interfaces.driver("none0")) == ""


def test_one_interface_by_its_index(world: World) -> None:
    altname(world, "v0", LONG)
    v0 = all_of(world)["v0"]
    assert inside(world, lambda: interfaces.interface(v0.ifindex)) == v0
    world.ip("link", "set", "v0", "down", "name", "new0")
    world.ip("link", "set", "new0", "address", "02:00:00:00:00:01")
    renamed = inside(world, lambda: interfaces.interface(v0.ifindex))
    assert renamed is not None
    assert (renamed.name, renamed.mac, renamed.altnames) == ("new0", "02:00:00:00:00:01", (LONG,))
    world.ip("link", "del", "new0")
    assert inside(world, lambda: interfaces.interface(v0.ifindex)) is None


@pytest.mark.parametrize("name", ["v0", "short0", LONG, LONGEST])
def test_the_hook_by_any_name(world: World, name: str) -> None:
    altname(world, "v0", "short0", LONG, LONGEST)
    v0 = all_of(world)["v0"]
    assert inside(world, lambda: xdp.hook(name)) == XdpHook(v0.ifindex)
    assert inside(world, lambda: interfaces.named(name)) == v0


@pytest.mark.parametrize("name", ["", "none0", "x" * 16, "x" * 127, "x" * 128, "x" * 4000, "\udcff"])
def test_no_hook_by_a_name_that_none_has(world: World, name: str) -> None:
    assert inside(world, lambda: xdp.hook(name)) is None
    assert inside(world, lambda: interfaces.named(name)) is None


def test_a_name_that_is_not_utf_8(world: World, heard: Heard) -> None:
    world.ip("link", "set", "v0", "down", "name", os.fsdecode(b"v\xff"))
    altname(world, os.fsdecode(b"v\xff"), os.fsdecode(b"\xfe"))
    found = all_of(world)["v�"]
    assert (found.driver, found.altnames) == ("veth", ("�",))
    world.ip("link", "set", os.fsdecode(b"v\xff"), "up")
    changed = [x for x in heard.now() if isinstance(x, InterfaceChanged)]
    assert ("v�", ("�",)) in [(x.name, x.altnames) for x in changed]


def test_more_interfaces_than_one_datagram_holds(world: World) -> None:
    lines = (f"link add a{n} type veth peer name b{n}\n" for n in range(100))
    subprocess.run(["ip", "-n", world.netns, "-batch", "-"], input="".join(lines), text=True, check=True)
    begin = time.perf_counter()
    found = inside(world, interfaces.interfaces)
    print(f"{len(found)} interfaces took {(time.perf_counter() - begin) * 1e3:.1f} ms")
    assert len(found) == 203
    assert {x.driver for x in found if x.name != "lo"} == {"veth"}


def test_another_namespace_than_that_of_sysfs(world: World) -> None:
    """The daemon's /sys shows the namespace in which it was mounted: nothing is asked there."""
    assert set(all_of(world)) == {"lo", "v0", "v1"}
    assert "v0" not in {path.name for path in Path("/sys/class/net").iterdir()}


def test_what_changed_is_told_with_all_names(world: World, heard: Heard) -> None:
    altname(world, "v0", "short0", LONG)
    v0 = all_of(world)["v0"]
    expected = InterfaceChanged(ifindex=v0.ifindex, name="v0", altnames=v0.altnames, mac=v0.mac)
    assert heard.now()[-1] == expected
    world.ip("link", "property", "del", "dev", "v0", "altname", "short0")
    (told,) = heard.now()
    assert isinstance(told, InterfaceChanged)
    assert told.altnames == (LONG,)


def test_an_alternative_name_of_an_interface_that_is_down_is_not_told(world: World, heard: Heard) -> None:
    world.ip("link", "set", "v0", "down")
    heard.now()
    altname(world, "v0", LONG)
    assert heard.now() == []
    world.ip("link", "set", "v0", "up")
    told = heard.now()
    assert any(isinstance(x, InterfaceChanged) and x.altnames == (LONG,) for x in told)


def test_another_address_is_told(world: World, heard: Heard) -> None:
    world.ip("link", "set", "v0", "address", "02:00:00:00:00:0B")
    told = heard.now()[-1]
    assert isinstance(told, InterfaceChanged)
    assert (told.name, told.mac) == ("v0", "02:00:00:00:00:0b")


def test_an_interface_that_goes_is_told_with_all_names(world: World, heard: Heard) -> None:
    altname(world, "v0", LONG)
    v0 = all_of(world)["v0"]
    heard.now()
    world.ip("link", "del", "v0")
    gone = [x for x in heard.now() if isinstance(x, InterfaceGone) and x.name == "v0"]
    assert gone == [InterfaceGone(ifindex=v0.ifindex, name="v0", altnames=(LONG,), moved=False)]


def test_an_interface_that_moves_is_told_with_all_names(world: World, heard: Heard) -> None:
    altname(world, "v0", LONG)
    v0 = all_of(world)["v0"]
    heard.now()
    with World() as elsewhere:
        world.ip("link", "set", "v0", "netns", elsewhere.netns)
        gone = [x for x in heard.now() if isinstance(x, InterfaceGone)]
        assert gone == [InterfaceGone(ifindex=v0.ifindex, name="v0", altnames=(LONG,), moved=True)]
        assert all_of(elsewhere)["v0"].altnames == (LONG,)


@pytest.mark.parametrize(
    ("words", "shape"),
    [
        pytest.param(["type", "veth"], r"02:00:00:00:00:0c", id="ethernet"),
        pytest.param(["type", "ipip", "local", "10.0.0.1"], "", id="ipv4 tunnel"),
        pytest.param(["type", "ip6tnl", "local", "fd00::1"], "", id="ipv6 tunnel"),
        pytest.param(["type", "xfrm", "if_id", "7"], "", id="no address"),
    ],
)
def test_both_ways_agree_on_the_address(world: World, heard: Heard, words: list[str], shape: str) -> None:
    try:
        world.ip("link", "add", "it0", *(("address", shape) if shape else ()), *words)
    except RuntimeError as error:
        if "Unknown device type" in str(error) or "not supported" in str(error):
            pytest.skip(f"this kernel has no {words[1]}")
        raise
    told = [x for x in heard.now() if isinstance(x, InterfaceChanged) and x.name == "it0"]
    assert {x.mac for x in told} == {shape}
    assert all_of(world)["it0"].mac == shape


@pytest.mark.parametrize(
    ("address", "text"),
    [
        pytest.param(b"", "", id="none"),
        pytest.param(bytes(range(4)), "", id="IPv4"),
        pytest.param(bytes(range(6)), "00:01:02:03:04:05", id="Ethernet"),
        pytest.param(bytes(8), ":".join(["00"] * 8), id="FireWire"),
        pytest.param(bytes(16), "", id="IPv6"),
        pytest.param(b"\xff" * 20, ":".join(["ff"] * 20), id="InfiniBand"),
    ],
)
def test_addresses_as_text(address: bytes, text: str) -> None:
    assert mac_text(address) == text


def test_nothing_was_asked_of_the_machines_own_namespace() -> None:
    """The calls work there as well, and change nothing."""
    before = run("ip", "-json", "link")
    assert {x.ifindex for x in interfaces.interfaces()} >= {IfIndex(1)}
    assert [x["ifname"] for x in json.loads(before)] == [
        x["ifname"] for x in json.loads(run("ip", "-json", "link"))
    ]
