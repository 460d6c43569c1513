"""Generations before: kept, told, and the way back, at any moment of a crash, and after a reboot too."""

import os
import pty
import shutil
import signal
import subprocess
import sys
import time

import pytest
from gi.repository import GLib

from tests.kernel.test_maps import TEST, XDP_DROP, XDP_PASS, map_id, opened, run_once, seen
from tests.lab import Daemon, World
from tests.lab.compiled import program
from tests.lab.daemon import Refused, Source, builtin, by_id, elf
from tests.lab.reboot import after_reboot
from tests.lab.world import run, until

WITHIN = GLib.Variant("t", 2_000_000)
LONG = GLib.Variant("t", 60_000_000)


def attach(daemon: Daemon) -> None:
    daemon.attach("edge", {"xdp": "v0", "mode": "generic"}, elf(program("policy")))


def generation(number: int) -> Source:
    return Source(generation=number)


def outcomes(daemon: Daemon) -> list[tuple[int, str, str]]:
    return [(each["generation"], each["outcome"], each["way_back"]) for each in daemon.history("edge")]


def test_there_and_back(daemon: Daemon) -> None:
    """With its maps: the policy of a generation is what it was when that one ran last."""
    attach(daemon)
    with opened(daemon, "policy_by_ethertype") as policy:
        policy.put(TEST, XDP_DROP)
    first = map_id(daemon, "policy_by_ethertype")
    why = GLib.Variant("s", "wider")
    fresh = GLib.Variant("b", True)
    daemon.replace("edge", elf(program("policy", ENTRIES=128)), message=why, fresh_maps=fresh)
    daemon.replace("edge", builtin())
    assert run_once(daemon) == XDP_PASS
    assert outcomes(daemon) == [(1, "replaced", "loaded"), (2, "replaced", "loaded"), (3, "running", "")]
    past = daemon.history("edge")[1]
    assert past["message"] == "wider"
    assert past["by"]["uid"] == 0
    assert past["program"]["name"] == "filter"
    kept = daemon.history("edge")[0]["program"]["id"]
    assert daemon.rollback("edge", 1) == 4
    link = daemon.link("edge")
    assert (link["Program"]["id"], link["State"]) == (kept, "active"), "the same program, not loaded again"
    assert map_id(daemon, "policy_by_ethertype") == first
    assert run_once(daemon) == XDP_DROP
    assert daemon.history("edge")[-1]["of"] == 1
    assert outcomes(daemon)[2] == (3, "rolled-back", "loaded")
    daemon.restart(signal.SIGKILL)
    assert daemon.rollback("edge") == 5, "the one before, which is `pass`"
    assert daemon.link("edge")["Source"] == ("builtin", "pass")
    assert daemon.rollback("edge", 4) == 6
    assert daemon.history("edge")[-1]["of"] == 1, "what it brought back first"
    assert map_id(daemon, "policy_by_ethertype") == first
    daemon.detach("edge")
    assert daemon.pinned() == set()


def test_what_cannot_be_gone_back_to(world: World) -> None:
    daemon = world.daemon("--history-kept", "3")
    attach(daemon)
    for name, number in (("edge", 1), ("edge", 2), ("edge", 99)):
        with pytest.raises(Refused) as refusal:
            daemon.rollback(name, number)
        assert refusal.value.name == ("BadOption" if number == 1 else "NoSuchGeneration")
    with pytest.raises(Refused, match="NoSuchGeneration"):
        daemon.rollback("edge")
    with pytest.raises(Refused, match="NoSuchLink"):
        daemon.history("other")
    for _ in range(4):
        daemon.replace("edge", builtin())
    assert [each[0] for each in outcomes(daemon)] == [3, 4, 5]
    pins = {path.name for path in (daemon.pins / "edge" / "kept").iterdir()}
    assert pins == {"program_3", "program_4"}
    with pytest.raises(Refused, match=r"generation 1 of link 'edge' is not kept; .* 5, that are: 3, 4"):
        daemon.rollback("edge", 1)
    with pytest.raises(Refused, match="StaleGeneration"):
        daemon.replace("edge", generation(4), expect=4)
    assert daemon.replace("edge", generation(4), expect=5, message=GLib.Variant("s", "why not")) == 6
    assert daemon.history("edge")[-1]["message"] == "why not"


