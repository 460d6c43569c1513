"""Links live longer than the daemon, however it ends. Every frame is counted, and none goes past."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from integration.service.host import SERVICE, Host, Traffic


@dataclass
class Watched:
    """A link that drops and counts each frame on a wire."""

    host: Host
    wire: tuple[str, str]
    before: dict[str, Any]
    counter: Callable[[], int]

    def check(self, traffic: Traffic) -> None:
        """Every frame was counted, and the link is the same to the kernel and to the daemon."""
        assert traffic.sent > 0
        assert (self.counter(), traffic.passed) == (traffic.sent, 0)
        after = self.host.link(self.before["name"])
        same = ("kernel_link_id", "state", "program", "generation")
        assert {key: after[key] for key in same} == {key: self.before[key] for key in same}
        pins = self.host.run("ls", "-1", after["pins"]).stdout.split()
        assert {"link", "program"} <= set(pins)


@pytest.fixture
def watched(host: Host) -> Watched:
    wire = host.wire()
    link = host.attach("watched", f"xdp:{wire[0]}")
    return Watched(host=host, wire=wire, before=link, counter=host.counter(link))


def test_restart_misses_no_packet(host: Host, watched: Watched) -> None:
    pid = host.main_pid
    with host.traffic(watched.wire) as traffic:
        host.run("systemctl", "restart", SERVICE)
        assert host.main_pid not in {0, pid}
    watched.check(traffic)


def test_killed_daemon_is_started_again_and_no_packet_is_missed(host: Host, watched: Watched) -> None:
    pid = host.main_pid
    with host.traffic(watched.wire) as traffic:
        host.signal(pid, "KILL")
        host.until_another_runs(pid)
    watched.check(traffic)


def test_programs_go_on_while_the_service_is_stopped(host: Host, watched: Watched) -> None:
    host.run("systemctl", "stop", SERVICE)
    assert host.main_pid == 0
    with host.traffic(watched.wire) as stopped:
        pass
    assert stopped.sent > 0
    assert (watched.counter(), stopped.passed) == (stopped.sent, 0)
    host.run("systemctl", "start", SERVICE)
    watched.check(stopped)


def test_link_whose_pins_were_removed_comes_back_from_systemd(host: Host, watched: Watched) -> None:
    # Stopped by a signal first: it must not notice and pin anew before it is restarted.
    script = 'kill -STOP "$1" && rm -r "$2" && systemctl restart "$3"'
    with host.traffic(watched.wire) as traffic:
        host.run("sh", "-c", script, "sh", str(host.main_pid), watched.before["pins"], SERVICE)
    watched.check(traffic)


def test_link_whose_pins_were_removed_outlives_kill_9(host: Host, watched: Watched) -> None:
    pid = host.main_pid
    script = 'kill -STOP "$1" && rm -r "$2" && kill -KILL "$1"'
    with host.traffic(watched.wire) as traffic:
        host.run("sh", "-c", script, "sh", str(pid), watched.before["pins"])
        host.until_another_runs(pid)
    watched.check(traffic)


def test_hung_daemon_is_ended_by_the_watchdog_and_started_again(host: Host, watched: Watched) -> None:
    assert host.unit("WatchdogUSec")["WatchdogUSec"] not in {"0", "infinity"}
    # Under emulation a start keeps the loop from its turn for seconds.
    host.drop_in("[Service]\nWatchdogSec=15\n")
    host.run("systemctl", "restart", SERVICE)
    pid, mark = host.main_pid, host.journal_mark()
    host.run("sleep", "20")
    assert host.main_pid == pid, "the watchdog ends a daemon that is well"
    with host.traffic(watched.wire) as traffic:
        host.signal(pid, "STOP")
        host.until_another_runs(pid)
    said = [str(entry["MESSAGE"]) for entry in host.journal(mark, _PID="1", UNIT=SERVICE)]
    assert any("Watchdog timeout" in line for line in said), said
    watched.check(traffic)
