"""The kinds of link, each with a target, a load that can be counted, and a target that comes and goes."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab import World
from tests.lab.compiled import object_of
from tests.lab.maps import Counters
from tests.lab.world import end, remove_cgroup, run

REPO = Path(__file__).parents[2]
PROGRAMS = Path(__file__).with_name("programs")
MODULE = "dummy"
"""A module of every Debian kernel, with a function that is called for each frame sent."""
MODULE_FUNCTION = "dummy_xmit"


def compiled(name: str) -> Path:
    """The object of `programs/NAME.bpf.c`."""
    return object_of(PROGRAMS / f"{name}.bpf.c")


@dataclass(frozen=True)
class Loaded:
    """A program that somebody else has loaded and pinned, with its counter."""

    pin: Path
    hits: Counters


def loaded(world: World, name: str, number: int) -> Loaded:
    """Load `programs/NAME.bpf.c` with bpftool, as often as it is asked for: each has a map of its own."""
    place = world.bpffs / f"loaded_{name}_{number}"
    if not place.exists():
        run("bpftool", "prog", "loadall", compiled(name), place, "pinmaps", f"{place}_maps")
    return Loaded(pin=place / "count", hits=Counters(Path(f"{place}_maps/hits")))


class Kind:
    """One kind of link in one world."""

    feature: str
    """The daemon's word for it."""
    program: str
    """The object whose program counts."""
    link_type: str
    """bpftool's word for the kernel's link."""

    def __init__(self, world: World) -> None:
        self.world = world

    def target(self) -> dict[str, str]:
        """A target that is there."""
        raise NotImplementedError

    def load(self) -> tuple[str, str]:
        """Arguments of `integration.conformance.load`."""
        raise NotImplementedError

    def passing(self) -> dict[str, str]:
        """A target that comes and goes; not there yet."""
        raise NotImplementedError

    def appear(self) -> tuple[str, str]:
        """Let it come; returns the load for it."""
        raise NotImplementedError

    def vanish(self) -> None:
        """Let it go."""
        raise NotImplementedError

    @contextlib.contextmanager
    def under_load(self, load: tuple[str, str] | None = None, *, gently: bool = False) -> Iterator["Load"]:
        """Events until the context ends: as fast as they can be made, or so that others get on too."""
        words = self.world.inside(
            sys.executable,
            "-S",  # it needs Python's own modules only; looking for others takes most of its start
            "-m",
            "integration.conformance.load",
            *(load or self.load()),
            *(["gently"] if gently else []),
        )
        process = subprocess.Popen(words, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin
        assert process.stdout
        try:
            assert process.stdout.readline() == "going\n"
            running = Load()
            yield running
            process.stdin.close()
            made = process.stdout.read()
            assert process.wait(60) == 0, "the load broke: what it said is above"
            running.events = int(made)
        finally:
            end(process)


class Load:
    """How many events there were; known when the context has ended."""

    events = 0


class Xdp(Kind):
    feature = program = link_type = "xdp"
    mode = "native"
    interfaces = ("v0", "v1")

    def target(self) -> dict[str, str]:
        return {"xdp": self.interfaces[0], "mode": self.mode}

    def load(self) -> tuple[str, str]:
        return "xdp", self.interfaces[1]

    def passing(self) -> dict[str, str]:
        return {"xdp": "late0", "mode": self.mode}

    def appear(self) -> tuple[str, str]:
        self.world.veth("late0", "late1")
        return "xdp", "late1"

    def vanish(self) -> None:
        self.world.ip("link", "del", "late0")


class XdpGeneric(Xdp):
    mode = "generic"
    interfaces = ("g0", "g1")


class Cgroup(Kind):
    feature = program = link_type = "cgroup"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._path = world.cgroup()
        self._late = world.cgroup_dir(world.cgroup())
        self._late.rmdir()

    def target(self) -> dict[str, str]:
        return {"cgroup": self._path, "attach_type": "egress"}

    def load(self) -> tuple[str, str]:
        return "cgroup", str(self.world.cgroup_dir(self._path))

    def passing(self) -> dict[str, str]:
        return {"cgroup": f"/{self._late.name}", "attach_type": "egress"}

    def appear(self) -> tuple[str, str]:
        self._late.mkdir()
        return "cgroup", str(self._late)

    def vanish(self) -> None:
        remove_cgroup(self._late)


class Kprobe(Kind):
    feature = program = "kprobe"
    link_type = "perf_event"
    word = "kprobe"
    # Functions that nothing else on a machine calls, others for each kind.
    function = "__x64_sys_sched_rr_get_interval"

    def target(self) -> dict[str, str]:
        return {self.word: self.function}

    def load(self) -> tuple[str, str]:
        return "calls", self.function

    def passing(self) -> dict[str, str]:
        # Another test may have left the module loaded.
        if self._has_interface():
            self.world.ip("link", "del", "d0")
        run("modprobe", "-r", MODULE)
        return {self.word: MODULE_FUNCTION}

    def appear(self) -> tuple[str, str]:
        run("modprobe", MODULE, "numdummies=0")
        self.world.ip("link", "add", "d0", "type", "dummy")
        self.world.ip("link", "set", "d0", "up")
        return "xdp", "d0"

    def vanish(self) -> None:
        self.world.ip("link", "del", "d0")
        run("modprobe", "-r", MODULE)

    def _has_interface(self) -> bool:
        return ": d0:" in self.world.ip("-o", "link")


class Kretprobe(Kprobe):
    word = "kretprobe"
    function = "__x64_sys_sched_getparam"


class KprobeMulti(Kprobe):
    feature = "kprobe-multi"
    program = "kprobe_multi"
    link_type = "kprobe_multi"
    word = "kprobe-multi"
    function = "__x64_sys_sched_get_priority_m*"


class KretprobeMulti(KprobeMulti):
    word = "kretprobe-multi"
    function = "__x64_sys_timer_get*"


KINDS: dict[str, type[Kind]] = {
    "xdp native": Xdp,
    "xdp generic": XdpGeneric,
    "cgroup": Cgroup,
    "kprobe": Kprobe,
    "kretprobe": Kretprobe,
    "kprobe-multi": KprobeMulti,
    "kretprobe-multi": KretprobeMulti,
}