def test_after_a_reboot_a_generation_is_loaded_again(daemon: Daemon) -> None:
    attach(daemon)
    number = run("bpftool", "prog", "load", program("single"), daemon.world.bpffs / "theirs") or ""
    shown = run("bpftool", "prog", "show", "pinned", daemon.world.bpffs / "theirs")
    daemon.replace("edge", by_id(int(shown.partition(":")[0])))
    daemon.replace("edge", elf(program("policy", ADDED=2)))
    assert not number
    after_reboot(daemon)
    assert outcomes(daemon) == [(1, "replaced", "stored"), (2, "replaced", ""), (3, "running", "")]
    with pytest.raises(Refused, match="NoSuchGeneration"):
        daemon.rollback("edge", 2)
    with opened(daemon, "policy_by_ethertype") as policy:
        policy.put(TEST, XDP_DROP)
    assert daemon.rollback("edge", 1) == 4
    assert run_once(daemon) == XDP_DROP, "it goes on using the maps of the one that ran"
    assert seen(daemon, 1) == 1


def test_nobody_confirms(daemon: Daemon) -> None:
    attach(daemon)
    daemon.replace("edge", builtin(), confirm_within=WITHIN)
    link = daemon.link("edge")
    assert link["State"] == "trial"
    assert link["Trial"]["back_to"] == 1
    assert link["Trial"]["within"] == 2_000_000
    with pytest.raises(Refused, match=r"InTrial: .*bpflinkctl confirm edge"):
        daemon.replace("edge", builtin())
    until(lambda: daemon.link("edge")["Generation"] == 3, "it comes back")
    link = daemon.link("edge")
    assert (link["State"], link["Program"]["name"], link["Trial"]) == ("active", "filter", {})
    assert link["Message"] == "not confirmed within 2 s"
    assert outcomes(daemon)[1] == (2, "expired", "loaded")
    with pytest.raises(Refused, match="NotInTrial"):
        daemon.confirm("edge")
    assert daemon.rollback("edge", 2) == 4


def test_somebody_confirms_or_goes_back(daemon: Daemon) -> None:
    attach(daemon)
    daemon.replace("edge", builtin(), confirm_within=WITHIN)
    daemon.confirm("edge")
    assert (daemon.state("edge"), daemon.link("edge")["Trial"]) == ("active", {})
    daemon.replace("edge", elf(program("policy")), confirm_within=WITHIN)
    assert daemon.rollback("edge") == 4
    assert daemon.link("edge")["Program"]["name"].startswith("pass")
    daemon.replace("edge", generation(1), confirm_within=LONG)
    assert daemon.state("edge") == "trial"
    daemon.confirm("edge")
    time.sleep(2.2)
    assert daemon.link("edge")["Generation"] == 5
    for wrong in (0, 999_999, 86_400_000_001):
        with pytest.raises(Refused, match="BadOption"):
            daemon.replace("edge", builtin(), confirm_within=GLib.Variant("t", wrong))


def test_killed_during_a_trial(daemon: Daemon) -> None:
    attach(daemon)
    daemon.replace("edge", builtin(), confirm_within=WITHIN)
    daemon.kill()
    time.sleep(2.1)
    daemon.start()
    link = daemon.link("edge")
    assert (link["Generation"], link["Program"]["name"], link["State"]) == (3, "filter", "active")
    daemon.replace("edge", builtin(), confirm_within=WITHIN)
    daemon.restart(signal.SIGKILL)
    assert daemon.state("edge") == "trial"
    until(lambda: daemon.link("edge")["Generation"] == 5, "it comes back in the next daemon's time")


def test_rebooted_during_a_trial(daemon: Daemon) -> None:
    attach(daemon)
    daemon.replace("edge", builtin(), confirm_within=LONG)
    after_reboot(daemon)
    link = daemon.link("edge")
    assert (link["Generation"], link["Program"]["name"], link["State"]) == (3, "filter", "active")
    assert "booted anew before generation 2 was confirmed" in link["Message"]
    assert outcomes(daemon)[1] == (2, "expired", "stored")


