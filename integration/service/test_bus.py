"""The system bus starts the service."""

import json

from integration.service.host import SERVICE, Host

_CALL = ("busctl", "--timeout=200", "--json=short", "call", "org.bpflinkd1", "/org/bpflinkd1")


def test_call_over_the_bus_starts_a_stopped_service(host: Host) -> None:
    host.run("systemctl", "stop", SERVICE)
    assert host.unit("ActiveState")["ActiveState"] == "inactive"
    answer = host.run(*_CALL, "org.freedesktop.DBus.Introspectable", "Introspect", seconds=240).stdout
    assert "org.bpflinkd1.Manager" in json.loads(answer)["data"][0]
    assert host.unit("ActiveState")["ActiveState"] == "active"
