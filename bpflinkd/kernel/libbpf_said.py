"""What libbpf prints: captured while an object is handled, else dropped."""

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator
from ctypes import c_char_p, c_int, c_size_t, c_void_p
from typing import Final, TypeAlias

_libc: Final = ctypes.CDLL(None, use_errno=True)
_PRINT: Final = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_VA_LIST_SIZE: Final = 32  # x86-64 has 24 bytes, aarch64 32; both are passed by address
_DEBUG: Final = 2
Said: TypeAlias = Callable[[], str]
"""What libbpf has printed so far."""
_LOG: Final = b"BEGIN PROG LOAD LOG"
"""Of the verifier's log on a program that it took: the one thing of the level debug that is of use."""


class _Sinks(threading.local):
    """Where it goes, by thread: libbpf prints on the one that called it."""

    def __init__(self) -> None:
        self.all: list[list[str]] = []


_sinks: Final = _Sinks()


def _print(level: int, text: bytes, arguments: int) -> int:
    if not _sinks.all or (level >= _DEBUG and _LOG not in text):
        return 0
    # A va_list can be walked once: keep a copy for the second vsnprintf.
    copy = ctypes.create_string_buffer(ctypes.string_at(arguments, _VA_LIST_SIZE), _VA_LIST_SIZE)
    size = _libc.vsnprintf(None, c_size_t(0), text, c_void_p(arguments))
    if size < 0:
        return 0
    line = ctypes.create_string_buffer(size + 1)
    _libc.vsnprintf(line, c_size_t(size + 1), text, copy)
    _sinks.all[-1].append(line.value.decode(errors="replace"))
    return 0


_print_callback: Final = _PRINT(_print)


def listen(library: ctypes.CDLL) -> None:
    """Have libbpf print to us: called before any other of its functions."""
    library.libbpf_set_print.restype = c_void_p
    library.libbpf_set_print(_print_callback)


@contextlib.contextmanager
def captured() -> Iterator[Said]:
    """Collect what libbpf says within the block, on this thread; call the result for the text so far."""
    lines: list[str] = []
    _sinks.all.append(lines)
    try:
        yield lambda: "".join(lines)
    finally:
        _sinks.all.remove(lines)
