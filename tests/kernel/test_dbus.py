"""The bus as any client sees it: contract, callers, signals, quick reads."""

import os
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from importlib import resources
from pathlib import Path

import pytest
from gi.repository import GLib

from tests.kernel.test_replace import REPO, load_counters
from tests.kernel.test_watch import Signals
from tests.lab import Daemon
from tests.lab.compiled import program
from tests.lab.daemon import ROOT, Refused, builtin, elf, pinned
from tests.lab.world import until

DOC = "org.gtk.GDBus.DocString"
LINK = "org.bpflinkd1.Link"
PROPERTIES = "org.freedesktop.DBus.Properties"


def introspect(daemon: Daemon, path: str) -> ET.Element:
    text = daemon.call("Introspect", path=path, interface="org.freedesktop.DBus.Introspectable")
    return ET.fromstring(text)


def test_every_member_is_documented(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    for path in (ROOT, f"{ROOT}/link/edge"):
        for interface in introspect(daemon, path).findall("interface"):
            if not interface.get("name", "").startswith("org.bpflinkd1"):
                continue
            for member in (interface, *interface.findall("*")):
                if member.tag == "annotation":
                    continue
                notes = [note.get("name") for note in member.findall("annotation")]
                assert DOC in notes, (interface.get("name"), member.get("name"))


def test_what_is_served_is_the_contract(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    contract = ET.fromstring(resources.files("bpflinkd.dbus").joinpath("interface.xml").read_text())
    wanted = {i.get("name"): i for i in contract.findall("interface")}
    served = {
        i.get("name"): i
        for path in (ROOT, f"{ROOT}/link/edge")
        for i in introspect(daemon, path).findall("interface")
    }
    for name, interface in wanted.items():
        members = {(m.tag, m.get("name")) for m in interface.findall("*")}
        assert members == {(m.tag, m.get("name")) for m in served[name].findall("*")}
    for name, path in (("org.bpflinkd1.Manager", ROOT), (LINK, f"{ROOT}/link/edge")):
        values = daemon.call("GetAll", "(s)", (name,), path=path, interface=PROPERTIES)
        properties = {p.get("name"): p.get("type") for p in wanted[name].findall("property")}
        assert set(values) == set(properties)


def busctl_as_nobody(daemon: Daemon) -> list[str]:
    return ["setpriv", "--reuid=65534", "--clear-groups", "busctl", f"--address={daemon.world.bus}"]


def test_reading_is_for_everyone(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    done = subprocess.run(
        [*busctl_as_nobody(daemon), "get-property", "org.bpflinkd1", f"{ROOT}/link/edge", LINK, "State"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == 's "active"\n'


def test_properties_cannot_be_set(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    with pytest.raises(Refused):
        value = GLib.Variant("s", "restore")
        path = f"{ROOT}/link/edge"
        daemon.call("Set", "(ssv)", (LINK, "Policy", value), path=path, interface=PROPERTIES)
    assert daemon.link("edge")["Policy"] == "alert"


@pytest.mark.parametrize("path", [f"{ROOT}/link/nope", f"{ROOT}/link", "/", f"{ROOT}/link/_"])
def test_objects_that_are_not_there(daemon: Daemon, path: str) -> None:
    with pytest.raises(Refused):
        daemon.call("GetAll", "(s)", (LINK,), path=path, interface=PROPERTIES)


def test_signals_in_order(daemon: Daemon) -> None:
    signals = Signals(daemon)
    daemon.attach("eth0.100", {"xdp": "v0"}, builtin())
    daemon.replace("eth0.100", elf(program("count"), "count_old"))
    daemon.detach("eth0.100")
    until(lambda: len(signals.all()) == 3, "three signals")
    (added, first), (replaced, second), (removed, third) = signals.all()
    assert (added, first) == ("LinkAdded", ("eth0.100", f"{ROOT}/link/eth0_2e100"))
    assert replaced == "ProgramReplaced"
    assert second[:2] == ("eth0.100", 2)
    assert (second[2][1], second[3][1]) == ("pass_xdp", "count_old")
    assert (removed, third[0]) == ("LinkRemoved", "eth0.100")
    assert third[1].startswith(f"detached by uid 0, pid {os.getpid()}, /")
    signals.close()


def test_a_reader_sees_the_new_generation_as_soon_as_the_answer_is_there(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    for _ in range(20):
        generation = daemon.replace("edge", builtin())
        assert daemon.link("edge")["Generation"] == generation


def test_reads_are_quick_while_swaps_run(daemon: Daemon) -> None:
    """A bound far above what is usual: what is tested is that a read does not wait for a swap."""
    pins, _ = load_counters(daemon)
    daemon.attach("edge", {"xdp": "v0"}, pinned(pins[0]))
    reader = Daemon(daemon.world)
    swapping = threading.Thread(
        target=lambda: [daemon.replace("edge", pinned(pins[n % 2])) for n in range(100)]
    )
    swapping.start()
    slowest, reads = 0.0, 0
    while swapping.is_alive():
        began = time.monotonic()
        reader.link("edge")
        slowest = max(slowest, time.monotonic() - began)
        reads += 1
    swapping.join()
    assert reads > 100
    assert slowest < 0.2


def test_twenty_clients_at_once(daemon: Daemon) -> None:
    """Each replace that was answered is one generation; no update is lost, none is doubled."""
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    code = (
        "import sys\nsys.path.insert(0, '.')\nfrom pathlib import Path\n"
        "from tests.lab.daemon import Daemon, Refused, builtin\n"
        f"class W: dir = Path('/'); bpffs = Path('/'); bus = '{daemon.world.bus}'\n"
        "d, won = Daemon(W()), 0\n"
        "for _ in range(20):\n"
        "    try: d.replace('edge', builtin(), expect=d.link('edge')['Generation']); won += 1\n"
        "    except Refused as e: assert e.name == 'StaleGeneration', e\n"
        "print(won)\n"
    )
    clients = [
        daemon.world.process(sys.executable, "-c", code, cwd=REPO, stdout=subprocess.PIPE) for _ in range(8)
    ]
    won = sum(int(client.communicate(timeout=60)[0]) for client in clients)
    assert daemon.link("edge")["Generation"] == won + 1
    assert won >= 20


def test_a_caller_that_leaves_does_not_disturb(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    code = (
        "import sys\nsys.path.insert(0, '.')\nfrom pathlib import Path\nfrom gi.repository import GLib\n"
        "from tests.lab.daemon import Daemon, MANAGER, ROOT\nimport os\n"
        f"class W: dir = Path('/'); bpffs = Path('/'); bus = '{daemon.world.bus}'\n"
        "d = Daemon(W())\n"
        "v = GLib.Variant('(sa{sv}a{sv})', ('edge', {'builtin': GLib.Variant('s', 'pass')}, {}))\n"
        "d.connection.call('org.bpflinkd1', ROOT, MANAGER, 'Replace', v, None, 0, -1, None, None)\n"
        "d.connection.flush_sync(None)\nos._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)
    until(lambda: daemon.link("edge")["Generation"] in {1, 2}, "alive")
    assert daemon.replace("edge", builtin()) >= 2


@pytest.mark.cold
def test_many_descriptors_in_one_message(daemon: Daemon) -> None:
    assert daemon.process
    place = Path(f"/proc/{daemon.process.pid}/fd")
    given = elf(program("single"))
    with given as (wanted, fds):
        words = (".", {"xdp": GLib.Variant("s", "v0")}, wanted, dict[str, GLib.Variant]())
        for _ in range(20):
            with pytest.raises(Refused):
                daemon.call("Attach", "(sa{sv}a{sv}a{sv})", words, fds=fds * 16)
        before = len(list(place.iterdir()))
        for _ in range(20):
            with pytest.raises(Refused):
                daemon.call("Attach", "(sa{sv}a{sv}a{sv})", words, fds=fds * 16)
    # They are closed a moment after the answer.
    until(lambda: len(list(place.iterdir())) <= before, "as few descriptors as before")
