"""Strangers are known by their units, from inside the daemon's own sandbox."""

import json
from typing import Any

import pytest

from integration.service.host import KPROBE, SERVICE, Host, until

THIEF = "thief.service"


def foreign(host: Host, name: str) -> list[dict[str, Any]]:
    """The foreign changes of a link, from the event log."""
    lines = host.ctl("events", name, "--since", "boot", "--no-follow", "--json").stdout.splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "foreign_change"]


@pytest.fixture(autouse=True)
def _live(host: Host) -> None:
    """Debian's kernel allows it, and so must the unit."""
    source = json.loads(host.ctl("status", "--json").stdout)["watch_sources"]["sentinel"]
    assert source["live"], source["detail"]


def detach_by_a_unit(host: Host, link_id: int) -> None:
    run = ("systemd-run", "--quiet", f"--unit={THIEF}", "--collect", "--wait")
    host.run(*run, "bpftool", "link", "detach", "id", str(link_id))


def test_thief_is_known_by_its_unit(host: Host) -> None:
    hook, _ = host.wire()
    link = host.attach("edge", f"xdp:{hook}")
    detach_by_a_unit(host, link["kernel_link_id"])
    until(lambda: bool(foreign(host, "edge")), "told", seconds=30)
    (found,) = foreign(host, "edge")
    assert (found["kind"], found["source"]) == ("link-detached", "sentinel")
    assert (found["who"]["unit"], found["who"]["comm"]) == (THIEF, "bpftool")
    assert THIEF in host.ctl("blame", "edge").stdout


def test_thief_in_the_absence_of_the_daemon_is_known(host: Host) -> None:
    hook, _ = host.wire()
    link = host.attach("absent", f"xdp:{hook}")
    host.run("systemctl", "stop", SERVICE)
    detach_by_a_unit(host, link["kernel_link_id"])
    host.run("systemctl", "start", SERVICE)
    (found,) = foreign(host, "absent")
    assert (found["kind"], found["who"]["unit"]) == ("link-detached", THIEF)
    assert host.link("absent")["state"] == "severed"
    host.run("systemctl", "restart", SERVICE)
    assert len(foreign(host, "absent")) == 1, "told once"


def test_systemd_itself_puts_programs_beside_ours(host: Host) -> None:
    unit = "bystander.service"
    host.run("systemd-run", "--quiet", f"--unit={unit}", "--property=DynamicUser=yes", "sleep", "600")
    host.undo("systemctl", "stop", unit)
    host.attach("beside", f"cgroup:/system.slice/{unit}", "egress_count", "--attach-type", "egress")
    host.run("systemctl", "set-property", "--runtime", unit, "IPAddressDeny=any")
    until(lambda: bool(foreign(host, "beside")), "told", seconds=30)
    host.run("systemctl", "set-property", "--runtime", unit, "IPAddressDeny=")
    until(lambda: len(foreign(host, "beside")) > 1, "told", seconds=30)
    found = foreign(host, "beside")
    assert [each["kind"] for each in found] == ["neighbour-added", "neighbour-removed"]
    for each in found:
        who = each["who"]
        assert (who["pid"], who["comm"], who["unit"]) == (1, "systemd", "init.scope")
        assert each["source"] == "sentinel"
    assert host.link("beside")["state"] == "active"


def test_kprobes_that_are_switched_off_are_told(host: Host) -> None:
    host.undo("bpflinkctl", "detach", "probe")
    host.ctl("attach", "probe", "kprobe:do_unlinkat", "--object", KPROBE)
    switch = "/sys/kernel/debug/kprobes/enabled"
    host.undo("sh", "-c", f"echo 1 > {switch}")
    host.run("sh", "-c", f"echo 0 > {switch}")
    until(
        lambda: [each["kind"] for each in foreign(host, "probe")] == ["kprobes-disabled"], "told", seconds=30
    )
    assert host.link("probe")["state"] == "severed"
    host.run("sh", "-c", f"echo 1 > {switch}")
    host.until_active("probe")


def test_doctor_finds_nothing_to_complain_of_on_a_fresh_host(host: Host) -> None:
    done = host.ctl("doctor", "--json", check=False)
    findings = json.loads(done.stdout)["findings"]
    assert [each for each in findings if each["level"] == "fault"] == []
    assert not any("_sentinel" in each["where"] for each in findings), findings
