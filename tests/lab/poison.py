"""A message that breaks the connection of who receives it."""

import contextlib
from collections.abc import Sequence
from typing import Final

import pytest
from gi.repository import Gio, GLib

from tests.lab.as_user import AsUser
from tests.lab.daemon import MANAGER, ROOT, Daemon, Refused
from tests.lab.world import until

_POISON: Final = GLib.Variant("(a{yg}asu)", ({1: "a{sv}", 0: "s"}, ["user:4294967295", "/etc/shadow"], 1))
"""The bus takes it for well-formed; GLib 2.74 cannot read it, and closes the connection."""
_TO: Final = ("org.bpflinkd1", ROOT, MANAGER, "List")
_READY: Final = "ready on the"


def require_poison() -> None:
    """Skip where this machine's GLib reads it."""
    message = Gio.DBusMessage.new_method_call("a.b", "/x", "a.b", "M")
    message.set_body(_POISON)
    message.set_serial(1)
    try:
        Gio.DBusMessage.new_from_blob(message.to_blob(0), 0)
    except GLib.Error:
        return
    pytest.skip("this GLib reads every message that the bus takes")


def break_connection(daemon: Daemon, attacker: AsUser, fds: Sequence[int] = ()) -> None:
    """Send it with these descriptors, and wait until the daemon is on the bus again."""
    before = daemon.said().count(_READY)
    with contextlib.suppress(Refused):
        attacker.exchange(_TO, _POISON, fds)
    until(lambda: daemon.said().count(_READY) == before + 1, "on the bus again")
