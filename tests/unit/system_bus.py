"""A bus as Debian configures the system's, policy and limits included, on a socket of its own."""

import contextlib
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from gi.repository import Gio, GLib

CONFIG: Final = Path("/usr/share/dbus-1/system.conf")
# What belongs to the one bus of the machine: its user, its socket, what it starts, the policies of others.
_LEFT_OUT: Final = (
    "user",
    "fork",
    "syslog",
    "pidfile",
    "listen",
    "servicehelper",
    "standard_system_servicedirs",
)
NOBODY: Final = 65534
AS_NOBODY: Final = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


@contextlib.contextmanager
def system_bus(*policies: Path) -> Iterator[str]:
    """The address of a bus with these policy files, while the context lasts; every user can reach it."""
    with tempfile.TemporaryDirectory(prefix="bpflinkd-bus-") as made:
        place = Path(made)
        place.chmod(0o755)
        address = f"unix:path={place}/socket"
        config = ET.parse(CONFIG)
        root = config.getroot()
        for element in list(root):
            if element.tag in _LEFT_OUT or element.tag.startswith("include"):
                root.remove(element)
        ET.SubElement(root, "listen").text = address
        for policy in policies:
            ET.SubElement(root, "include").text = str(policy)
        config.write(place / "bus.conf")
        words = ("dbus-daemon", "--nofork", "--print-address=1", f"--config-file={place}/bus.conf")
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as daemon:
            try:
                assert daemon.stdout is not None
                assert daemon.stdout.readline()
                yield address
            finally:
                daemon.terminate()


def connect(address: str) -> Gio.DBusConnection:
    """A connection, of this process, that does not end it when the bus goes."""
    flags = Gio.DBusConnectionFlags
    connection = Gio.DBusConnection.new_for_address_sync(
        address, flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None
    )
    connection.set_exit_on_close(False)
    return connection


def turn_until(condition: Callable[[], bool], what: str, *, seconds: float = 20) -> None:
    """Let the main loop turn until something comes true that must."""
    deadline = time.monotonic() + seconds
    context = GLib.MainContext.default()
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        if not context.iteration(may_block=False):
            time.sleep(0.001)
