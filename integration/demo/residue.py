"""What the demo made on this machine, and whether any of it is still there."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.lab import World

_PATIENCE: Final = 5.0


class Residue:
    """Everything to look for once the world is gone."""

    def __init__(self, world: World) -> None:
        """Take note of the network namespace; the world need not be up yet."""
        self._places = [Path("/run/netns") / world.netns]
        self._links: set[int] = set()

    def add_directory(self, place: Path) -> None:
        """Look for a directory, and for mounts in it, as well."""
        self._places.append(place)

    def add_link(self, kernel_id: int) -> None:
        """Look for a bpf_link as well; 0 is none."""
        if kernel_id:
            self._links.add(kernel_id)

    def left(self) -> list[str]:
        """What is left. The kernel frees links and namespaces a little later, so look for a while."""
        deadline = time.monotonic() + _PATIENCE
        while (found := list(self._look())) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def _look(self) -> Iterator[str]:
        mounts = Path("/proc/self/mountinfo").read_text()
        for place in self._places:
            if place.exists():
                yield str(place)
            if f" {place}" in mounts:
                yield f"a mount at {place}"
        yield from _processes()
        for link in self._links:
            shown = subprocess.run(
                ["bpftool", "link", "show", "id", str(link)], check=False, capture_output=True
            )
            if shown.returncode == 0:
                yield f"bpf_link {link}"


def _processes() -> Iterator[str]:
    """The other processes of our session: all that we started, and what those started."""
    session = os.getsid(0)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, _, after = stat.read_text().rpartition(") ")
        except OSError:
            continue  # it has just ended
        number = int(stat.parent.name)
        if int(after.split()[3]) == session and number != os.getpid():
            yield f"process {number} ({before.partition('(')[2]})"
