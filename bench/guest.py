"""`python -m bench.guest [NAME...]`: the benchmarks that need kprobes, on a Debian kernel in a guest.

Emulated, so only what is measured in one run can be compared: ratios, and counts.
"""

import sys

from bench.__main__ import KPROBE_BENCHMARKS
from integration.guest import kernels, machine

_SUITE = "bookworm-backports"
_SECONDS = 1800.0


def main() -> int:
    """Exit code of the benchmarks."""
    kernel = kernels.get(_SUITE)
    command = [sys.executable, "-m", "bench", *(sys.argv[1:] or KPROBE_BENCHMARKS)]
    results = machine.REPO / "build" / "guests" / "bench"
    return machine.run(kernel, command, results, seconds=_SECONDS, hear=lambda line: print(line, flush=True))


if __name__ == "__main__":
    sys.exit(main())
