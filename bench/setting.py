"""What the benchmarks stand on: worlds, loaded programs, a thousand links. Made when first asked for."""

import contextlib
from functools import cached_property
from pathlib import Path
from types import TracebackType

from bench.client import Client
from tests.lab import World
from tests.lab.compiled import compile_c
from tests.lab.daemon import pinned
from tests.lab.world import run

_PROGRAMS = Path(__file__).parent / "programs"
LINKS = 1000


class Place:
    """A world with one daemon, a client, and loaded programs."""

    def __init__(self, world: World, *options: str) -> None:
        self.world = world
        self.programs = world.bpffs / "programs"
        self.programs.mkdir()
        # No sweep of its own accord: that one is measured by itself.
        self.daemon = world.daemon(*(options or ("--sweep-interval", "3600")))
        self.client = Client(world.bus)

    def load(self, source: str, name: str) -> Path:
        """Load a program of bench/programs once more, with maps of its own; returns its pin."""
        compiled = self.world.dir / f"{source}.bpf.o"
        if not compiled.exists():
            compile_c(_PROGRAMS / f"{source}.bpf.c", compiled)
        pin = self.programs / name
        run("bpftool", "prog", "load", compiled, pin, "pinmaps", self.maps(pin))
        return pin

    def pair(self, source: str, name: str) -> tuple[Path, Path]:
        """The same program loaded twice."""
        return self.load(source, f"{name}_a"), self.load(source, f"{name}_b")

    @staticmethod
    def maps(pin: Path) -> Path:
        """Where the maps of a loaded program are pinned."""
        return pin.with_name(f"{pin.name}_maps")


class Setting:
    """A context that holds the places; everything is removed with it."""

    def __init__(self) -> None:
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> "Setting":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.__exit__(kind, error, trace)

    @cached_property
    def small(self) -> Place:
        """A daemon without links, for a benchmark to make its own in."""
        return Place(self._undo.enter_context(World()))

    @cached_property
    def thousand(self) -> Place:
        """A daemon with LINKS cgroup links, each on a cgroup of its own."""
        place = Place(self._undo.enter_context(World()))
        parent = place.world.cgroup()
        program = pinned(place.load("egress", "egress"))
        for number in range(LINKS):
            path = f"{parent}/group-{number:04}"
            place.world.cgroup_dir(path).mkdir()
            place.daemon.attach(f"egress-{number:04}", {"cgroup": path, "attach_type": "egress"}, program)
        return place
