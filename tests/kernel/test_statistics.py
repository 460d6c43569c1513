"""Run counts of real packets: over D-Bus, by `bpflinkctl top`, and as metrics."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gi.repository import Gio, GLib
from prometheus_client.parser import text_string_to_metric_families

from tests.kernel.test_bpflinkctl import CTL, ctl, document
from tests.kernel.test_watch import netlink_attach, sever
from tests.lab import Daemon, World
from tests.lab.compiled import program
from tests.lab.daemon import MANAGER, ROOT, Refused, builtin, elf
from tests.lab.world import run, until

REPO = Path(__file__).parents[2]
COUNT = 5000
KEEP = {"keep": GLib.Variant("t", 30_000_000)}


@pytest.fixture
def daemon(world: World) -> Daemon:
    """A daemon with metrics."""
    return world.daemon("--sweep-interval", "0.1", "--metrics-listen", str(world.dir / "metrics.sock"))


def read(daemon: Daemon, **options: GLib.Variant) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    about, links = daemon.call("Statistics", "(a{sv})", (options,))
    return about, {link["name"]: link for link in links}


def send(world: World, count: int = COUNT) -> None:
    """Frames from the peer, through the program on `v0`."""
    command = world.inside(sys.executable, "-m", "tests.lab.traffic", "v1", str(count))
    assert run(*command, cwd=REPO).split()[-1] == str(count)


def counting(daemon: Daemon) -> bool:
    """Whether the daemon has the kernel count: it holds the descriptor that does."""
    assert daemon.process is not None
    links = Path(f"/proc/{daemon.process.pid}/fd").iterdir()
    return any("bpf-stats" in os.readlink(each) for each in links if each.is_symlink())


def scraped(daemon: Daemon) -> dict[tuple[str, str], float]:
    """Every sample by name and the values of its labels."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.world.dir / "metrics.sock"))
        connection.settimeout(10)
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        told = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = told.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0]
    families = text_string_to_metric_families(body.decode())
    samples = [sample for family in families for sample in family.samples]
    return {(sample.name, ",".join(sample.labels.values())): sample.value for sample in samples}


def test_packets_are_counted_alike_everywhere(daemon: Daemon) -> None:
    world = daemon.world
    daemon.attach("edge", {"xdp": "v0"}, elf(program("count"), "count_old"))
    daemon.attach("later", {"xdp": "later0"}, builtin(), wait=GLib.Variant("b", True))
    about, links = read(daemon)
    assert not about["counting"]
    assert "nobody" in about["reason"]
    assert not counting(daemon)
    assert links["later"]["state"] == "waiting"

    about, links = read(daemon, **KEEP)
    assert about["counting"]
    assert counting(daemon)
    before = links["edge"]
    assert before["counted"] == before["program"][0] == daemon.link("edge")["Program"]["id"]
    send(world)
    after = read(daemon)[1]["edge"]
    ran = after["runs"] - before["runs"]
    assert COUNT <= ran < COUNT + 100, "a few of the kernel's own, such as those of IPv6, come along"
    assert after["time"] > before["time"]
    told = json.loads(run("bpftool", "-j", "prog", "show", "id", str(after["counted"])))
    assert told["run_cnt"] - after["runs"] < 100

    samples = scraped(daemon)
    assert 0 <= samples["bpflinkd_link_runs_total", "edge"] - after["runs"] < 100
    assert samples["bpflinkd_link_run_seconds_total", "edge"] >= after["time"] / 1e9
    assert samples["bpflinkd_links", "active"] == samples["bpflinkd_links", "waiting"] == 1
    assert samples["bpflinkd_run_counting", ""] == 1
    shown = document(daemon, "top", "--once", "--interval", "0.2")
    rows = {link["name"]: link for link in shown["links"]}  # type: ignore[attr-defined]
    assert 0 <= rows["edge"]["runs"] - after["runs"] < 200
    assert rows["edge"]["runs_per_second"] >= 0

    # A replace begins at 0, which no rate shows as going back.
    daemon.replace("edge", elf(program("count"), "count_new"), expect=1)
    fresh = read(daemon)[1]["edge"]
    assert fresh["generation"] == 2
    assert fresh["counted"] != after["counted"]
    assert fresh["runs"] < 100
    samples = scraped(daemon)
    assert samples["bpflinkd_link_generation", "edge"] == 2
    assert samples["bpflinkd_swaps_total", "xdp,done"] == samples["bpflinkd_swap_seconds_count", "xdp"] == 1
    assert 0 < samples["bpflinkd_swap_seconds_sum", "xdp"] < 10
    daemon.call("ReplaceMany", "(a(sa{sv})a{sv})", ([("edge", {"builtin": GLib.Variant("s", "pass")})], {}))
    assert scraped(daemon)["bpflinkd_swaps_total", "xdp,done"] == 2
    sever(daemon)
    netlink_attach(world)
    until(lambda: daemon.state("edge") == "displaced", "seen")
    samples = scraped(daemon)
    assert samples["bpflinkd_foreign_changes_total", "program-attached"] == 1
    assert samples["bpflinkd_links", "displaced"] == 1
    assert samples["bpflinkd_link_active", "edge"] == 0
    assert samples["bpflinkd_watch_source_up", "netlink"] == 1


