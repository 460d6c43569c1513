"""What the service may still do when it is confined, and how confined it is."""

import re

from integration.service.disk import BESIDE
from integration.service.host import KPROBE, SERVICE, Host

MOST_EXPOSURE = 3.0
FUNCTION = "__x64_sys_sched_rr_get_interval"
NUMBER = 148
"""Of that system call on x86-64; nothing else makes it."""
HITS = 25
_CALLS = f"import ctypes; c = ctypes.CDLL(None); [c.syscall({NUMBER}, 0, 0) for _ in range({HITS})]"


def test_systemd_finds_little_exposure(host: Host) -> None:
    said = host.run("systemd-analyze", "security", "--no-pager", SERVICE).stdout
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert float(exposure) <= MOST_EXPOSURE, said


def test_kprobe_is_attached_and_counts_each_hit(host: Host) -> None:
    host.undo("bpflinkctl", "detach", "calls")
    host.ctl("attach", "calls", f"kprobe:{FUNCTION}", "--object", KPROBE)
    counter = host.counter(host.link("calls"), "hits")
    before = counter()
    host.run("/usr/bin/python3", "-I", "-c", _CALLS)
    assert counter() - before == HITS


def test_kprobe_whose_pins_were_removed_comes_back_from_systemd(host: Host) -> None:
    """Its slot too: without a pin or a descriptor of it every hit would run nothing."""
    host.undo("bpflinkctl", "detach", "calls")
    host.ctl("attach", "calls", f"kprobe:{FUNCTION}", "--object", KPROBE)
    link = host.link("calls")
    counter = host.counter(link, "hits")
    script = 'kill -STOP "$1" && rm -r "$2" && kill -KILL "$1"'
    pid = host.main_pid
    host.run("sh", "-c", script, "sh", str(pid), link["pins"])
    host.run("/usr/bin/python3", "-I", "-c", _CALLS)
    host.until_another_runs(pid)
    host.run("/usr/bin/python3", "-I", "-c", _CALLS)
    assert counter() == 2 * HITS
    after = host.link("calls")
    assert (after["state"], after["kernel_link_id"], after["missed"]) == ("active", link["kernel_link_id"], 0)
    assert {"link", "slot", "program", "maps"} <= set(host.run("ls", "-1", after["pins"]).stdout.split())


def test_daemon_may_ask_not_to_be_preempted(host: Host) -> None:
    limits = host.run("cat", f"/proc/{host.main_pid}/limits").stdout
    (line,) = [line for line in limits.splitlines() if line.startswith("Max realtime priority")]
    assert line.split()[3:5] == ["1", "1"]


def test_c_source_is_compiled_and_counts_each_frame(host: Host) -> None:
    # Under emulation the first compile takes longer than it may by default.
    host.drop_in("[Service]\nExecStart=\nExecStart=/usr/bin/bpflinkd --compile-timeout 400\n")
    host.run("systemctl", "restart", SERVICE)
    wire = host.wire()
    host.undo("bpflinkctl", "detach", "compiled")
    words = ("--source", f"{BESIDE}/count.c", "--timeout", "500")
    host.ctl("attach", "compiled", f"xdp:{wire[0]}", *words, seconds=550)
    counter = host.counter(host.link("compiled"), "hits")
    with host.traffic(wire) as traffic:
        pass
    assert (counter(), traffic.passed) == (traffic.sent, 0)
    assert traffic.sent > 0
