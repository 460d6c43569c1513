"""The daemon ends, is killed, finds damage: what runs in the kernel goes on, nothing is lost."""

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from gi.repository import GLib

from tests.kernel.test_replace import REPO, load_counters
from tests.lab import Daemon, World
from tests.lab.compiled import program
from tests.lab.daemon import builtin, by_id, elf, pinned
from tests.lab.world import run, until

pytestmark = pytest.mark.cold


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_traffic_never_notices(daemon: Daemon, number: int) -> None:
    pins, counters = load_counters(daemon)
    daemon.attach("edge", {"xdp": "v0"}, pinned(pins[0]))
    path = daemon.world.cgroup()
    daemon.attach("it", {"cgroup": path}, elf(program("count"), "egress_count"))
    before = daemon.links()
    sender = daemon.world.process(
        *daemon.world.inside(sys.executable, "-m", "tests.lab.traffic", "v1", "0"),
        cwd=REPO,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert sender.stdout
    sender.stdout.readline()
    for _ in range(3):
        daemon.restart(number)
        assert daemon.links() == before
    sent = int(sender.communicate()[0])
    assert counters[0][0] == sent > 0
    daemon.replace("edge", pinned(pins[1]))
    assert daemon.link("edge")["Generation"] == 2


def test_kill_9_in_the_middle_of_everything(world: World) -> None:
    """Killed at random moments of attach, replace and detach: the next start finds before or after."""
    daemon = world.daemon("--sweep-interval", "3600")
    pins, counters = load_counters(daemon)
    daemon.attach("edge", {"xdp": "v0"}, pinned(pins[0]))
    daemon.attach("it", {"cgroup": world.cgroup()}, elf(program("count"), "connect_ok"))
    chance = random.Random(20261121)
    for _ in range(25):
        script = (
            "import sys, itertools\nsys.path.insert(0, '.')\n"
            "from pathlib import Path\n"
            "from tests.lab.daemon import Daemon, elf, pinned, builtin\n"
            "from tests.lab.compiled import program\n"
            "class W:\n"
            f"  dir = Path('{world.dir}'); bpffs = Path('{world.bpffs}'); bus = '{world.bus}'\n"
            "d = Daemon(W())\n"
            f"pins = [Path(p) for p in {[str(p) for p in pins]}]\n"
            f"obj = Path('{program('count')}')\n"
            "for n in itertools.count():\n"
            "  d.replace('edge', pinned(pins[n % 2]))\n"
            "  d.replace('it', elf(obj, ['connect_ok', 'connect_deny'][n % 2]))\n"
            "  d.attach('more', {'xdp': 'v1'}, elf(obj, 'count_old'))\n"
            "  d.detach('more')\n"
        )
        busy = world.process(
            sys.executable, "-c", script, cwd=REPO, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        time.sleep(0.35 + chance.random() * 0.3)
        daemon.kill()
        busy.wait(20)
        daemon.start()
        links = daemon.links()
        assert {"edge", "it"} <= set(links) <= {"edge", "it", "more"}
        assert {link["State"] for link in links.values()} == {"active"}
        # Record and kernel agree, and there is not a pin too many.
        for name, link in links.items():
            home = daemon.pins / name
            assert {p.name for p in home.iterdir()} - {"maps", "kept"} == {"link", "program"}
            shown = run("bpftool", "link", "show", "pinned", home / "link")
            assert f"prog {link['Program']['id']}" in shown
        assert daemon.pinned() == set(links)
        if "more" in links:
            daemon.detach("more")
        assert "prog/xdp" not in world.ip("link", "show", "v1")
    assert counters


def test_pins_lost_while_running_do_not_end_the_link(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    for name in ("link", "program"):
        (daemon.pins / "edge" / name).unlink()
    time.sleep(0.3)
    assert daemon.state("edge") == "active"
    assert "prog/xdp" in daemon.world.ip("link", "show", "v0")
    assert daemon.replace("edge", builtin()) == 2


def test_pins_lost_and_daemon_killed_is_attached_again(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, elf(program("count"), "count_old"))
    daemon.replace("edge", elf(program("count"), "count_new"))
    daemon.kill()
    subprocess.run(["rm", "-r", str(daemon.pins / "edge")], check=True)
    daemon.start()
    link = daemon.link("edge")
    assert (link["State"], link["Generation"], link["Program"]["name"]) == ("active", 2, "count_new")
    assert "prog/xdp" in daemon.world.ip("link", "show", "v0")


def test_program_pin_lost_and_daemon_killed_goes_on(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, elf(program("count"), "count_old"))
    before = daemon.links()
    daemon.kill()
    (daemon.pins / "edge" / "program").unlink()
    daemon.start()
    assert daemon.links() == before
    assert (daemon.pins / "edge" / "program").exists()
    assert (daemon.pins / "edge" / "maps" / "counters").exists()


def test_program_from_a_pin_is_awaited_there(world: World) -> None:
    daemon = world.daemon("--sweep-interval", "0.05")
    pins, _ = load_counters(daemon)
    daemon.attach("edge", {"xdp": "v0"}, pinned(pins[0]))
    daemon.kill()
    subprocess.run(["rm", "-r", str(daemon.pins / "edge")], check=True)
    elsewhere = pins[0].rename(pins[0].with_name("elsewhere"))
    daemon.start()
    assert daemon.state("edge") == "failed"
    assert f"the pin '{pins[0]}' cannot be opened" in daemon.link("edge")["Reason"]
    elsewhere.rename(pins[0])
    until(lambda: daemon.state("edge") == "active", "the program is taken from its pin")


def test_program_that_cannot_be_had_again_is_failed_and_can_be_replaced(daemon: Daemon) -> None:
    pins, _ = load_counters(daemon)
    shown = json.loads(run("bpftool", "--json", "prog", "show", "pinned", pins[0]))
    daemon.attach("edge", {"xdp": "v0"}, by_id(shown["id"]))
    daemon.kill()
    subprocess.run(["rm", "-r", str(daemon.pins / "edge")], check=True)
    daemon.start()
    link = daemon.link("edge")
    assert link["State"] == "failed"
    assert "replace it" in link["Reason"]
    assert daemon.replace("edge", builtin()) == 2
    assert daemon.state("edge") == "active"


def test_changes_made_while_the_daemon_was_away_are_seen(daemon: Daemon) -> None:
    pins, _ = load_counters(daemon)
    daemon.world.veth("w0", "w1")
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    daemon.attach("other", {"xdp": "w0"}, builtin())
    links = daemon.links()
    daemon.end()
    run("bpftool", "link", "detach", "id", str(links["edge"]["KernelLinkId"]))
    code = (
        "from bpflinkd.kernel import libbpf\n"
        f"link = libbpf.link_fd_by_id({links['other']['KernelLinkId']})\n"
        f"old = libbpf.prog_fd_by_id({links['other']['Program']['id']})\n"
        f"libbpf.link_update(link, libbpf.obj_get('{pins[0]}'), old_prog_fd=old)\n"
    )
    run(sys.executable, "-c", code, cwd=REPO)
    daemon.start()
    assert daemon.state("edge") == "severed"
    assert daemon.state("other") == "tampered"
    assert "link-detached" in daemon.said()
    assert "link-updated" in daemon.said()


def test_second_daemon_on_the_same_state_is_refused(daemon: Daemon) -> None:
    done = subprocess.run(daemon.command(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "another bpflinkd uses the state directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_second_daemon_on_the_same_bpffs_is_refused(daemon: Daemon) -> None:
    command = [word if word != str(daemon.state_dir) else word + "2" for word in daemon.command()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"another bpflinkd uses {daemon.pins}" in done.stderr


def test_second_daemon_on_the_same_bus_is_refused(daemon: Daemon) -> None:
    changed = {str(daemon.state_dir): f"{daemon.state_dir}2", str(daemon.pins): f"{daemon.pins}2"}
    command = [changed.get(word, word) for word in daemon.command()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 1
    assert "another bpflinkd owns org.bpflinkd1" in done.stderr


def _start(daemon: Daemon, **changed: str) -> subprocess.CompletedProcess[str]:
    words = daemon.command()
    for option, value in changed.items():
        words[words.index(f"--{option}") + 1] = value
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)


@pytest.mark.parametrize(
    ("changed", "code", "says"),
    [
        pytest.param({"bus": "unix:path=/nowhere"}, 3, "cannot be reached", id="no bus"),
        pytest.param({"bus": "not an address"}, 3, "cannot be reached", id="a bad bus address"),
        pytest.param({"bpffs": "/tmp/pins"}, 1, "mount -t bpf", id="no bpffs"),
        pytest.param({"bpffs": "/nowhere/at/all"}, 1, "cannot be used", id="no such directory"),
        pytest.param({"state-dir": "/proc/x"}, 1, "cannot be used", id="a state that cannot be made"),
    ],
)
def test_start_is_refused_with_a_sentence(
    daemon: Daemon, changed: dict[str, str], code: int, says: str
) -> None:
    daemon.end()
    done = _start(daemon, **changed)
    assert done.returncode == code
    assert says in done.stderr
    assert done.stderr.startswith("bpflinkd: ")
    assert len(done.stderr.splitlines()) == 1


def test_no_root(daemon: Daemon) -> None:
    command = ["setpriv", "--reuid=65534", "--clear-groups", *daemon.command()[2:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr == "bpflinkd: bpflinkd must run as root: it loads and attaches BPF programs\n"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        pytest.param("sweep-interval = 'x'", "must be a number", id="a wrong type"),
        pytest.param("sweep-interval = 0", "between", id="out of range"),
        pytest.param("colour = 1", "no setting 'colour'", id="an unknown setting"),
        pytest.param("a = = 1", "line 1", id="not TOML"),
    ],
)
def test_bad_configuration(world: World, settings: str, says: str) -> None:
    daemon = world.daemon()
    daemon.end()
    etc = daemon.world.dir / "etc"
    etc.mkdir()
    (etc / "bpflinkd.toml").write_text(settings)
    done = _start(daemon, bus="unix:path=/nowhere")
    assert done.returncode == 1
    assert says in done.stderr


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(lambda b: b"garbage" * 1000, "not a database", id="not a database"),
        pytest.param(lambda b: b[:5000], "", id="cut short"),
        pytest.param(lambda b: b[:4096] + b"\xff" * 4096 + b[8192:], "", id="a page overwritten"),
    ],
)
def test_corrupt_database(daemon: Daemon, damage: object, says: str) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    daemon.end()
    place = daemon.state_dir / "bpflinkd.sqlite"
    broken = damage(place.read_bytes())  # type: ignore[operator]
    place.write_bytes(broken)
    pins = sorted(daemon.pins.rglob("*"))
    done = _start(daemon)
    assert done.returncode == 1
    assert str(place) in done.stderr
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert place.read_bytes() == broken
    assert sorted(daemon.pins.rglob("*")) == pins
    assert "prog/xdp" in daemon.world.ip("link", "show", "v0")


def test_state_of_a_newer_release(daemon: Daemon) -> None:
    daemon.end()
    state = sqlite3.connect(daemon.state_dir / "bpflinkd.sqlite")
    state.execute("PRAGMA user_version = 99")
    done = _start(daemon)
    assert done.returncode == 1
    assert "another program has it open" in done.stderr
    state.close()
    done = _start(daemon)
    assert done.returncode == 1
    assert "of a newer bpflinkd" in done.stderr


def test_stopping_changes_nothing_and_needs_no_force(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin(), policy=GLib.Variant("s", "restore"))
    shown = daemon.world.ip("link", "show", "v0")
    began = time.monotonic()
    assert daemon.end() == 0
    assert time.monotonic() - began < 5
    assert daemon.world.ip("link", "show", "v0") == shown
