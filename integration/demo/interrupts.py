"""Signals that ask the demo to stop, heeded only where everything that was begun is known.

An exception out of a signal handler could fall between the making of a thing and the note that it must
be removed. So a signal is only remembered, and `check` raises where nothing is half done.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_PR_SET_PDEATHSIG: Final = 1


class Interrupted(Exception):
    """Somebody asked the demo to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Interrupts:
    """The first stop signal that came, if any did."""

    def __init__(self) -> None:
        """Begin to listen; the supervisor started us with the signals blocked."""
        self._number: int | None = None
        for number in STOPPING:
            signal.signal(number, self._note)
        # Should the supervisor be killed, we are told, and clean up.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() == 1:
            self.note(signal.SIGTERM)
        # Blocked signals would stay blocked in every process that we start.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOPPING, signal.SIGCHLD})

    def note(self, number: int) -> None:
        """Stop at the next `check`."""
        if self._number is None:
            self._number = number

    def check(self) -> None:
        """Raise `Interrupted` if there was a signal."""
        if self._number is not None:
            raise Interrupted(self._number)

    def nap(self, seconds: float) -> None:
        """Sleep, unless there is a signal."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.check()
            time.sleep(min(0.05, max(0.0, deadline - time.monotonic())))

    def wait_for(self, condition: Callable[[], bool], seconds: float = 10) -> bool:
        """Whether something comes true in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.note(number)
