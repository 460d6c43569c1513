"""Signals of a daemon, with the moment at which each came."""

import threading
import time
from collections.abc import Callable
from typing import Any

from gi.repository import Gio, GLib

from tests.lab.daemon import MANAGER, ROOT
from tests.lab.world import World


class Hearing:
    """Hears the signals of the Manager in a thread of its own."""

    def __init__(self, world: World, signal: str | None = None) -> None:
        """Begin; `signal` is the one of interest, None: all."""
        self.heard: list[tuple[float, str, tuple[Any, ...]]] = []
        """Time on the monotonic clock, signal, arguments; in the order in which they came."""
        self._news = threading.Condition()
        self._ready = threading.Event()
        context = GLib.MainContext.new()
        threading.Thread(target=self._listen, args=(world.bus, signal, context), daemon=True).start()
        if not self._ready.wait(5):
            raise TimeoutError("no signals can be heard")

    def _listen(self, bus: str, signal: str | None, context: GLib.MainContext) -> None:
        context.push_thread_default()
        flags = Gio.DBusConnectionFlags
        connection = Gio.DBusConnection.new_for_address_sync(
            bus, flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None
        )
        connection.signal_subscribe(None, MANAGER, signal, ROOT, None, Gio.DBusSignalFlags.NONE, self._hear)
        self._ready.set()
        GLib.MainLoop.new(context, False).run()

    def _hear(self, *arguments: Any) -> None:
        with self._news:
            self.heard.append((time.monotonic(), arguments[4], arguments[5].unpack()))
            self._news.notify_all()

    def first(self, wanted: Callable[[str, tuple[Any, ...]], bool], *, after: int = 0) -> float:
        """When the first that is wanted came, among those after this many; waits for it."""

        def found() -> float | None:
            times = (at for at, signal, words in self.heard[after:] if wanted(signal, words))
            return next(times, None)

        with self._news:
            if not self._news.wait_for(lambda: found() is not None, 60):
                raise TimeoutError("what should have been told was not")
            at = found()
        assert at is not None
        return at

    def wait(self, enough: Callable[[], bool], *, seconds: float = 60) -> None:
        """Until enough was heard."""
        with self._news:
            if not self._news.wait_for(enough, seconds):
                raise TimeoutError("what should have been told was not")
