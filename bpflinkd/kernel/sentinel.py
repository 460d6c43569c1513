"""The sentinel: BPF programs of ours that tell who changes what is attached to the hooks that we follow.

They are pinned and record while no daemon runs too. Where the kernel does not let us trace it, all others of
our sources of news go on without.
"""

import contextlib
import os
import select
from pathlib import Path
from typing import Final

from bpflinkd.core.errors import BpflinkdError, KernelRefused
from bpflinkd.core.events import Operation, Touch
from bpflinkd.core.ids import Micros
from bpflinkd.core.ports import Sentinel
from bpflinkd.kernel import bpffs, libbpf_maps, sentinel_parts
from bpflinkd.kernel.ring import Ring
from bpflinkd.kernel.sentinel_parts import Parts
from bpflinkd.kernel.sentinel_records import (
    HOOK_SIZE,
    LAYOUT,
    OPERATIONS,
    Config,
    Followed,
    hook_of,
    key_of,
    touch_of,
)

_BTF: Final = Path("/sys/kernel/btf/vmlinux")
_FIRST_PID_NAMESPACE: Final = 0xEFFFFFFC
"""Its inode number. Source: include/linux/proc_ns.h, PROC_PID_INIT_INO."""
_FOLLOWED: Final = bytes(4)
_WITHOUT: Final = "who changes a hook of ours is not told, and the other watch sources notice changes"


def open(root: Path) -> Sentinel:  # noqa: A001  # as gzip.open: the module is what is opened
    """Make the sentinel, or take it back from its pins. Never an error: `lacks` says what is in the way.

    Takes up to a second where it is made anew.

    Args:
        root: the directory of our pins on a bpffs; ours is `_sentinel` in it.
    """
    try:
        lacking = _hindrance()
        return Absent(f"{lacking}; {_WITHOUT}") if lacking else _open(root / bpffs.SENTINEL)
    except BpflinkdError as error:
        return Absent(f"{error}; {_WITHOUT}")
    except OSError as error:
        return Absent(f"the sentinel cannot be set up in {root}: {error}; {_WITHOUT}")


def off(root: Path) -> Sentinel:
    """End the sentinel that a daemon before us left, as it is not wanted any more."""
    lacking = "it is switched off in the settings"
    try:
        sentinel_parts.unpin(root / bpffs.SENTINEL)
    except OSError as error:
        lacking = f"{lacking}, but the pins in {root / bpffs.SENTINEL} cannot be removed ({error.strerror})"
    return Absent(f"{lacking}; {_WITHOUT}")


class Absent:
    """Implements `core.ports.Sentinel` where there can be none."""

    sees: frozenset[Operation] = frozenset()
    fd = -1
    events = 0

    def __init__(self, lacks: str) -> None:
        self.lacks = lacks

    def follow(self, hook: Followed) -> None: ...
    def unfollow(self, hook: Followed) -> None: ...
    def followed(self) -> frozenset[Followed]:
        return frozenset()

    def read(self, most: int) -> list[Touch]:  # noqa: ARG002
        return []

    def wait(self, at_most: Micros) -> None: ...
    def lost(self) -> int:
        return 0

    def close(self) -> None: ...


class Running:
    """Implements `core.ports.Sentinel`. Never for two threads at a time, but for `fd`, `sees` and `lacks`."""

    def __init__(self, parts: Parts, older: Parts | None) -> None:
        """Takes both.

        Args:
            older: one that records no more, and has records that were not read.
        """
        self._parts, self._older = parts, older
        self._netns = os.stat("/proc/self/ns/net").st_ino
        self._ring = Ring([older.records, parts.records] if older else [parts.records])
        self.fd = self._ring.fd
        self.events = 0
        self.sees = frozenset(parts.links)
        unseen = [operation for operation in OPERATIONS if operation not in self.sees]
        self.lacks = (
            f"not told on this kernel: {', '.join(unseen)}; it has no such function, or none to trace"
            if unseen
            else ""
        )

    def follow(self, hook: Followed) -> None:
        try:
            libbpf_maps.map_put(self._parts.hooks, key_of(hook, self._netns), _FOLLOWED)
        except OSError as error:
            raise KernelRefused(f"changes to {hook} cannot be followed: {error}") from None

    def unfollow(self, hook: Followed) -> None:
        with contextlib.suppress(FileNotFoundError):
            libbpf_maps.map_remove(self._parts.hooks, key_of(hook, self._netns))

    def followed(self) -> frozenset[Followed]:
        keys = libbpf_maps.map_keys(self._parts.hooks, HOOK_SIZE)
        return frozenset(hook for key in keys if (hook := hook_of(key, self._netns)) is not None)

    def read(self, most: int) -> list[Touch]:
        touches = (touch_of(record, self._netns) for record in self._ring.read(most))
        told = [touch for touch in touches if touch is not None]
        self.events += len(told)
        return told

    def wait(self, at_most: Micros) -> None:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.poll(at_most / 1000)

    def lost(self) -> int:
        return self._parts.tell_lost()

    def close(self) -> None:
        # From here on all changes are those of strangers.
        self._parts.configure(self._parts.config()._replace(tgid=0))
        self._ring.close()
        self._parts.close()
        if self._older:
            self._older.close()


def _hindrance() -> str:
    """Why there is no point in trying; empty where there is one."""
    if not _BTF.exists():
        return f"this kernel does not describe itself ({_BTF}, CONFIG_DEBUG_INFO_BTF), so it cannot be traced"
    if os.stat("/proc/self/ns/pid").st_ino != _FIRST_PID_NAMESPACE:
        return (
            "bpflinkd is not in the first pid namespace, so the kernel's process ids are not those seen here"
        )
    return ""


def _open(home: Path) -> Running:
    older = sentinel_parts.opened(home)
    if older and older.config().build == sentinel_parts.build():
        older.configure(_config(older))
        return Running(older, None)
    # In this order: two at a time would tell of a change twice. One that nobody tells of is found by the
    # checks of the start.
    sentinel_parts.unpin(home)
    if older:
        for link in older.links.values():
            os.close(link)
        older.links.clear()
    with contextlib.ExitStack() as undo:
        parts = sentinel_parts.load()
        undo.callback(sentinel_parts.unpin, home)
        undo.callback(parts.close)
        if older:
            parts.carry_lost(older.lost())
        parts.configure(_config(parts))
        sentinel_parts.attach(parts)
        parts.configure(_config(parts))
        sentinel_parts.pin(parts, home)
        made = Running(parts, older)
        undo.pop_all()
    return made


def _config(parts: Parts) -> Config:
    """With us as the daemon."""
    # After the name, which may hold anything, come the fields from the third on; the 22nd is wanted.
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    return Config(
        build=sentinel_parts.build(),
        layout=LAYOUT,
        operations=sum(1 << OPERATIONS.index(operation) for operation in parts.links),
        tgid=os.getpid(),
        tick=1_000_000_000 // os.sysconf("SC_CLK_TCK"),
        started=int(fields[19]),
    )
