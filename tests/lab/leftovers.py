"""What a test of helpers must not leave behind."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def nothing_left() -> Iterator[None]:
    """No fd stays open, and no child remains, dead or alive."""
    gc.collect()  # what tests before left to Python
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
