"""On the bus: the connection, the objects on it, the name; and all of it again where the connection breaks.

GLib closes a connection over a message that it cannot read, and some that dbus-daemon takes for well-formed
are of that kind (dictionaries with signatures for values, in GLib 2.74): anybody may send one. So a broken
connection is nothing to end for.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, Final

import pydbus.bus
from gi.repository import Gio, GLib

from bpflinkd import garbage
from bpflinkd.core.events import News
from bpflinkd.core.manager import Manager
from bpflinkd.dbus import unread
from bpflinkd.dbus.closer import Closer
from bpflinkd.dbus.connecting import Connecting
from bpflinkd.dbus.limits import Limits
from bpflinkd.dbus.service import DaemonFacts, Service
from bpflinkd.worker import SHORT, MainLoop, Pool, Worker

log = logging.getLogger(__name__)

_AGAIN_MS: Final = 50
"""The bus may take so long to see that our last connection ended."""
_TRIES: Final = 100
_OFTEN: Final = 1.0
"""Seconds: a connection that lasted less is made again after a pause. What breaks one costs memory, too."""
_PAUSE_MS: Final = 250


class Serving:
    """For the main loop."""

    def __init__(
        self,
        bus: str,
        manager: Manager,
        worker: Worker,
        compiler: Pool,
        facts: DaemonFacts,
        *,
        patient: bool,
        connected: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Nothing is done before `connect`.

        Args:
            patient: wait for a bus that is not there, now or any more.
            connected: called with each connection; what is to follow is `offer`.
            failed: called with GLib.Error or RuntimeError where there is no bus, or no name for us on it.
        """
        self._address = bus
        self._manager = manager
        self._worker = worker
        self._compiler = compiler
        self._facts = facts
        self._patient = patient
        self._told = connected
        self._failed = failed
        self._limits, self._closer = Limits(), Closer()
        self._later = MainLoop(seconds=SHORT)
        unread.close_by(self._closer)
        self._bus: pydbus.bus.Bus | None = None
        self._service: Service | None = None
        self._since = 0.0
        """When we connected last."""
        self._lost = False
        """A connection of ours broke before."""

    def connect(self) -> None:
        """Begin. The main loop goes on meanwhile."""
        Connecting(self._address, patient=self._patient, connected=self._connected, failed=self._failed)

    def offer(self) -> None:
        """Show the links, and take the name. Without a connection nothing happens: call it again then."""
        bus = self._bus
        if bus is None:
            return
        try:
            service = Service(
                bus,
                self._manager,
                self._worker.submit,
                self._compiler.submit,
                self._facts,
                self._limits,
                self._closer,
                self._later.post,
                trusted=self._address == "system",
            )
        except GLib.Error as error:
            log.warning("the %s bus does not answer: %s", self._address, error.message)
            return  # the connection is closed: it is made again

        def told(views: Any, error: BaseException | None) -> None:
            # What happens from here on comes after this: news and answers share one queue.
            if isinstance(error, Exception):
                self._failed(error)
            elif bus is self._bus:
                self._service = service
                service.show(views)
                self._claim(service, _TRIES if self._lost else 1)

        self._worker.submit(self._manager.views, told)

    def publish(self, news: News) -> None:
        """Show what the manager did."""
        if self._service is not None:
            self._service.publish(news)

    def recorded(self, number: int) -> None:
        """Tell that the event log has new entries, up to this number."""
        if self._service is not None:
            self._service.recorded(number)

    def _connected(self, bus: pydbus.bus.Bus) -> None:
        self._bus = bus
        self._since = time.monotonic()
        bus.con.connect("closed", self._closed)
        self._told()

    def _claim(self, service: Service, tries: int) -> None:
        if service is not self._service:
            return
        try:
            service.claim()
        except (RuntimeError, GLib.Error) as refusal:
            if tries <= 1:
                self._failed(refusal)
                return
            GLib.timeout_add(_AGAIN_MS, self._claim_again, service, tries - 1)
        else:
            log.info("ready on the %s bus", self._address)

    def _claim_again(self, service: Service, tries: int) -> bool:
        self._claim(service, tries)
        return bool(GLib.SOURCE_REMOVE)

    def _closed(self, connection: Gio.DBusConnection, _by_peer: bool, error: GLib.Error | None) -> None:
        reason = error.message if error is not None else "it was closed"
        log.warning("the connection to the %s bus broke: %s; connecting again", self._address, reason)
        # GLib leaves the socket open where it could not read a message: the bus would take us for there.
        with contextlib.suppress(GLib.Error):
            connection.get_stream().close(None)
        service, bus = self._service, self._bus
        self._service = self._bus = None
        self._lost = True
        if service is not None:
            service.close()
        # It and its connection refer to each other, where Python does not look for cycles.
        vars(bus).clear()
        garbage.look_at_all()
        often = time.monotonic() - self._since < _OFTEN
        GLib.timeout_add(_PAUSE_MS if often else 0, self._connect_again)

    def _connect_again(self) -> bool:
        self.connect()
        return bool(GLib.SOURCE_REMOVE)
