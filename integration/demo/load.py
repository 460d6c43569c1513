"""A real traffic generator (tests/lab/traffic) as a thing to start and stop."""

import subprocess
import sys

from integration.demo.needs import ROOT
from tests.lab import World


class Sender:
    """Sends test frames from an interface as fast as it can until it is stopped."""

    def __init__(self, world: World, interface: str) -> None:
        """Start it; frames flow when this returns."""
        self._process = world.process(
            *world.inside(sys.executable, "-m", "tests.lab.traffic", interface, "0"),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError("the traffic generator did not start")

    def stop(self) -> int:
        """Stop it; returns how many frames the kernel took."""
        if self._process.poll() is not None:
            raise RuntimeError("the traffic generator ended before it was told to")
        said, _ = self._process.communicate("")
        if self._process.returncode != 0:
            raise RuntimeError(f"the traffic generator ended with exit code {self._process.returncode}")
        return int(said)
