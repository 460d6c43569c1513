"""Maps as the kernel describes them, for those who look before they leap. Pure."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from bpflinkd.core import maps
from bpflinkd.core.maps import MapShape

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
    def shape(self) -> MapShape:
        """What it was created with."""
        return MapShape(self.name, self.type, self.key_size, self.value_size, self.max_entries, self.flags)


def compatibility(running: Iterable[MapUse], new: Iterable[MapUse]) -> tuple[str, ...]:
    """What stands between the maps of the running program and those of a new one, a sentence a map."""
    before = {each.name[:_NAME_LENGTH]: each.shape for each in running if not maps.section(each.name)}
    found = []
    for each in new:
        known = before.get(each.name[:_NAME_LENGTH])
        if known is not None and not maps.section(each.name):
            differences = maps.differences(known, each.shape)
            if differences:
                found.append(f"map {each.name!r}: {', '.join(differences)}")
    return tuple(found)
