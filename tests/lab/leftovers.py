"""What a test of helpers must not leave behind."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def nothing_left() -> Iterator[None]:
    """No fd stays open, and no child of now on remains, dead or alive."""
    gc.collect()  # what tests before left to Python
    fds, before = set(os.listdir("/proc/self/fd")), children()
    yield
    assert set(os.listdir("/proc/self/fd")) <= fds
    assert children() <= before


def children() -> set[str]:
    """Of all threads; those that are dead and were not waited for are among them."""
    tasks = Path("/proc/self/task").iterdir()
    return {pid for task in tasks for pid in (task / "children").read_text().split()}