def talk(world: World, words: list[str], answer: bytes | None) -> tuple[int, str]:
    """bpflinkctl on a terminal; returns its exit code and what it showed."""
    ours, theirs = pty.openpty()
    command = [str(shutil.which("bpflinkctl", path=os.path.dirname(sys.executable))), "--bus", world.bus]
    process = subprocess.Popen([*command, *words], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 4096)
        except OSError:
            break
        if answer is not None and b"[y/N]" in shown:
            os.write(ours, answer)
            answer = None
    os.close(ours)
    return process.wait(20), shown.decode()


@pytest.mark.parametrize(
    ("answer", "code", "generation_after", "says"),
    [
        pytest.param(b"y\n", 0, 2, "edge is confirmed", id="yes"),
        pytest.param(b"\n", 1, 3, "generation 2 was not kept", id="no"),
        pytest.param(None, 1, 3, "not confirmed within 3 s", id="no answer"),
    ],
)
def test_the_operator_is_asked(
    daemon: Daemon, answer: bytes | None, code: int, generation_after: int, says: str
) -> None:
    attach(daemon)
    words = ["replace", "edge", "--builtin", "pass", "--confirm-within", "3s", "-m", "try"]
    ended, shown = talk(daemon.world, words, answer)
    assert "Keep generation 2? [y/N]" in shown
    assert (ended, says in shown) == (code, True), shown
    assert daemon.link("edge")["Generation"] == generation_after


CONDITIONS = ["map:seen[1] > 0", "interface:rx_dropped < 1000000/s"]


def judged(*conditions: str, seconds: int = 3) -> dict[str, GLib.Variant]:
    within = GLib.Variant("t", seconds * 1_000_000)
    return {"confirm_within": within, "confirm_if": GLib.Variant("as", conditions)}


def test_the_daemon_judges(daemon: Daemon) -> None:
    """Something must have been counted, and not too much in any second."""
    attach(daemon)
    with opened(daemon, "policy_by_ethertype") as policy:
        policy.put(TEST, XDP_DROP)
    daemon.replace("edge", elf(program("policy", ADDED=2)), **judged(*CONDITIONS))
    assert daemon.link("edge")["Trial"]["conditions"] == ["map:seen[1] > 0", CONDITIONS[1]]
    daemon.restart(signal.SIGKILL)
    run_once(daemon)
    until(lambda: daemon.state("edge") == "active", "it is confirmed")
    assert daemon.link("edge")["Generation"] == 2
    daemon.replace("edge", elf(program("policy", ADDED=3)), **judged(*CONDITIONS))
    until(lambda: daemon.link("edge")["Generation"] == 4, "nothing was counted, so it is not kept")
    assert daemon.link("edge")["Message"] == "map:seen[1] grew by 0, and map:seen[1] > 0 was to hold"
    daemon.replace("edge", elf(program("policy", ADDED=5)), **judged("map:seen[1] < 5", seconds=600))
    run_once(daemon)
    until(lambda: daemon.link("edge")["Generation"] == 6, "a limit was broken, long before the end")
    assert outcomes(daemon)[4] == (5, "expired", "loaded")


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        pytest.param("map:sean < 1", "no map 'sean'", id="no such map"),
        pytest.param("map:seen[2] < 1", "2 entries", id="no such entry"),
        pytest.param("map:policy_by_ethertype < 1", "of type hash", id="no array"),
        pytest.param("interface:drops < 1", "rx_dropped", id="no such statistic"),
        pytest.param("x" * 1000, "write it as", id="nonsense"),
    ],
)
def test_a_judge_that_cannot_judge(daemon: Daemon, condition: str, says: str) -> None:
    attach(daemon)
    with pytest.raises(Refused) as refusal:
        daemon.replace("edge", elf(program("policy")), **judged(condition))
    assert (refusal.value.name, says in refusal.value.message) == ("BadOption", True), refusal.value
    assert daemon.link("edge")["Generation"] == 1
