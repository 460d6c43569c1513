"""Where the story plays: a world of its own, a daemon, two filters, and the tools to handle them."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from integration.demo.interrupts import Interrupts
from integration.demo.load import Sender
from integration.demo.narrator import Narrator
from integration.demo.needs import BPFLINKCTL
from integration.demo.residue import Residue
from tests.lab import Daemon, World
from tests.lab.compiled import PROGRAMS, compile_c
from tests.lab.maps import Counters

LINK: Final = "edge"
"""The link that the story is about."""

NEAR: Final = "v0"
"""The interface whose XDP hook it is; frames arrive here."""

FAR: Final = "v1"
"""Its veth peer, from which the frames are sent."""

SWEEP: Final = 0.5
"""Seconds between two sweeps of the daemon."""

_PATIENCE: Final = 20.0


class Broken(Exception):
    """A promise was not kept: a sentence that says how."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A loaded counting program, pinned, and its counter of test frames."""

    name: str
    pin: Path
    counters: Counters

    @property
    def counted(self) -> int:
        """Test frames so far."""
        return self.counters[0]


class Stage:
    """What every act works with."""

    def __init__(self, world: World, residue: Residue, narrator: Narrator, interrupts: Interrupts) -> None:
        """Make the interfaces, compile the programs, start the daemon."""
        self.world = world
        self.interrupts = interrupts
        self.filters: list[Filter] = []
        self._residue = residue
        self._narrator = narrator
        world.veth(NEAR, FAR)
        for name in ("count", "single"):
            interrupts.check()
            compile_c(PROGRAMS / f"{name}.bpf.c", world.dir / f"{name}.bpf.o")
        interrupts.check()
        self.daemon: Daemon = world.daemon("--sweep-interval", str(SWEEP))
        interrupts.check()

    def close(self) -> None:
        """Give up what is held outside the world."""
        for held in self.filters:
            held.counters.close()

    # Narrated commands

    def tell(self, sentence: str) -> None:
        """Say something, and stop where somebody asked for it."""
        self.interrupts.check()
        self._narrator.tell(sentence)

    def show(self, text: str) -> None:
        """Show what a program in the background printed."""
        self._narrator.output(text)

    def ctl(self, *words: str, code: int = 0) -> str:
        """Run bpflinkctl and show it; it must end with this exit code."""
        return self._run(["bpflinkctl", *words], [str(BPFLINKCTL), "--bus", self.world.bus, *words], code)

    def shell(self, *words: str) -> str:
        """Run a tool that is not ours and show it; it must succeed."""
        return self._run(words, words, 0)

    def _run(self, shown: list[str] | tuple[str, ...], words: list[str] | tuple[str, ...], code: int) -> str:
        self._narrator.command(shown)
        try:
            done = subprocess.run(
                words,
                check=False,
                cwd=self.world.dir,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=_PATIENCE,
            )
        except subprocess.TimeoutExpired as late:
            raise Broken(f"`{' '.join(shown)}` did not end within {late.timeout:g} s") from None
        self._narrator.output(done.stdout)
        if code != 0 and done.returncode == code:
            self._narrator.output(f"(exit code {code})", "dim")
        self.interrupts.check()
        self.hold(
            done.returncode == code, f"`{' '.join(shown)}` ended with exit code {done.returncode}, not {code}"
        )
        return done.stdout

    def cgroup(self) -> str:
        """A new cgroup; returns its path from the cgroup v2 root."""
        path = self.world.cgroup()
        self._residue.add_directory(self.world.cgroup_dir(path))
        return path

    # Facts, straight from D-Bus

    def link(self, name: str = LINK) -> dict[str, Any]:
        """All properties of a link."""
        properties = self.daemon.link(name)
        self._residue.add_link(properties["KernelLinkId"])
        return properties

    def hold(self, truth: bool, otherwise: str) -> None:
        """Insist on a promise."""
        if not truth:
            raise Broken(otherwise)

    def await_state(self, state: str, name: str = LINK) -> dict[str, Any]:
        """Wait until the daemon sees a state; returns the link's properties."""
        if not self.interrupts.wait_for(lambda: self.daemon.state(name) == state):
            now = self.link(name)
            raise Broken(f"link {name} is {now['State']} ({now['Reason'] or 'no reason given'}), not {state}")
        return self.link(name)

    # Load

    def sender(self) -> Sender:
        """Begin to send test frames to the hook."""
        self.interrupts.check()
        return Sender(self.world, FAR)

    def counted(self) -> int:
        """Test frames that the two filters have counted so far."""
        return sum(each.counted for each in self.filters)

    def settled(self, count: Callable[[], int], wanted: int) -> int:
        """A count, once the frames that were sent have arrived; at most a second later."""
        self.interrupts.wait_for(lambda: count() == wanted, 1)
        return count()
