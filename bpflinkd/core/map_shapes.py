"""Maps as the kernel describes them, for those who look before they leap. Pure."""

from collections.abc import Iterable
from typing import Final, NamedTuple

_NAME_LENGTH: Final = 15
"""Characters of a map's name that the kernel keeps."""


class MapUse(NamedTuple):
    """A map of a loaded program, in bytes and entries."""

    name: str
    """As in its file, where that is known; else what the kernel keeps of it."""
    type: int
    """`enum bpf_map_type`."""
    type_name: str
    """The same in words: `hash`."""
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    """BPF_F_*."""
    memory: int
    """Bytes that the kernel counts for it."""

    @property
    def is_section(self) -> bool:
        """Whether it holds variables or constants of the program: `.rodata`, `.bss`."""
        return "." in self.name


def compatibility(running: Iterable[MapUse], new: Iterable[MapUse]) -> tuple[str, ...]:
    """What stands between the maps of the running program and those of a new one, a sentence a map.

    THE PLACE where lines on compatibility get into the answer of Check: nobody else makes any.
    """
    before = {each.name[:_NAME_LENGTH]: each for each in running if not each.is_section}
    found = []
    for each in new:
        known = before.get(each.name[:_NAME_LENGTH])
        if known is None or each.is_section:
            continue
        differs = [
            f"{field.replace('_', ' ')} {getattr(known, field)}, now {getattr(each, field)}"
            for field in ("type_name", "key_size", "value_size", "max_entries", "flags")
            if getattr(known, field) != getattr(each, field)
        ]
        if differs:
            found.append(f"map {each.name!r}: {'; '.join(differs)}".replace("type name", "type"))
    return tuple(found)
