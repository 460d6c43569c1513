"""A message that breaks the connection of who receives it."""

from gi.repository import Gio, GLib

POISON = GLib.Variant("(a{yg}asu)", ({1: "a{sv}", 0: "s"}, ["user:4294967295", "/etc/shadow"], 1))
"""The bus takes it for well-formed; GLib 2.74 cannot read it, and closes the connection."""


def breaks_here() -> bool:
    """Whether this machine's GLib is one that cannot read it."""
    message = Gio.DBusMessage.new_method_call("a.b", "/x", "a.b", "M")
    message.set_body(POISON)
    message.set_serial(1)
    try:
        Gio.DBusMessage.new_from_blob(message.to_blob(0), 0)
    except GLib.Error:
        return True
    return False
