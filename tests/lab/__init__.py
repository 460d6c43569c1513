"""A small world for tests, benchmarks and the demo: namespaces, cgroups, a bpffs, a bus, daemons.

Everything is made under names of its own and removed again, after failures too.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.lab.daemon import Daemon
    from tests.lab.world import World

__all__ = ["Daemon", "World"]


def __getattr__(name: str) -> Any:
    # Only when asked for: the processes that send packets and the strangers, of which there are hundreds,
    # are modules of this package, and under emulation this costs each of them two seconds.
    if name == "Daemon":
        from tests.lab.daemon import Daemon as found  # noqa: PLC0415, N813
    elif name == "World":
        from tests.lab.world import World as found  # type: ignore[assignment]  # noqa: PLC0415, N813
    else:
        raise AttributeError(f"tests.lab has no {name}")
    return found
