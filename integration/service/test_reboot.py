"""What a reboot brings back. The guest boots anew once, for all tests here."""

from typing import Any, TypeAlias

import pytest

from integration.service.guest import Guest
from integration.service.host import COUNT, Host

ANOTHER = "run-time"
EPHEMERAL = "for-now"
COUNT_NEW = ("--object", COUNT, "--program", "count_new")
Links: TypeAlias = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def before(machine: Guest) -> Links:
    """The links of before the reboot: declared, made at run time, and for this boot only."""
    host = Host(machine)
    host.ensure_running()
    host.ctl("attach", ANOTHER, "xdp:run0", *COUNT_NEW)
    host.ctl("attach", EPHEMERAL, "xdp:run1", *COUNT_NEW, "--ephemeral", check=False)
    found = host.links()
    booted = machine.boot_id
    machine.reboot()
    assert machine.boot_id != booted
    return found


def test_link_made_at_run_time_is_back_before_the_first_packet(host: Host, before: Links) -> None:
    link = host.link(ANOTHER)
    assert link["state"] == "active"
    assert link["program"]["tag"] == before[ANOTHER]["program"]["tag"]
    first = host.read_traffic("/run/first-run.json")
    assert (first.sent, first.passed) == (200, 0)
    assert host.counter(link)() == first.sent


def test_declared_link_is_back_before_the_first_packet(host: Host, before: Links) -> None:
    assert before.get("edge-filter", {}).get("state") == "active", "there was none before the reboot"
    first = host.read_traffic("/run/first-test.json")
    assert (first.sent, first.passed) == (200, 0)
    assert host.counter(host.link("edge-filter"))() == first.sent


def test_ephemeral_link_is_gone(host: Host, before: Links) -> None:
    assert before.get(EPHEMERAL, {}).get("state") == "active", "there was none before the reboot"
    assert EPHEMERAL not in host.links()
    assert "prog/xdp" not in host.run("ip", "link", "show", "run1").stdout


def test_no_unit_fails_in_the_second_boot(host: Host, before: Links) -> None:
    assert before
    state = host.run("systemctl", "is-system-running", "--wait", check=False, seconds=300).stdout.strip()
    assert state == "running", host.run("systemctl", "--failed", "--plain").stdout
