"""Makes a few events when told to: `python -m tests.lab.pulse KIND PLACE`, a number on a line of its input.

Answers each line with the number of events that it made. KIND and PLACE are those of
`integration.conformance.load`.
"""

import subprocess
import sys
from pathlib import Path

from integration.conformance.kinds import Kind
from integration.conformance.load import MAKERS

REPO = Path(__file__).parents[2]


class Pulse:
    """The process that makes events for one kind of link; ended with its world."""

    def __init__(self, kind: Kind) -> None:
        words = kind.world.inside(sys.executable, "-m", "tests.lab.pulse", *kind.load())
        self._process = kind.world.process(*words, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def send(self, times: int) -> int:
        """Let it make events; returns how many."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{times}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def main(kind: str, place: str) -> None:
    """Make events on demand until the input ends."""
    once = MAKERS[kind](place)
    for line in sys.stdin:
        print(sum(once() for _ in range(int(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
