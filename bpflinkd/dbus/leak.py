"""A reference that GIO leaks with every method call, and its release.

`g_dbus_connection_register_object_with_closures()` never gives up its own reference to the
invocation, so a daemon grows by 2 KB a call and keeps every descriptor it was sent. GLib 2.84 added
`..._with_closures2`, which does not leak and which newer PyGObjects then use; the older function was
left as it is, because mending it would have broken those who release the reference themselves.
Source: GLib's documentation of both functions. A test counts what is left after many calls.
"""

import ctypes
from typing import Any, Final

from gi.repository import Gio

_leaks: Final = not hasattr(Gio.DBusConnection, "register_object_with_closures2")

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_unref = ctypes.CDLL("libgobject-2.0.so.0").g_object_unref
_unref.argtypes = [ctypes.c_void_p]
_unref.restype = None


def release(invocation: Any) -> None:
    """Give up the leaked reference. Call exactly once, after the call was answered."""
    if _leaks:
        _unref(_pointer(invocation.__gpointer__, None))
