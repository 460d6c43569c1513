"""`bpflinkctl` against the real daemon: what people type, what they read, the exit codes."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.kernel.test_adopt import stranger_link
from tests.kernel.test_watch import netlink_attach, sever
from tests.lab import Daemon
from tests.lab.compiled import program
from tests.lab.daemon import BINARY, builtin, elf
from tests.lab.world import run, until

CTL = BINARY.with_name("bpflinkctl")


def ctl(daemon: Daemon, *words: str | Path, uid: int | None = None) -> subprocess.CompletedProcess[str]:
    as_user = [] if uid is None else ["setpriv", f"--reuid={uid}", "--clear-groups"]
    command = [*as_user, str(CTL), "--bus", daemon.world.bus, *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr
    return done


def document(daemon: Daemon, *words: str | Path) -> dict[str, object]:
    done = ctl(daemon, *words, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_life(daemon: Daemon) -> None:
    objects = program("count")
    assert ctl(daemon, "attach", "edge", "xdp:v0", "--builtin", "pass").returncode == 0
    assert ctl(daemon, "replace", "edge", "--object", objects, "--program", "count_old").returncode == 0
    table = ctl(daemon, "list").stdout.splitlines()
    assert table[0].split() == ["NAME", "TARGET", "STATE", "OWNER", "GEN", "PROGRAM", "SINCE"]
    assert table[1].split()[:6] == ["edge", "xdp:v0", "active", "root", "2", "count_old"]
    assert document(daemon, "show", "edge")["generation"] == 2
    stale = ctl(daemon, "replace", "edge", "--builtin", "pass", "--expect", "1")
    assert (stale.returncode, stale.stdout) == (1, "")
    assert "StaleGeneration" in stale.stderr
    assert ctl(daemon, "detach", "edge").returncode == 0
    assert document(daemon, "list") == {"links": []}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        pytest.param(["show", "nope"], 1, "no link 'nope'", id="no such link"),
        pytest.param(["attach", "x", "xdp:nope0", "--builtin", "pass"], 1, "--wait", id="no interface"),
        pytest.param(["attach", "x", "xdp:v0", "--object", "/nope.o"], 1, "/nope.o", id="no file"),
        pytest.param(["attach", "x", "xdp:v0", "--object", "/tmp"], 1, "directory", id="a directory"),
        pytest.param(["attach", "x", "eth0", "--builtin", "pass"], 2, "xdp:eth0", id="no kind of target"),
        pytest.param(["attach", "x", "xdp:v0"], 2, "exactly one of", id="no source"),
        pytest.param(["attach", "x", "xdp:v0", "--id", "1", "--builtin", "pass"], 2, "one", id="two"),
        pytest.param(["attach", "x", "xdp:v0", "--id", "0"], 2, "0", id="id 0"),
        pytest.param(["lst"], 2, "Did you mean 'list'", id="a typo"),
        pytest.param(["list", "--jsn"], 2, "--json", id="a typo in an option"),
    ],
)
def test_refusals_have_a_sentence_and_a_code(daemon: Daemon, words: list[str], code: int, says: str) -> None:
    done = ctl(daemon, *words)
    assert done.returncode == code
    assert says in done.stderr
    assert done.stdout == ""
    assert not daemon.links()


def test_not_root_is_exit_4(daemon: Daemon) -> None:
    done = ctl(daemon, "attach", "x", "xdp:v0", "--builtin", "pass", uid=65534)
    assert done.returncode == 4
    assert "uid 65534" in done.stderr


def test_a_link_is_held_in_the_foreground_and_claimed_by_another(daemon: Daemon) -> None:
    words: list[str | Path] = [CTL, "--bus", daemon.world.bus]
    given = ["xdp:v0", "--builtin", "pass", "--lifetime", "owner", "--grace", "300ms"]
    holder = daemon.world.process(*words, "attach", "edge", *given, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "edge is active\n"
    assert holder.stdout.readline() == "holding edge; it ends 0.3 s after this does\n"
    shown = ctl(daemon, "show", "edge").stdout
    assert re.search(r"^Held by +connection :\S+; it may be claimed for 0.3 s after", shown, re.MULTILINE)
    assert re.search(rf"^  by +root \(uid 0\), .*pid {holder.pid}", shown, re.MULTILINE)
    claimer = daemon.world.process(*words, "claim", "edge", "--json", stdout=subprocess.PIPE)
    assert claimer.stdout is not None
    assert json.loads(claimer.stdout.readline()) == {"name": "edge"}
    assert holder.wait(10) == 0
    assert "is held by" in holder.stdout.read()
    claimer.terminate()
    claimer.wait(10)
    until(lambda: daemon.links() == {}, "the link ends")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_holder_ends_by_a_signal_and_the_fallback_stays(daemon: Daemon, number: signal.Signals) -> None:
    words: list[str | Path] = [CTL, "--bus", daemon.world.bus, "attach", "edge", "xdp:v0"]
    words += ["--object", program("single"), "--lifetime", "owner"]
    more = ["--grace", "0", "--fallback", "pass"]
    holder = daemon.world.process(*words, *more, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "edge is active\n"
    assert holder.stdout.readline().startswith("holding edge")
    holder.send_signal(number)
    assert holder.wait(10) == (0 if number == signal.SIGINT else -signal.SIGTERM)
    until(lambda: daemon.link("edge")["Program"]["name"] == "pass_xdp", "the fallback runs")
    assert "nobody any more; the fallback runs" in ctl(daemon, "show", "edge").stdout


def test_a_link_that_ends_ends_its_holder(daemon: Daemon) -> None:
    words: list[str | Path] = [CTL, "--bus", daemon.world.bus, "attach", "edge", "xdp:v0", "--json"]
    holder = daemon.world.process(*words, "--builtin", "pass", "--lifetime", "owner", stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert json.loads(holder.stdout.readline())["state"] == "active"
    assert ctl(daemon, "detach", "edge").returncode == 0
    assert holder.wait(10) == 1
    error = json.loads(holder.stdout.read())["error"]
    assert error["name"] == "NoSuchLink"
    assert error["message"].startswith("link 'edge' has ended: ")


def test_owners(daemon: Daemon) -> None:
    given = ("xdp:v0", "--builtin", "pass", "--owner", "unit:not-here.service")
    refused = ctl(daemon, "attach", "edge", *given)
    assert refused.returncode == 4, "a unit without a grant"
    assert ctl(daemon, "attach", "edge", *given, "--force").returncode == 0
    assert "not-here.service" in ctl(daemon, "list").stdout
    assert document(daemon, "show", "edge")["owner"] == {"unit": "not-here.service"}
    refused = ctl(daemon, "detach", "edge")
    assert refused.returncode == 4
    assert "--force" in refused.stderr
    assert ctl(daemon, "transfer", "edge", "root", "--force").stdout == "edge is owned by root\n"
    assert ctl(daemon, "detach", "edge").returncode == 0


def test_adoption(daemon: Daemon) -> None:
    number, _ = stranger_link(daemon.world, interface="v1")
    done = ctl(daemon, "adopt", "theirs", "--link-id", str(number))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("theirs is active: adopted count_old, id ")
    assert done.stdout.endswith(f"adopted from bpf_link {number}\n")
    netlink_attach(daemon.world)
    adopted = document(daemon, "adopt", "edge", "--xdp", "v0", "--policy", "yield")
    assert (adopted["policy"], adopted["state"]) == ("yield", "active")
    assert re.search(r"empty for [\d.]+ ms", str(adopted["message"]))


def test_no_daemon_and_no_bus_are_exit_3(daemon: Daemon) -> None:
    daemon.end()
    assert ctl(daemon, "list").returncode == 3
    done = subprocess.run(
        [CTL, "--bus", "unix:path=/nowhere", "list"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)


def test_a_relative_object_file_is_found_from_where_one_is(daemon: Daemon) -> None:
    done = subprocess.run(
        [CTL, "--bus", daemon.world.bus, "attach", "edge", "xdp:v0", "--object", "single.bpf.o"],
        cwd=program("single").parent,
        check=False,
    )
    assert done.returncode == 0


def test_waiting_and_cgroups(daemon: Daemon) -> None:
    path = daemon.world.cgroup()
    assert ctl(daemon, "attach", "w", "xdp:later0", "--builtin", "pass", "--wait").returncode == 0
    target = f"cgroup:{path}"
    given = ("--builtin", "pass", "--attach-type", "egress")
    assert ctl(daemon, "attach", "c", target, *given).returncode == 0
    assert daemon.state("w") == "waiting"
    assert daemon.link("c")["Target"]["attach_type"] == "egress"


def test_events_are_followed(daemon: Daemon) -> None:
    log = daemon.world.dir / "events"
    with log.open("w") as file:
        follower = subprocess.Popen([CTL, "--bus", daemon.world.bus, "--json", "events"], stdout=file)
    try:
        time.sleep(1)
        daemon.attach("edge", {"xdp": "v0"}, builtin())
        sever(daemon)
        netlink_attach(daemon.world)
        until(lambda: "program-attached" in log.read_text(), "told")
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 0
    finally:
        follower.kill()
        follower.wait()
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert events[0]["event"] == "link_added"
    changes = [event for event in events if event["event"] == "foreign_change"]
    assert [change["kind"] for change in changes][-1] == "program-attached"
    assert changes[-1]["by"]["program"]["name"] == "only_one"


def test_events_end_with_the_daemon(daemon: Daemon) -> None:
    command = [str(CTL), "--bus", daemon.world.bus, "events"]
    follower = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    time.sleep(1)
    daemon.kill()
    _, said = follower.communicate(timeout=20)
    assert follower.returncode == 3
    assert "not running" in said


def test_foreign_and_status(daemon: Daemon) -> None:
    netlink_attach(daemon.world)
    assert "only_one" in ctl(daemon, "foreign").stdout
    status = document(daemon, "status")
    assert status["pid"] == (daemon.process.pid if daemon.process else None)
    assert {"netlink", "sweep"} <= set(status["watch_sources"])  # type: ignore[call-overload]


def test_a_closed_pipe_is_no_fault(daemon: Daemon) -> None:
    for number in range(40):
        daemon.attach(f"l{number}", {"cgroup": daemon.world.cgroup()}, elf(program("count"), "connect_ok"))
    done = subprocess.run(
        f"{CTL} --bus {daemon.world.bus} list | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("NAME")


def test_a_table_fits_a_narrow_terminal(daemon: Daemon) -> None:
    long = "a-link-with-a-name-that-goes-on-and-on-" + "x" * 80
    daemon.attach(long, {"xdp": "v0"}, builtin())
    shown = run(
        "script", "-qec", f"stty cols 80; {CTL} --bus {daemon.world.bus} --no-color list", "/dev/null"
    )
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert all(len(line.rstrip()) <= 80 for line in plain.splitlines())
    assert len(shown.strip().splitlines()) == 2


@pytest.mark.parametrize("word", ["", "ed"])
def test_completion_of_names(daemon: Daemon, word: str) -> None:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    words = f"bpflinkctl --bus session show {word}"
    environment = {
        **os.environ,
        "_BPFLINKCTL_COMPLETE": "bash_complete",
        "DBUS_SESSION_BUS_ADDRESS": daemon.world.bus,
        "COMP_LINE": words,
    }
    done = subprocess.run([CTL], env=environment, capture_output=True, text=True, check=False)
    assert "edge" in done.stdout
