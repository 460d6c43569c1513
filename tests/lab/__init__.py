"""A small world for tests, benchmarks and the demo: namespaces, cgroups, a bpffs, a bus, daemons.

Everything is made under names of its own and removed again, after failures too.
"""

from tests.lab.daemon import Daemon
from tests.lab.world import World

__all__ = ["Daemon", "World"]
