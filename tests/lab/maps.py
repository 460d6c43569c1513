"""Counters in array maps, read by fd or pin, with as little as possible."""

import ctypes
import os
from pathlib import Path

_lib = ctypes.CDLL("libbpf.so.1", use_errno=True)


class Counters:
    """An array map of u64, held open so that it outlives its pins."""

    def __init__(self, pin: Path) -> None:
        self.fd = _lib.bpf_obj_get(os.fsencode(pin))
        if self.fd < 0:
            raise OSError(-self.fd, f"cannot open {pin}")

    def __getitem__(self, index: int) -> int:
        key, value = ctypes.c_uint32(index), ctypes.c_uint64()
        result = _lib.bpf_map_lookup_elem(self.fd, ctypes.byref(key), ctypes.byref(value))
        if result != 0:
            raise OSError(-result, "cannot read the counter")
        return value.value

    def close(self) -> None:
        """Give it up."""
        os.close(self.fd)
