"""libbpf by ctypes: the library, loaded once; how its functions are declared, and their results checked.

Signatures are those of libbpf 1.0 and later (src/bpf.h, src/libbpf.h); every option struct begins
with its own size, so that older and newer libraries read the part that they know.
"""

import ctypes
import os
from typing import Any, Final

from bpflinkd.kernel import libbpf_said

_lib: Final = ctypes.CDLL("libbpf.so.1", use_errno=True)
libbpf_said.listen(_lib)


def declare(name: str, result: Any, *arguments: Any) -> Any:
    """A function of the library, told the C types of its result and arguments."""
    function = getattr(_lib, name)
    function.restype = result
    function.argtypes = list(arguments)
    return function


def unchecked(name: str) -> Any:
    """A function that returns an int, for arguments made beforehand: none is converted or checked."""
    return _lib[name]


def check(result: int, what: str) -> int:
    """libbpf 1.x returns -errno, or -1 with errno set."""
    if result < 0:
        code = ctypes.get_errno() if result == -1 else -result
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result