def test_counting_ends_with_the_asker_or_its_time(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    flags = Gio.DBusConnectionFlags
    asker = Gio.DBusConnection.new_for_address_sync(
        daemon.world.bus, flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None
    )
    body = GLib.Variant("(a{sv})", (KEEP,))
    asker.call_sync("org.bpflinkd1", ROOT, MANAGER, "Statistics", body, None, 0, 5000, None)
    assert counting(daemon)
    read(daemon, keep=GLib.Variant("t", 1_000_000))
    until(lambda: read(daemon)[0]["counting"], "the other one wants it still")
    asker.close_sync(None)
    until(lambda: not counting(daemon), "counting ends with its asker and its time", seconds=5)
    assert not read(daemon)[0]["counting"]

    def stands_still() -> bool:
        before = read(daemon)[1]["edge"]["runs"]
        send(daemon.world, 500)
        return bool(read(daemon)[1]["edge"]["runs"] == before)

    # Whoever else is on the machine may have it count for a moment.
    until(stands_still, "nothing is counted", seconds=30)


def test_the_settings_have_runs_counted_all_the_time(world: World) -> None:
    daemon = world.daemon("--count-runs")
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    assert read(daemon)[0]["counting"]
    read(daemon, keep=GLib.Variant("t", 1_000_000))
    time.sleep(1.5)
    send(world)
    assert read(daemon)[1]["edge"]["runs"] >= COUNT
    daemon.restart()
    until(lambda: read(daemon)[0]["counting"], "counts again")
    assert read(daemon)[1]["edge"]["runs"] >= COUNT, "it is the kernel that counted"


def test_who_may_have_runs_counted(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    done = ctl(daemon, "top", "--once", "--interval", "0.1", uid=65534)
    assert done.returncode == 0, done.stderr
    head, titles, row = done.stdout.splitlines()
    assert "1 link; nobody has the kernel count runs now" in head
    assert titles.split()[:3] == ["NAME", "TARGET", "STATE"]
    assert row.split()[6:] == ["-", "-", "-", "-", "0"]
    with pytest.raises(Refused, match="between 1000000 and 7200000000"):
        read(daemon, keep=GLib.Variant("t", 1))
    daemon.transfer("edge", uid=GLib.Variant("u", 65534), force=True)
    done = ctl(daemon, "top", "--once", "--interval", "0.1", uid=65534)
    assert "runs/s" in done.stdout
    until(lambda: not counting(daemon), "top is gone")


def test_top_goes_on_and_ends_at_once(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    words = [str(CTL), "--bus", daemon.world.bus, "--json", "top", "--interval", "0.2"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as top:
        assert top.stdout is not None
        first, second = (json.loads(top.stdout.readline()) for _ in range(2))
        assert second["time"] > first["time"]
        assert 0.15 < second["seconds"] < 30
        top.send_signal(signal.SIGINT)
        assert top.wait(10) == 0
    shown = run("script", "-qec", f"stty cols 100 rows 6; {' '.join(words[:3])} top --once", "/dev/null")
    assert "edge" in shown
    with subprocess.Popen([*words[:3], "top"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as top:
        time.sleep(1)
        daemon.kill()
        assert top.wait(20) == 3


def test_a_hostile_scraper_blocks_nobody(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    silent = []
    for _ in range(60):
        silent.append(socket.socket(socket.AF_UNIX))
        silent[-1].connect(str(daemon.world.dir / "metrics.sock"))
    try:
        assert scraped(daemon)["bpflinkd_links", "active"] == 1
        began = time.monotonic()
        assert daemon.state("edge") == "active"
        assert daemon.replace("edge", builtin()) == 2
        assert time.monotonic() - began < 5
    finally:
        for each in silent:
            each.close()
    daemon.end()
    assert not (daemon.world.dir / "metrics.sock").exists()
