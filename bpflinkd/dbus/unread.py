"""Descriptors of messages that nobody took: GIO frees them, and to close one may wait for its sender.

That is so where GLib cannot read a message, and where a connection breaks with messages waiting. GIO then
closes on the thread that moves the bytes of every connection. So what it frees goes to our `Closer` instead,
through the destructor of its list of descriptors, the only place that all of them come by.
Source: gio/gdbusprivate.c _g_dbus_worker_unref(), gio/gunixfdlist.c; the class is public in gobject.h.
"""

import atexit
import ctypes
from typing import Any, Final

from bpflinkd.dbus.closer import Closer

_Finalize: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _GObjectClass(ctypes.Structure):
    """As far as we need it."""

    _fields_ = (
        ("g_type_class", ctypes.c_size_t),
        ("construct_properties", ctypes.c_void_p),
        ("constructor", ctypes.c_void_p),
        ("set_property", ctypes.c_void_p),
        ("get_property", ctypes.c_void_p),
        ("dispose", ctypes.c_void_p),
        ("finalize", ctypes.c_void_p),
    )


_gio: Final = ctypes.CDLL("libgio-2.0.so.0")
_gio.g_unix_fd_list_get_type.restype = ctypes.c_size_t
_gio.g_type_class_ref.restype = ctypes.POINTER(_GObjectClass)
_gio.g_type_class_ref.argtypes = [ctypes.c_size_t]
_gio.g_unix_fd_list_steal_fds.restype = ctypes.POINTER(ctypes.c_int)
_gio.g_unix_fd_list_steal_fds.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)]
_gio.g_free.argtypes = [ctypes.c_void_p]

_kept: Final[list[Any]] = []
"""What GIO calls must not be collected."""


def close_by(closer: Closer) -> None:
    """From here on, for the whole process. Call once."""
    fd_lists = _gio.g_type_class_ref(_gio.g_unix_fd_list_get_type()).contents
    theirs = fd_lists.finalize
    before = _Finalize(theirs)

    def finalize(fd_list: int) -> None:
        count = ctypes.c_int()
        fds = _gio.g_unix_fd_list_steal_fds(fd_list, ctypes.byref(count))
        closer.close(fds[: count.value])
        _gio.g_free(fds)
        before(fd_list)

    def undo() -> None:
        # GIO's threads outlive Python, which they then must not call.
        fd_lists.finalize = theirs

    ours = _Finalize(finalize)
    _kept.append(ours)
    fd_lists.finalize = ctypes.cast(ours, ctypes.c_void_p).value
    atexit.register(undo)
