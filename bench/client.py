"""Calls to a daemon with as little of our own as possible: ready variants, `call_sync`, no unpacking."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from gi.repository import Gio, GLib

from tests.lab import Daemon
from tests.lab.daemon import MANAGER, ROOT

LINK = "org.bpflinkd1.Link"
PROPERTIES = "org.freedesktop.DBus.Properties"
_TIMEOUT_MS = 60_000


class Client:
    """One connection to a private bus."""

    def __init__(self, address: str) -> None:
        flags = Gio.DBusConnectionFlags
        self.connection = Gio.DBusConnection.new_for_address_sync(
            address, flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None
        )

    def call(
        self, path: str, interface: str, method: str, arguments: GLib.Variant | None = None
    ) -> GLib.Variant:
        """Call and wait for the reply."""
        return self.connection.call_sync(
            "org.bpflinkd1", path, interface, method, arguments, None, 0, _TIMEOUT_MS, None
        )

    def ping(self) -> None:
        """The shortest trip there is; GIO's own thread answers in the daemon."""
        self.call(ROOT, "org.freedesktop.DBus.Peer", "Ping")

    def read(self, name: str) -> Callable[[], GLib.Variant]:
        """A function that reads one property of a link, which the daemon's main loop answers."""
        arguments = GLib.Variant("(ss)", (LINK, "State"))
        return lambda: self.call(f"{ROOT}/link/{name}", PROPERTIES, "Get", arguments)

    def replacer(self, name: str, pins: tuple[Path, Path]) -> Callable[[], GLib.Variant]:
        """A function that swaps a link to the other of two pinned programs; it runs the first."""
        turns = itertools.cycle(replace_arguments(name, pins))
        return lambda: self.call(ROOT, MANAGER, "Replace", next(turns))

    def rollback(self, name: str) -> Callable[[], GLib.Variant]:
        """A function that goes back to the generation before, and so to and fro."""
        arguments = GLib.Variant("(st)", (name, 0))
        return lambda: self.call(ROOT, MANAGER, "Rollback", arguments)

    def managed_objects(self) -> GLib.Variant:
        """Everything there is, packed."""
        return self.call(ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")


def replace_arguments(name: str, pins: tuple[Path, Path]) -> Iterator[GLib.Variant]:
    """The arguments of two Replace calls: to the second program, and back to the first."""
    for pin in reversed(pins):
        source = {"pin": GLib.Variant("s", str(pin))}
        yield GLib.Variant("(sa{sv}a{sv})", (name, source, {}))


def client_of(daemon: Daemon) -> Client:
    """A connection of our own to the daemon's bus."""
    return Client(daemon.world.bus)
