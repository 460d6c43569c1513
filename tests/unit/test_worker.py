"""Turns among users for what takes long."""

import threading
import time
from collections.abc import Callable
from typing import Any

from gi.repository import GLib

from bpflinkd.worker import Pool

ALICE, BOB, CAROL, ROOT = 1001, 1002, 1003, 0


class Slow:
    """Work that ends when it is told to, and a list of what was done."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.begun: list[str] = []
        self.done: list[tuple[str, Any]] = []
        self._go: dict[str, threading.Event] = {}

    def submit(self, uid: int, name: str) -> None:
        go = self._go[name] = threading.Event()

        def work() -> str:
            self.begun.append(name)
            go.wait(10)
            if name.startswith("fails"):
                raise ValueError(name)
            return name

        def done(result: Any, error: BaseException | None) -> None:
            self.done.append((name, error or result))

        self.pool.submit(uid, work, done)

    def end(self, *names: str) -> None:
        for name in names:
            self._go[name].set()


def until(condition: Callable[[], bool]) -> None:
    """Run the main loop until something has come true."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        GLib.MainContext.default().iteration(False)
        time.sleep(0.001)


def test_a_user_keeps_only_itself_waiting() -> None:
    slow = Slow(Pool("test", 4))
    for number in range(5):
        slow.submit(ALICE, f"alice {number}")
    slow.submit(BOB, "bob")
    slow.submit(ROOT, "root")
    until(lambda: set(slow.begun) == {"alice 0", "bob", "root"})
    slow.end("bob", "root")
    until(lambda: len(slow.done) == 2)
    assert slow.begun.count("alice 1") == 0, "one at a time"
    for number in range(5):
        slow.end(f"alice {number}")
        until(lambda: len(slow.done) == 3 + number)  # noqa: B023
    assert [name for name, _ in slow.done[2:]] == [f"alice {number}" for number in range(5)]


def test_one_thread_is_kept_for_root() -> None:
    slow = Slow(Pool("test", 3))
    for uid, name in ((ALICE, "alice"), (BOB, "bob"), (CAROL, "carol")):
        slow.submit(uid, name)
    until(lambda: len(slow.begun) == 2)
    slow.submit(ROOT, "root")
    until(lambda: slow.begun[-1] == "root")
    assert "carol" not in slow.begun
    slow.end("alice", "carol")
    until(lambda: "carol" in slow.begun)
    slow.end("bob", "root")
    until(lambda: len(slow.done) == 4)


def test_users_take_turns() -> None:
    slow = Slow(Pool("test", 2))
    for name in ("first", "second"):
        slow.submit(ALICE, f"alice's {name}")
    slow.submit(BOB, "bob's")
    until(lambda: slow.begun == ["alice's first"])
    slow.end("alice's first", "alice's second", "bob's")
    until(lambda: len(slow.done) == 3)
    assert slow.begun == ["alice's first", "bob's", "alice's second"]


def test_a_failure_is_told_and_the_thread_goes_on() -> None:
    slow = Slow(Pool("test", 2))
    for name in ("fails", "works"):
        slow.submit(ALICE, name)
        slow.end(name)
    until(lambda: len(slow.done) == 2)
    assert isinstance(slow.done[0][1], ValueError)
    assert slow.done[1] == ("works", "works")
