"""Link names and their encoding for bpffs and D-Bus paths."""

import re
from typing import Final

from bpflinkd.core.errors import BadName

MAX_BYTES: Final = 128
MAX_ENCODED: Final = 255
"""NAME_MAX: the encoded name is one directory entry of a bpffs."""

_ALLOWED: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@+-]*")
_PLAIN: Final = re.compile(r"[A-Za-z0-9]")


def check(name: str) -> str:
    """The name itself if it may be a link's, or `BadName` saying what is wrong with it."""
    size = len(name.encode(errors="surrogatepass"))
    if not name:
        raise BadName("the link name is empty; give one such as 'edge-filter'")
    if size > MAX_BYTES:
        raise BadName(f"the link name is {size} bytes long; at most {MAX_BYTES} are allowed")
    if not _ALLOWED.fullmatch(name):
        raise BadName(
            f"the link name {name!r} holds characters that are not allowed; it takes letters, digits "
            "and any of _ . : @ + - and begins with a letter or digit"
        )
    if len(encode(name)) > MAX_ENCODED:
        raise BadName(
            f"the link name {name!r} has too many punctuation characters: each takes three bytes "
            f"on a bpffs, where a name may take {MAX_ENCODED}"
        )
    return name


def encode(text: str) -> str:
    """Make text fit a bpffs name and a D-Bus path element: `eth0.100` becomes `eth0_2e100`.

    bpffs refuses dots (kernel/bpf/inode.c bpf_lookup), D-Bus paths allow [A-Za-z0-9_]. The
    scheme is that of sd_bus_path_encode(3): other bytes, and a leading digit, become `_xx`.
    """
    return (
        "".join(
            chr(byte)
            if _PLAIN.fullmatch(chr(byte)) and not (index == 0 and chr(byte).isdigit())
            else f"_{byte:02x}"
            for index, byte in enumerate(text.encode())
        )
        or "_"
    )


def decode(encoded: str) -> str:
    """The inverse of `encode`."""
    if encoded == "_":
        return ""
    raw = re.sub(
        rb"_([0-9a-f]{2})",
        lambda match: bytes([int(match[1], 16)]),
        encoded.encode(errors="replace"),
    )
    return raw.decode(errors="replace")
