"""Many links in one call, against the bare updates of as many links."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from gi.repository import GLib

from bench.setting import LINKS, Place, Setting
from bench.table import Row, below
from bench.timing import once
from bpflinkd.core.attach_types import by_name
from bpflinkd.kernel import libbpf
from tests.lab.daemon import MANAGER, ROOT

_ROUNDS = 8
_LIMIT_US = 60
_TABLES = """
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
CREATE TABLE link (name TEXT PRIMARY KEY, generation INTEGER, hook TEXT) STRICT, WITHOUT ROWID;
CREATE TABLE generation
    (link TEXT, number INTEGER, program TEXT, source TEXT, actor TEXT, UNIQUE (link, number));
"""
_JSON = '{"id": 1234, "name": "let_out", "tag": "0123456789abcdef", "type": 8}'
_REST = 2.0
"""Seconds after each call: what follows it, signals and looks at our own pins, is not of the next one."""


def replace_many(setting: Setting) -> Iterator[Row]:
    """1,000 cgroup links, each on a cgroup of its own, to another loaded program and back.

    The bare updates are of 1,000 links on cgroups of their own, by descriptors that are open.
    """
    place = setting.thousand
    pins = place.load("egress", "many_a"), place.load("egress", "many_b")
    names = [f"egress-{number:04}" for number in range(LINKS)]
    turns = [_arguments(names, pin) for pin in pins]
    bare = _Bare(place, pins)
    skews: list[int] = []
    place.client.connection.signal_subscribe(
        None, MANAGER, "SwappedTogether", ROOT, None, 0, lambda *told: skews.append(told[5].unpack()[1])
    )
    least = _Least(place, pins)
    calls, floor, floor_skews, at_least = [], [], [], []
    for number in range(_ROUNDS + 1):
        arguments = turns[number % 2]
        calls.append(once(lambda: place.client.call(ROOT, MANAGER, "ReplaceMany", arguments)))  # noqa: B023
        ended = time.monotonic() + _REST
        while time.monotonic() < ended:
            GLib.MainContext.default().iteration(False)
            time.sleep(0.01)
        at_least.append(once(lambda: least.swap(number)))  # noqa: B023
        taken, skew = bare.swap(number)
        floor.append(taken)
        floor_skews.append(skew)
    bare.close()
    least.close()
    low = median(floor[1:])
    over = (median(calls[1:]) - low) * 1000 / LINKS
    what = f"ReplaceMany of {LINKS} cgroup links, a link over the bare update"
    yield below(what, over, _LIMIT_US, "us", low * 1000 / LINKS)
    refused = _arguments(names, pins[0], nonsense=GLib.Variant("b", True))
    there_us = median(once(lambda: _ask(place, refused)) for _ in range(_ROUNDS)) * 1000 / LINKS
    yield Row(what="the message there, refused at the first look, a link", measured=f"{there_us:.2f} us")
    least_us = median(at_least[1:]) * 1000 / LINKS
    yield Row(what="pins and records of that by themselves, a link", measured=f"{least_us:.2f} us")
    ours, theirs = median(skews[1:]) / 1000, median(floor_skews[1:]) / 1000
    yield Row(
        what="from the first swap to the last / of the bare loop",
        floor=f"{theirs:.0f} us",
        measured=f"{ours:.0f} us",
        ratio=ours / theirs,
    )


def _arguments(names: list[str], pin: Path, **options: GLib.Variant) -> GLib.Variant:
    program = {"pin": GLib.Variant("s", str(pin))}
    return GLib.Variant("(a(sa{sv})a{sv})", ([(name, program) for name in names], options))


def _ask(place: Place, arguments: GLib.Variant) -> None:
    with contextlib.suppress(GLib.Error):
        place.client.call(ROOT, MANAGER, "ReplaceMany", arguments)


class _Least:
    """What as many swaps must leave on the bpffs and the disk, by bare system calls and SQLite."""

    def __init__(self, place: Place, pins: tuple[Path, Path]) -> None:
        self._programs = [libbpf.obj_get(str(pin)) for pin in pins]
        self._homes = [str(place.world.bpffs / f"least-{number:04}") for number in range(LINKS)]
        for home in self._homes:
            os.makedirs(f"{home}/kept")
            for pin in ("program", "kept/program_-1"):
                libbpf.obj_pin(self._programs[1], f"{home}/{pin}")
        self._db = sqlite3.connect(place.world.dir / "least.sqlite", isolation_level=None)
        self._db.executescript(_TABLES)
        rows = [(home, 0, _JSON, _JSON, _JSON) for home in self._homes]
        self._db.executemany("INSERT INTO link VALUES (?, ?, ?)", [row[:3] for row in rows])
        self._db.executemany("INSERT INTO generation VALUES (?, ?, ?, ?, ?)", rows)

    def swap(self, number: int) -> None:
        """Of all: what is pinned and kept, and two transactions, of which one is durable."""
        new, old = (self._programs[(number + turn) % 2] for turn in (0, 1))
        self._write("NORMAL", "INSERT INTO generation VALUES (?1, ?2 + 1, ?3, ?3, ?3)", number)
        for home in self._homes:
            libbpf.obj_pin(old, f"{home}/kept/program_{number}")
            libbpf.obj_pin(new, f"{home}/next_program")
        self._write("FULL", "UPDATE link SET generation = ?2 + 1, hook = ?3 WHERE name = ?1", number)
        for home in self._homes:
            os.rename(f"{home}/next_program", f"{home}/program")
            os.unlink(f"{home}/kept/program_{number - 1}")

    def _write(self, synchronous: str, statement: str, number: int) -> None:
        self._db.execute(f"PRAGMA synchronous = {synchronous}")
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(statement, ((home, number, _JSON) for home in self._homes))
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Let go of all."""
        self._db.close()
        for fd in self._programs:
            os.close(fd)


class _Bare:
    """As many links without a daemon."""

    def __init__(self, place: Place, pins: tuple[Path, Path]) -> None:
        self._programs = [libbpf.obj_get(str(pin)) for pin in pins]
        self._links = []
        parent = place.world.cgroup()
        for number in range(LINKS):
            directory = place.world.cgroup_dir(f"{parent}/bare-{number:04}")
            directory.mkdir()
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            self._links.append(libbpf.link_create(self._programs[1], fd, by_name("egress").number))
            os.close(fd)

    def swap(self, number: int) -> tuple[float, int]:
        """Swap all: milliseconds in all, and nanoseconds from the end of the first to that of the last."""
        new, old = (self._programs[(number + turn) % 2] for turn in (0, 1))
        begun = time.monotonic_ns()
        first = 0
        for link in self._links:
            libbpf.link_update(link, new, old_prog_fd=old)
            first = first or time.monotonic_ns()
        last = time.monotonic_ns()
        return (last - begun) / 1e6, last - first

    def close(self) -> None:
        """Let go of all."""
        for fd in (*self._links, *self._programs):
            os.close(fd)
