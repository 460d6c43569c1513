"""The connection to the bus. It may come long after the start: the bus of a machine that boots is late."""

import logging
from collections.abc import Callable
from typing import Final

import pydbus
import pydbus.bus  # what makes a Bus of GIO's connection
from gi.repository import Gio, GLib

log = logging.getLogger(__name__)

_RETRY_MS: Final = 250
_FLAGS: Final = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
_KINDS: Final = {"system": Gio.BusType.SYSTEM, "session": Gio.BusType.SESSION}


class Connecting:
    """Connects on the main loop, which goes on meanwhile."""

    def __init__(
        self,
        bus: str,
        *,
        patient: bool,
        connected: Callable[[pydbus.bus.Bus], None],
        failed: Callable[[GLib.Error], None],
    ) -> None:
        """Begin.

        Args:
            bus: `system`, `session` or a D-Bus address.
            patient: try again until there is a bus, instead of calling `failed`.
        """
        self._bus = bus
        self._patient = patient
        self._connected = connected
        self._failed = failed
        self._told = False
        self._try()

    def _try(self) -> bool:
        try:
            kind = _KINDS.get(self._bus)
            address = Gio.dbus_address_get_for_bus_sync(kind, None) if kind is not None else self._bus
            Gio.DBusConnection.new_for_address(address, _FLAGS, None, None, self._answered)
        except GLib.Error as error:
            self._missed(error)
        return bool(GLib.SOURCE_REMOVE)

    def _answered(self, _source: object, result: Gio.AsyncResult) -> None:
        try:
            connection = Gio.DBusConnection.new_for_address_finish(result)
        except GLib.Error as error:
            self._missed(error)
            return
        # GIO would end the process by itself, without a word.
        connection.set_exit_on_close(False)
        self._connected(connection.pydbus)

    def _missed(self, error: GLib.Error) -> None:
        if not self._patient:
            self._failed(error)
            return
        if not self._told:
            self._told = True
            log.info("there is no %s bus yet (%s); waiting for it", self._bus, error.message)
        GLib.timeout_add(_RETRY_MS, self._try)
