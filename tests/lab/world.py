"""The parts of the machine that one test makes for itself, and their removal."""

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from bpflinkd.kernel.cgroup import CgroupTree
from tests.lab.daemon import Daemon

_BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
  </policy>
  <limit name="max_message_unix_fds">64</limit>
</busconfig>
"""


def run(*command: str | Path, **options: object) -> str:
    """Run a command that must succeed; returns what it printed."""
    done = subprocess.run(
        [str(word) for word in command], check=False, capture_output=True, text=True, **options
    )  # type: ignore[call-overload]
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stderr}")
    return str(done.stdout)


def until(condition: Callable[[], bool], what: str, *, seconds: float = 10) -> None:
    """Wait for something that must come true soon."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.01)


class World:
    """A context: a temporary directory, a network namespace, a bpffs, a private bus, cgroups."""

    _count = itertools.count()

    def __init__(self) -> None:
        self._undo = contextlib.ExitStack()
        self.netns = f"bpflinkd-{os.getpid()}-{next(self._count)}"
        self.netns_file = Path("/run/netns") / self.netns

    def __enter__(self) -> "World":
        with self._undo:
            self.dir = Path(tempfile.mkdtemp(prefix="bpflinkd-lab-"))
            # Others than root must reach the bus in it.
            self.dir.chmod(0o755)
            self._undo.callback(shutil.rmtree, self.dir)
            self.bpffs = self.dir / "bpffs"
            self.bpffs.mkdir()
            run("mount", "-t", "bpf", "bpf", self.bpffs)
            # Lazily: what a killed test left open must not keep the rest from being removed.
            self._undo.callback(run, "umount", "--lazy", self.bpffs)
            run("ip", "netns", "add", self.netns)
            self._undo.callback(run, "ip", "netns", "del", self.netns)
            self.ip("link", "set", "lo", "up")
            self.bus = f"unix:path={self.dir}/bus"
            self._start_bus()
            self._undo = self._undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.__exit__(kind, error, trace)

    def at_end(self, function: Callable[[], object]) -> None:
        """Call a function when the world ends, before what was there earlier is removed."""
        self._undo.callback(function)

    # Network

    def ip(self, *words: str) -> str:
        """`ip` inside the namespace."""
        return run("ip", "-n", self.netns, *words)

    def inside(self, *command: str | Path) -> list[str]:
        """A command line that runs inside the network namespace, as a process of its own id."""
        return ["nsenter", f"--net={self.netns_file}", *(str(word) for word in command)]

    def veth(self, name: str, peer: str) -> None:
        """A pair of interfaces, both up."""
        self.ip("link", "add", name, "type", "veth", "peer", "name", peer)
        for end in (name, peer):
            self.ip("link", "set", end, "up")

    # cgroups

    def cgroup(self) -> str:
        """A new cgroup; returns its path from the cgroup v2 root."""
        root = CgroupTree().root
        place = Path(tempfile.mkdtemp(prefix="bpflinkd-lab-", dir=root))
        self._undo.callback(remove_cgroup, place)
        return "/" + place.name

    @staticmethod
    def cgroup_dir(path: str) -> Path:
        """The directory of a cgroup."""
        return Path(f"{CgroupTree().root}{path}")

    # Processes

    def process(self, *command: str | Path, **options: object) -> subprocess.Popen[str]:
        """Start a process; it is ended with the world."""
        started = subprocess.Popen([str(word) for word in command], text=True, **options)  # type: ignore[call-overload]
        self._undo.callback(end, started)
        return started  # type: ignore[no-any-return]

    def daemon(self, *options: str, ready: bool = True, warm: bool = True) -> Daemon:
        """A private bpflinkd in the namespace; ended with the world."""
        daemon = Daemon(self, options, warm=warm)
        self._undo.callback(daemon.end)
        daemon.start(ready=ready)
        return daemon

    def stop_bus(self) -> None:
        """End the private bus."""
        end(self._bus)

    def _start_bus(self) -> None:
        config = self.dir / "bus.conf"
        config.write_text(_BUS_CONFIG.format(path=self.dir / "bus"))
        log = (self.dir / "bus.log").open("w")
        self._undo.callback(log.close)
        self._bus = self.process("dbus-daemon", "--nofork", f"--config-file={config}", stderr=log)
        until((self.dir / "bus").exists, "the private bus")


def end(process: subprocess.Popen[str]) -> None:
    """End a process that we started, gently first."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def remove_cgroup(place: Path) -> None:
    """Remove a cgroup and those below it; processes in it must have ended."""
    if not place.exists():
        return
    for directory, _, _ in os.walk(place, topdown=False):
        Path(directory).rmdir()
