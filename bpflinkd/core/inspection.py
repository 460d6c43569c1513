"""Looks at the kernel and into the store for callers. Runs on the worker thread, and only there."""

from typing import Final

from bpflinkd.core.access import Access
from bpflinkd.core.callers import Action, Caller
from bpflinkd.core.errors import BadProgram
from bpflinkd.core.ids import Micros
from bpflinkd.core.links import Links
from bpflinkd.core.model import Feature, Foreign
from bpflinkd.core.ports import Kernel, Store, Ticks
from bpflinkd.core.sources import ObjectImage, SourceText, StoredObject, StoredSource

FEATURES_HOLD: Final = 5_000_000
"""Microseconds for which what the kernel can do is taken to stay so."""


class Inspection:
    """What there is, beyond the links as they are published."""

    def __init__(self, links: Links, access: Access, kernel: Kernel, store: Store, ticks: Ticks) -> None:
        self._links = links
        self._access = access
        self._kernel = kernel
        self._store = store
        self._ticks = ticks
        self._features: tuple[Feature, ...] = ()
        self._known = Micros(0)

    def features(self) -> tuple[Feature, ...]:
        """What this kernel and host can do. Tried again only after a while: anybody may ask."""
        now = self._ticks()
        if not self._features or now > self._known + FEATURES_HOLD:
            self._features, self._known = self._kernel.features(), now
        return self._features

    def list_foreign(self, caller: Caller) -> tuple[Foreign, ...]:
        """Programs that are not ours, on XDP hooks and on the cgroups of our links."""
        self._access.administer(caller, Action.VIEW, "list the programs of others")
        ours = frozenset(entry.held.link.id for entry in self._links.values() if entry.held.link)
        targets = (entry.record.target for entry in self._links.values())
        return self._kernel.foreign(targets, ours)

    def program_file(self, caller: Caller, name: str) -> ObjectImage | SourceText:
        """The file that a link's program was loaded from."""
        record = self._links.named(name).record
        self._access.see_file(caller, record)
        source = record.generation.source
        data = self._store.image(source.sha256) if isinstance(source, StoredObject | StoredSource) else None
        if data is None or not isinstance(source, StoredObject | StoredSource):
            raise BadProgram(f"the program of link {name!r} came from {source}, not from a file that is kept")
        kind = ObjectImage if isinstance(source, StoredObject) else SourceText
        return kind(data=data, sha256=source.sha256, program=source.program)
