"""Kernel functions: where they are, which module they belong to, which of them can be traced.

/proc/kallsyms is some megabytes of text that takes the kernel 100 ms to write, so an answer is kept
for as long as no module comes or goes.
"""

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bpflinkd.core.errors import NotSupported

# A service's own /proc/kallsyms is empty (ProtectKernelTunables=); the unit has it elsewhere.
_KALLSYMS: Final = Path(os.environ.get("BPFLINKD_KALLSYMS") or "/proc/kallsyms")
_MODULES: Final = Path("/sys/module")
_TRACEABLE: Final = (
    Path("/sys/kernel/tracing/available_filter_functions"),
    Path("/sys/kernel/debug/tracing/available_filter_functions"),
)
_BLACKLIST: Final = Path("/sys/kernel/debug/kprobes/blacklist")
_BLOCK: Final = 1 << 18
_ADDRESS: Final = re.compile(rb"^([0-9a-f]+) [tTwW] ", re.MULTILINE)
_KEPT: Final = 4096
"""Answers that are kept at the most."""


@dataclass(frozen=True, slots=True)
class Function:
    """One function of the kernel's symbol table."""

    address: int
    """0 for readers without CAP_SYSLOG."""
    module: str
    """Empty where it is in the kernel itself."""


class Symbols:
    """The kernel's functions by name."""

    def __init__(self) -> None:
        self._answers: dict[str, tuple[Function, ...]] = {}
        self._modules: frozenset[tuple[str, int]] = frozenset()

    def functions(self, symbol: str) -> tuple[Function, ...]:
        """Every function of this name: none, one, or several where the name is ambiguous."""
        loaded = _loaded_modules()
        if loaded != self._modules or len(self._answers) >= _KEPT:
            self._answers.clear()
            self._modules = loaded
        if symbol not in self._answers:
            self._answers[symbol] = tuple(_lines_of(symbol))
        return self._answers[symbol]


def _loaded_modules() -> frozenset[tuple[str, int]]:
    """Loadable modules, each with the number of its loading."""
    try:
        text = Path("/proc/modules").read_text()
    except FileNotFoundError:
        return frozenset()  # a kernel without modules
    return frozenset((name, load_of(name)) for name in (line.split()[0] for line in text.splitlines()))


def load_of(module: str) -> int:
    """A number that differs from one loading of a module to the next; 0 where it is not loaded."""
    try:
        return os.stat(_MODULES / module).st_ino
    except OSError:
        return 0


def _lines_of(symbol: str) -> Iterator[Function]:
    line = re.compile(
        rb"^([0-9a-f]+) [tTwW] " + re.escape(symbol.encode()) + rb"(?:\t\[(\w+)\])?$", re.MULTILINE
    )
    for block in _blocks(_KALLSYMS):
        # Most blocks do not have it, and to find that out this way costs a tenth.
        if b" " + symbol.encode() in block:
            for address, module in line.findall(block):
                yield Function(int(address, 16), module.decode())


def _blocks(place: Path) -> Iterator[bytes]:
    """A file in parts of whole lines, so small that looking at one delays no other thread."""
    rest = b""
    with place.open("rb") as file:
        while read := file.read(_BLOCK):
            whole, newline, rest = (rest + read).rpartition(b"\n")
            yield whole + newline
    if rest:
        yield rest


def size_at(address: int) -> int:
    """Bytes from a function's beginning to the next symbol; 0 where addresses are hidden."""
    if not address:
        return 0
    everything = (int(word, 16) for block in _blocks(_KALLSYMS) for word in _ADDRESS.findall(block))
    return min((found for found in everything if found > address), default=address) - address


def traceable(pattern: str) -> list[str]:
    """Functions that ftrace can trace and whose names match, each name that is unique.

    Raises:
        NotSupported: the kernel's list of them cannot be read.
    """
    names = re.compile(rb"^(" + _translated(pattern) + rb")(?=[ \n])", re.MULTILINE)
    counts = Counter(name for block in _blocks(_traceable_list()) for name in names.findall(block))
    return sorted(name.decode() for name, count in counts.items() if count == 1)


def _translated(pattern: str) -> bytes:
    """A shell pattern as a regular expression over names, which hold no white space."""
    inner = fnmatch.translate(pattern).removeprefix("(?s:").removesuffix(r")\Z")
    return inner.replace(".*", r"\S*").encode()


def _traceable_list() -> Path:
    for place in _TRACEABLE:
        if os.access(place, os.R_OK):
            return place
    raise NotSupported(
        f"{_TRACEABLE[0]} cannot be read, which lists the functions that can be traced; mount it with "
        "'mount -t tracefs tracefs /sys/kernel/tracing'"
    )


def blacklisted(symbol: str) -> bool:
    """Whether the kernel forbids probes there. False also where its list cannot be read."""
    try:
        text = _BLACKLIST.read_text()
    except OSError:
        return False
    return any(line.split()[-1] == symbol for line in text.splitlines() if "\t" in line)
