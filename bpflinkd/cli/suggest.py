"""Words for the shell's completion. Whatever goes wrong, nothing is offered and nothing is said."""

import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from bpflinkd.cli.settings import Settings
from bpflinkd.client.errors import ClientError
from bpflinkd.core.attach_types import CGROUP_ATTACH_TYPES
from bpflinkd.core.sources import BUILTINS
from bpflinkd.core.written import KPROBE_KINDS

_LETTERS: Final = 3
_MOST_FUNCTIONS: Final = 200
_PATIENCE: Final = 1.0
"""Seconds that a Tab may take."""


def link_names(context: click.Context, _word: str) -> list[str]:
    """The names of all links."""
    settings: Settings = context.obj if isinstance(context.obj, Settings) else Settings()
    settings.timeout = min(settings.timeout or _PATIENCE, _PATIENCE)
    try:
        return [row.name for row in settings.client().rows()]
    except (ClientError, OSError):
        return []


def owners(_context: click.Context, _word: str) -> list[str]:
    """Users, and services that run."""
    found = [f"user:{user.pw_name}" for user in pwd.getpwall()]
    services = _listed(f"{_cgroup_root()}/system.slice")
    return found + [f"unit:{name}" for name in services if name.endswith(".service")]


def attach_types(_context: click.Context, _word: str) -> list[str]:
    """The attach types of cgroups."""
    return [known.name for known in CGROUP_ATTACH_TYPES]


def builtins(_context: click.Context, _word: str) -> list[str]:
    """Programs that ship with bpflinkd."""
    return list(BUILTINS)


def interfaces(_context: click.Context, _word: str) -> list[str]:
    """Interfaces of this network namespace."""
    return _listed("/sys/class/net")


def targets(_context: click.Context, word: str) -> list[str]:
    """Interfaces of this network namespace, kprobes, and cgroups one level below what is typed."""
    found = [f"xdp:{name}" for name in _listed("/sys/class/net")]
    found += [f"{kind}:" for kind in KPROBE_KINDS]
    kind, colon, function = word.partition(":")
    if colon and kind in KPROBE_KINDS:
        found += [f"{kind}:{name}" for name in _functions(function)]
    root = _cgroup_root()
    if root is not None:
        path = word.removeprefix("cgroup:") if word.startswith("cgroup:/") else "/"
        found += [f"cgroup:{child}" for child in _children(root, path)]
    # A shell takes words apart at blanks.
    return [name for name in found if not any(c.isspace() for c in name)]


def _functions(beginning: str) -> list[str]:
    """Kernel functions whose names begin so; none before there are enough letters to tell them apart."""
    if len(beginning) < _LETTERS:
        return []
    found = set()
    try:
        with open("/proc/kallsyms") as symbols:
            for line in symbols:
                _, kind, name, *_ = line.split()
                if kind in "tT" and name.startswith(beginning):
                    found.add(name)
    except OSError:
        return []
    return sorted(found)[:_MOST_FUNCTIONS]


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _cgroup_root() -> Path | None:
    """Where cgroup v2 is mounted."""
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="surrogateescape")
    except OSError:
        return None
    for line in mounts.splitlines():
        _, where, kind, *_ = line.split(" ")
        if kind == "cgroup2":
            return Path(where)
    return None


def _children(root: Path, path: str) -> Iterator[str]:
    parent = path.rpartition("/")[0]
    try:
        for entry in sorted(os.scandir(f"{root}{parent}"), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                yield f"{parent}/{entry.name}"
                with os.scandir(entry) as inside:
                    if any(below.is_dir(follow_symlinks=False) for below in inside):
                        yield f"{parent}/{entry.name}/"
    except OSError:
        return
