"""The constants of an ELF object, by its BTF: `const volatile` variables, which --set gives their values.

Layout: include/uapi/linux/btf.h. BTF is the object's, so anybody's: nothing in it is believed.
"""

import difflib
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from bpflinkd.core.errors import BadOption, BadProgram

_MAGIC: Final = 0xEB9F
_HEADER: Final = struct.Struct("=HBBIIIII")
_TYPE: Final = struct.Struct("=III")
_INT, _ARRAY, _STRUCT, _UNION, _ENUM = 1, 3, 4, 5, 6
_TYPEDEF, _VOLATILE, _CONST, _VAR, _DATASEC = 8, 9, 10, 14, 15
_TYPE_TAG, _ENUM64 = 18, 19
_SIGNED, _BOOL = 1, 4
# Bytes behind a type's head: fixed ones, and some for each of its members.
_BEHIND: Final = {
    _INT: (4, 0),
    2: (0, 0),
    _ARRAY: (12, 0),
    _STRUCT: (0, 12),
    _UNION: (0, 12),
    _ENUM: (0, 8),
    7: (0, 0),
    _TYPEDEF: (0, 0),
    _VOLATILE: (0, 0),
    _CONST: (0, 0),
    11: (0, 0),
    12: (0, 0),
    13: (0, 8),
    _VAR: (4, 0),
    _DATASEC: (0, 12),
    16: (0, 0),
    17: (4, 0),
    _TYPE_TAG: (0, 0),
    _ENUM64: (0, 12),
}
_DEEPEST: Final = 32
_MOST_LISTED: Final = 20
_LONGEST_NUMBER: Final = 80
_LONGEST_NAME: Final = 512


class _Type(NamedTuple):
    name: str
    kind: int
    members: int
    signed: bool
    """Of an enum."""
    size: int
    """Or the type that it is made of."""
    behind: bytes


class Constant(NamedTuple):
    """A constant of an object."""

    section: str
    """`.rodata`, or a custom section that begins so."""
    offset: int
    size: int
    kind: str
    """`signed`, `unsigned`, `bool`, `text`, or what it is that cannot be set, in words."""


def constants(raw: bytes) -> dict[str, Constant]:
    """Every constant by name. `BadProgram` where the BTF cannot be read."""
    try:
        types = list(_types(raw))
        return dict(_constants(types))
    except (struct.error, IndexError, RecursionError):
        raise BadProgram("the object's BTF is damaged; compile it anew with: clang -g") from None


def encode(name: str, constant: Constant, text: str) -> bytes:
    """The bytes of a value that was given as text. `BadOption` where it does not fit."""
    match constant.kind:
        case "bool":
            value = {"true": 1, "1": 1, "false": 0, "0": 0}.get(text)
            if value is None:
                raise BadOption(f"the constant {name!r} is a bool: true or false, not {text[:80]!r}")
            return bytes([value])
        case "text":
            data = text.encode(errors="surrogateescape")
            if len(data) >= constant.size:
                raise BadOption(
                    f"the constant {name!r} has room for {constant.size - 1} bytes of text, and "
                    f"{text[:80]!r} has {len(data)}"
                )
            return data.ljust(constant.size, b"\0")
        case "signed" | "unsigned":
            try:
                value = int(text[:_LONGEST_NUMBER], 0)
            except ValueError:
                raise BadOption(
                    f"the constant {name!r} is a number, such as 42, -1 or 0x2a; not {text[:80]!r}"
                ) from None
            return _number(name, constant, value, text)
        case other:
            raise BadOption(f"the constant {name!r} is {other}; only numbers, bool and text can be set")


def _number(name: str, constant: Constant, value: int, text: str) -> bytes:
    signed = constant.kind == "signed"
    try:
        return value.to_bytes(constant.size, "little", signed=signed)
    except OverflowError:
        bits = constant.size * 8
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        raise BadOption(
            f"{text[:80]} does not fit the constant {name!r}, a number from {low} to {high}"
        ) from None


def find(known: Mapping[str, Constant], name: str) -> Constant:
    """One of them, or `BadOption` with those that there are."""
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name[:80], [each[:80] for each in known], n=1)
    have = ", ".join([each[:80] for each in known][:_MOST_LISTED])
    if close:
        hint = f"did you mean {close[0]!r}?"
    elif have:
        hint = f"it has: {have}"
    else:
        hint = "it has none. A constant is a global variable that is 'const volatile'"
    raise BadOption(f"the object has no constant {name[:80]!r}; {hint}")


def _types(raw: bytes) -> Iterator[_Type]:
    """Every type, the first of which has the number 1."""
    magic, _, _, header, at, length, strings, _ = _HEADER.unpack_from(raw)
    if magic != _MAGIC:
        raise struct.error("no BTF of this machine's byte order")
    at, strings = header + at, header + strings
    end = at + length
    while at < end:
        name, info, size = _TYPE.unpack_from(raw, at)
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        if kind not in _BEHIND:
            raise struct.error(f"type {kind}")
        fixed, each = _BEHIND[kind]
        at += _TYPE.size
        behind = raw[at : at + fixed + each * count]
        if len(behind) < fixed + each * count:
            raise struct.error("cut off")
        at += len(behind)
        yield _Type(_string(raw, strings + name), kind, count, bool(info >> 31), size, behind)


def _string(raw: bytes, at: int) -> str:
    found, end, _ = raw[at : at + _LONGEST_NAME].partition(b"\0")
    if not end:
        raise struct.error("a name without an end")
    return found.decode(errors="replace")


def _constants(types: Sequence[_Type]) -> Iterator[tuple[str, Constant]]:
    for section in types:
        if section.kind != _DATASEC or not (section.name == ".rodata" or section.name.startswith(".rodata.")):
            continue
        for number, offset, size in struct.iter_unpack("=III", section.behind):
            variable = types[number - 1]
            if variable.kind == _VAR and number > 0:
                yield (
                    variable.name,
                    Constant(section.name, offset, size, _described(types, variable.size, size)),
                )


def _plain(types: Sequence[_Type], number: int) -> _Type:
    """A type without its names and qualifiers."""
    for _ in range(_DEEPEST):
        if number < 1:
            break
        found = types[number - 1]
        if found.kind not in (_TYPEDEF, _VOLATILE, _CONST, _TYPE_TAG):
            return found
        number = found.size
    raise struct.error("no type")


def _described(types: Sequence[_Type], number: int, size: int) -> str:
    """What kind of constant it is."""
    found = _plain(types, number)
    if found.kind == _INT and found.size == size and size in (1, 2, 4, 8):
        (encoding,) = struct.unpack("=I", found.behind)
        bits = encoding >> 24 & 0xF
        return "bool" if bits & _BOOL else "signed" if bits & _SIGNED else "unsigned"
    if found.kind in (_ENUM, _ENUM64) and found.size == size:
        return "signed" if found.signed else "unsigned"
    if found.kind == _ARRAY:
        element, _, count = struct.unpack("=III", found.behind)
        inner = _plain(types, element)
        return "text" if inner.kind == _INT and inner.size == 1 and count == size else "an array"
    return {_STRUCT: "a struct", _UNION: "a union"}.get(found.kind, "of a type that has no values in words")
