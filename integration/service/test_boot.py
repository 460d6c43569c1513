"""After `make install` and `systemctl enable`, the first boot."""

import json

from integration.service.host import NOBODY, SERVICE, Host


def test_no_unit_fails_and_the_service_is_active(host: Host) -> None:
    state = host.run("systemctl", "is-system-running", "--wait", check=False, seconds=300).stdout.strip()
    failed = host.run("systemctl", "--failed", "--plain", "--no-legend").stdout
    assert (state, failed) == ("running", "")
    assert host.unit("ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}


def test_boot_meets_no_ordering_cycle(host: Host) -> None:
    said = host.run("journalctl", "--boot", "--no-pager", "-o", "cat", "_PID=1").stdout
    assert "ordering cycle" not in said


def test_first_packet_is_filtered_after_boot(host: Host) -> None:
    first = host.read_traffic("/run/first-test.json")
    assert first.sent == 200
    assert first.passed == 0
    assert host.counter(host.link("edge-filter"))() == first.sent


def test_service_is_ready_before_the_network_is_configured(host: Host) -> None:
    ready = host.unit("ActiveEnterTimestampMonotonic")["ActiveEnterTimestampMonotonic"]
    network = host.unit("ExecMainStartTimestampMonotonic", unit="test-network@test.service")
    assert 0 < int(ready) < int(network["ExecMainStartTimestampMonotonic"])


def test_root_asks_for_the_status_on_the_system_bus(host: Host) -> None:
    status = json.loads(host.ctl("status", "--json").stdout)
    assert status["pid"] == host.main_pid
    assert status["paths"]["state"] == "/var/lib/bpflinkd"
    assert status["features"]["xdp"]["supported"]


def test_others_than_root_may_read_and_are_refused_a_change(host: Host) -> None:
    wire = host.wire()
    host.attach("readable", f"xdp:{wire[0]}")
    assert "readable" in host.ctl("list", user=NOBODY).stdout
    refused = host.ctl("attach", "mine", f"xdp:{wire[0]}", "--builtin", "pass", check=False, user=NOBODY)
    assert refused.code == 4, refused
    assert "mine" not in host.links()


def test_service_is_enabled(host: Host) -> None:
    assert host.run("systemctl", "is-enabled", SERVICE).stdout.strip() == "enabled"
