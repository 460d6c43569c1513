"""Where programs come from: as a caller or a file names them, and as we remember it."""

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from bpflinkd.core.ids import ProgId

MAX_OBJECT: Final = 64 << 20
"""Bytes of the largest ELF object that we take."""
MAX_SOURCE: Final = 1 << 20
"""Bytes of the longest C source that we take."""
BUILTINS: Final = ("pass",)
"""The programs that ship with us."""
Constants: TypeAlias = tuple[tuple[str, str], ...]
"""Values of an object's global constants, by name, as text."""
Part: TypeAlias = tuple[int, int]
"""Where in an open file the object or source is, offset and length in bytes: a message carries few files, so
many programs may share one. None stands for all of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectFile:
    """Source: an ELF object that the caller sent as an open file."""

    fd: int
    program: str | None = None
    """Program (function) name; None where the object holds exactly one."""
    constants: Constants = ()
    part: Part | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """Source: an ELF object that we keep, by the sha256 of its bytes (hex)."""

    sha256: str
    program: str
    constants: Constants = ()

    def __str__(self) -> str:
        return f"object {self.sha256[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """Source: C for bcc that the caller sent as an open file."""

    fd: int
    program: str | None = None
    """Function name; None where the source holds exactly one."""
    part: Part | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSource:
    """Source: C for bcc that we keep, by the sha256 of its bytes (hex)."""

    sha256: str
    program: str

    def __str__(self) -> str:
        return f"source {self.sha256[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectImage:
    """Source: an ELF object that was read already."""

    data: bytes = field(repr=False)
    sha256: str
    """Of `data`, hex."""
    program: str | None = None
    """As for `ObjectFile`."""
    constants: Constants = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceText:
    """Source: C for bcc that was read already."""

    data: bytes = field(repr=False)
    sha256: str
    program: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptObject:
    """Source: an ELF object that our store has, because a link uses it or did."""

    sha256: str
    program: str | None = None
    constants: Constants = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSource:
    """Source: C for bcc that our store has."""

    sha256: str
    program: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedProgram:
    """Source: a program pinned on a bpffs."""

    path: str

    def __str__(self) -> str:
        return f"pin {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramById:
    """Source: a loaded program, by kernel id."""

    id: ProgId

    def __str__(self) -> str:
        return f"id {self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramFd:
    """Source: a loaded program, by a descriptor that the caller sent."""

    fd: int = -1

    def __str__(self) -> str:
        return "fd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Builtin:
    """Source: a program that ships with us. `pass` lets everything through."""

    name: str

    def __str__(self) -> str:
        return f"builtin {self.name}"


WantedProgram: TypeAlias = (
    ObjectFile | ObjectImage | SourceFile | SourceText | PinnedProgram | ProgramById | ProgramFd | Builtin
)
"""A program that can be opened; descriptors are open until the request is answered."""
Source: TypeAlias = StoredObject | StoredSource | PinnedProgram | ProgramById | ProgramFd | Builtin
"""Where a program came from, as we remember it."""


def with_bytes(
    source: StoredObject | StoredSource | KeptObject | KeptSource, data: bytes
) -> ObjectImage | SourceText:
    """The same with the file that our store has of it."""
    if isinstance(source, StoredSource | KeptSource):
        return SourceText(data=data, sha256=source.sha256, program=source.program)
    return ObjectImage(data=data, sha256=source.sha256, program=source.program, constants=source.constants)
