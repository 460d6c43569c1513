"""Maps as the kernel describes them, for those who look before they leap. Pure."""

from typing import NamedTuple

from bpflinkd.core.maps import MapShape


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
