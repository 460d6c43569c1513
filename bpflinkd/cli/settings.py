"""The global options, and the connection and output that follow from them."""

# ruff: noqa: PLC0415  # GIO and rich are not imported before they are needed: help does without both

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from bpflinkd.cli.render import Output
    from bpflinkd.dbus.client import Client

DEFAULT_TIMEOUT: Final = 30.0
"""Seconds. Long enough for a verifier that has much to read, short enough to notice."""
COMPILE_TIMEOUT: Final = 150.0
"""Seconds. The daemon gives a compiler a minute, and compiles one source at a time."""


class Settings:
    """What applies to every command."""

    def __init__(self) -> None:
        self.bus = "system"
        self.json = False
        self.no_color = False
        self.timeout: float | None = None
        """Seconds, where they were chosen."""

    def client(self, *, doing: str = "") -> Client:
        """Connect to the bus that was chosen. `doing` is what the daemon may take long for: compiling."""
        from bpflinkd.dbus.client import Client

        timeout = self.timeout or (COMPILE_TIMEOUT if doing else DEFAULT_TIMEOUT)
        words = doing or "waiting for bpflinkd"
        return Client(self.bus, timeout=timeout, slow=lambda: self._spin(words))

    def output(self) -> Output:
        """Where results go."""
        from bpflinkd.cli.render import Output

        return Output(json=self.json, no_color=self.no_color)

    def _spin(self, words: str) -> Callable[[], None]:
        """Show on a terminal that we wait; returns what ends it."""
        if self.json or sys.stderr is None or not sys.stderr.isatty():
            return lambda: None
        from bpflinkd.cli.render import spinner

        return spinner(words, no_color=self.no_color)
