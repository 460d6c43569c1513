"""The system bus starts the service, and lets through what it should."""

import json

from integration.service.host import SERVICE, Host

_CALL = ("busctl", "--timeout=200", "--json=short", "call", "org.bpflinkd1", "/org/bpflinkd1")

_AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def test_call_over_the_bus_starts_a_stopped_service(host: Host) -> None:
    host.run("systemctl", "stop", SERVICE)
    assert host.unit("ActiveState")["ActiveState"] == "inactive"
    answer = host.run(*_CALL, "org.freedesktop.DBus.Introspectable", "Introspect", seconds=240).stdout
    assert "org.bpflinkd1.Manager" in json.loads(answer)["data"][0]
    assert host.unit("ActiveState")["ActiveState"] == "active"


def test_nobody_but_root_takes_the_name(host: Host) -> None:
    words = ("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "RequestName", "su", "org.bpflinkd1", "0")
    done = host.run(*_AS_NOBODY, "busctl", "call", *words, check=False)
    assert (done.code, done.stderr) == (1, "Call failed: Access denied\n")


def test_calls_of_other_interfaces_do_not_get_through(host: Host) -> None:
    ping = host.run(*_AS_NOBODY, *_CALL, "org.freedesktop.DBus.Peer", "Ping", check=False)
    assert ping.code == 0, ping
    other = host.run(*_AS_NOBODY, *_CALL, "org.bpflinkd1.Other", "Ping", check=False)
    assert (other.code, other.stderr) == (1, "Call failed: Access denied\n")
