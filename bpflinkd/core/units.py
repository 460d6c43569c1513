"""Names of systemd's units, and the unit that a process is in by its cgroup. Pure.

Read as systemd reads them: unit_name_is_valid() of src/basic/unit-name.c and cg_path_get_unit() of
src/basic/cgroup-util.c.
"""

import re
from typing import Final

_LONGEST: Final = 255
"""UNIT_NAME_MAX, less the NUL."""
_TYPES: Final = "service|socket|target|device|mount|automount|swap|timer|path|slice|scope"
_UNIT: Final = re.compile(rf"[A-Za-z0-9:_.\\-]+(?:@[A-Za-z0-9:_.\\@-]+)?\.(?:{_TYPES})")
_SLICE: Final = ".slice"


def is_valid(name: str) -> bool:
    """Whether a unit can have this name: `ssh.service`, `user@1000.service`; templates are none."""
    return len(name) <= _LONGEST and _UNIT.fullmatch(name) is not None


def of_process(cgroups: bytes) -> str:
    """The unit of a process.

    Args:
        cgroups: what /proc/PID/cgroup holds. Only the line of cgroup v2 counts. Names of cgroups stand there
            as they are, without escapes: the kernel refuses a newline in them, and nothing else but `/`.

    Returns:
        The unit of the system's service manager; empty where it is in none.
    """
    paths = [line.removeprefix(b"0::") for line in cgroups.split(b"\n") if line.startswith(b"0::")]
    if len(paths) != 1 or not paths[0].isascii():
        return ""
    return of_cgroup(paths[0].decode())


def of_cgroup(path: str) -> str:
    """The unit that a cgroup belongs to: the first part of its path that is not a slice.

    What comes after that part is not looked at. It may have been named by the unit itself, by a user or by a
    container, and they like the names of other units.

    Args:
        path: from the root of the cgroup v2 hierarchy, as /proc/PID/cgroup gives it.

    Returns:
        The name; empty for a process of no unit, and for one outside of our cgroup namespace (`/../`).
    """
    for part in filter(None, path.split("/")):
        # systemd puts a _ before names that the kernel could take for its own files: `_cgroup.service`.
        name = part.removeprefix("_")
        if not is_valid(name):
            return ""
        if not name.endswith(_SLICE):
            return name
        if "@" in name:
            return ""  # slices have no instances
    return ""
