"""What `tests.lab.warm` forks is what exec would have started, and ends as that would."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Daemon, World
from tests.lab.warm import Process
from tests.lab.world import until

OF_STATUS = (
    *("Name", "Umask", "TracerPid", "Uid", "Gid", "Groups", "Threads", "Cap", "NoNewPrivs", "Seccomp"),
    *("SigBlk", "SigIgn", "SigCgt", "ShdPnd", "SigPnd", "Cpus_allowed", "Mems_allowed"),
)
OF_STAT = {"process group": 2, "session": 3, "terminal": 4, "priority": 15, "nice": 16}
"""proc(5) counts from the state, the third field, on."""


def settled(daemon: Daemon) -> dict[str, Any]:
    """What is seen of a daemon that is ready, once that is the same for half a second."""
    found = [seen(daemon)]

    def same() -> bool:
        time.sleep(0.1)
        found.append(seen(daemon))
        return found[-5:] == found[-1:] * 5

    until(same, "the daemon has nothing to do")
    return found[-1]


def seen(daemon: Daemon) -> dict[str, Any]:
    """What the kernel says of it now, but for its memory, parent and command line."""
    assert daemon.process
    place = Path(f"/proc/{daemon.process.pid}")
    lines = (place / "status").read_text().splitlines()
    stat = (place / "stat").read_text().rpartition(")")[2].split()
    return {
        "status": [line for line in lines if line.startswith(OF_STATUS)],
        "stat": {name: stat[index] for name, index in OF_STAT.items()},
        # Pipes and sockets have numbers of their own.
        "files": {fd.name: os.readlink(fd).partition(":[")[0] for fd in (place / "fd").iterdir()},
        "streams": [os.readlink(place / "fd" / number) for number in "012"],
        "places": {name: os.readlink(place / name) for name in ("cwd", "root", "exe")},
        "namespaces": {each.name: os.readlink(each) for each in (place / "ns").iterdir()},
        **{name: (place / name).read_text() for name in ("limits", "cgroup", "oom_score_adj", "comm")},
    }


def test_a_forked_daemon_is_what_exec_would_have_started(world: World) -> None:
    found = []
    for warm in (False, True, True):
        daemon = world.daemon("--sweep-interval", "3600", warm=warm)
        assert isinstance(daemon.process, Process) == warm
        found.append(settled(daemon))
        daemon.end()
    cold, *forked = found
    assert forked == [cold, cold]


@pytest.mark.parametrize("warm", [False, True], ids=["by exec", "forked"])
def test_it_has_the_environment_and_the_directory_of_now(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, warm: bool
) -> None:
    world.daemon(warm=warm).end()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.chdir(tmp_path)
        daemon = Daemon(world, ["--state-dir", "here"], warm=warm)
        world.at_end(daemon.end)
        daemon.start()
        assert b"STATUS=" in manager.recv(4096)
    assert (tmp_path / "here" / "bpflinkd.sqlite").exists()


ENDS: dict[str, Callable[[Daemon], int]] = {
    "asked to": Daemon.end,
    "interrupted": lambda daemon: daemon.end(signal.SIGINT),
    "killed": lambda daemon: daemon.end(signal.SIGKILL),
    "aborted by the watchdog": lambda daemon: daemon.end(signal.SIGABRT),
}


@pytest.mark.parametrize("how", ENDS)
def test_it_ends_as_a_child_would(world: World, how: str) -> None:
    codes = []
    for warm in (False, True):
        daemon = world.daemon(warm=warm)
        process = daemon.process
        assert process
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        codes.append(ENDS[how](daemon))
        assert process.poll() == codes[-1]
        process.kill()
        assert not Path(f"/proc/{process.pid}").exists()
    assert codes[0] == codes[1]


def test_a_start_that_fails_says_so_and_has_its_code(world: World) -> None:
    world.daemon()
    codes, said = [], []
    for warm in (False, True):
        second = Daemon(world, warm=warm)
        second.start(ready=False)
        assert second.process
        codes.append(second.process.wait(20))
        said.append(second.said().splitlines())
    assert codes == [1, 1]
    assert said[1] == [*said[0], said[0][-1]]
    assert "another bpflinkd uses the state directory" in said[1][-1]
