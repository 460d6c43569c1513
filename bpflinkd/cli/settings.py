"""The global options, and the connection and output that follow from them."""

# ruff: noqa: PLC0415  # GIO and rich are not imported before they are needed: help does without both

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bpflinkd.cli.agent import Agent
    from bpflinkd.cli.render import Output
    from bpflinkd.client import Client


class Settings:
    """What applies to every command."""

    def __init__(self) -> None:
        self.bus = "system"
        self.json = False
        self.no_color = False
        self.timeout: float | None = None
        """Seconds, where they were chosen."""
        self.ask = False
        """Let polkit ask the user before it answers."""
        self._agent: Agent | None = None

    def client(self, *, doing: str = "") -> Client:
        """Connect to the bus that was chosen. `doing` is what the daemon may take long for: compiling."""
        from bpflinkd.client import Client

        if self.ask and self._agent is None:
            from bpflinkd.cli.agent import Agent

            self._agent = Agent()
        words = doing or "waiting for bpflinkd"
        # A spinner would write over what the agent asks.
        slow = None if self.ask else lambda: self._spin(words)
        return Client(self.bus, timeout=self.timeout, interactive=self.ask, slow=slow)

    def close(self) -> None:
        """End what was started for this command."""
        if self._agent is not None:
            self._agent.close()

    def output(self) -> Output:
        """Where results go."""
        from bpflinkd.cli.render import Output

        return Output(json=self.json, no_color=self.no_color)

    @contextlib.contextmanager
    def waiting(self, words: str) -> Iterator[None]:
        """Show on a terminal what takes a while, once it has taken a second."""
        ends: list[Callable[[], None]] = []
        timer = threading.Timer(1.0, lambda: ends.append(self._spin(words)))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            for end in ends:
                end()

    def _spin(self, words: str) -> Callable[[], None]:
        """Show on a terminal that we wait; returns what ends it."""
        if self.json or sys.stderr is None or not sys.stderr.isatty():
            return lambda: None
        from bpflinkd.cli.render import spinner

        return spinner(words, no_color=self.no_color)
