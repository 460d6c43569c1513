"""Numbers that must not be mistaken for one another: kernel ids and times."""

from typing import Final, NewType

ProgId = NewType("ProgId", int)
"""Kernel id of a program (u32), never an fd."""
NO_PROGRAM: Final = ProgId(0)
"""What an empty slot runs."""
LinkId = NewType("LinkId", int)
"""Kernel id of a bpf_link (u32), never an fd."""
UnixMicros = NewType("UnixMicros", int)
"""Wall-clock time, microseconds since 1970."""
Micros = NewType("Micros", int)
"""Time on a clock that cannot be set, microseconds since an unknown moment."""
