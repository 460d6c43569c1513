"""Who made a foreign change. Pure."""

import re
from dataclasses import dataclass
from typing import Final

from bpflinkd.core import units

_CONTAINER: Final = re.compile(
    r"(?:^|/)(?:(?:docker|libpod|cri-containerd|crio)-)?([0-9a-f]{64})(?:\.scope)?(?:/|$)"
)
"""As Docker, podman, containerd and CRI-O name the cgroups of their containers, with and without systemd."""
_SHOWN: Final = 12
"""Characters of a container's id, as docker and crictl show it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Culprit:
    """A process, as the kernel saw it at the moment of the change. It may be gone by now."""

    pid: int
    """Of the process (`tgid` in the kernel), in the first pid namespace."""
    thread: int
    """Of the thread (`pid` in the kernel)."""
    uid: int
    """In the first user namespace."""
    comm: str
    """What the thread calls itself, printable; in brackets, as ps has it, where it is one of the kernel's,
    which ends what nobody holds any more: who let go of it is not known."""
    executable: str = ""
    """Path of what it runs, in its own mount namespace; empty where that is not known."""
    cgroup: str = ""
    """Path from the root of the cgroup v2 hierarchy; empty where that is not known."""

    @property
    def unit(self) -> str:
        """The systemd unit that it is in; empty where it is in none."""
        return units.of_cgroup(self.cgroup)

    @property
    def container(self) -> str:
        """The id of the container that it is in, as far as its cgroup's path tells; else empty."""
        found = _CONTAINER.search(self.cgroup)
        return found[1] if found else ""

    def __str__(self) -> str:
        where = [f"pid {self.pid}", f"uid {self.uid}"]
        if self.executable:
            where.append(self.executable)
        if self.container:
            where.append(f"container {self.container[:_SHOWN]}")
        elif self.unit:
            where.append(self.unit)
        return f"{self.comm} ({', '.join(where)})"
