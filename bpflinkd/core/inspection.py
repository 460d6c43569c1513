"""Looks at the kernel and into the store for callers. Runs on the worker thread, and only there,
but for `survey`."""

from dataclasses import replace
from typing import Final

from bpflinkd.core.access import Access, described, owns
from bpflinkd.core.callers import Action, Caller
from bpflinkd.core.chronicle import Query
from bpflinkd.core.errors import BadProgram
from bpflinkd.core.findings import Circumstances, Facts
from bpflinkd.core.ids import LinkId, Micros
from bpflinkd.core.links import Links
from bpflinkd.core.model import Feature, Foreign
from bpflinkd.core.ports import Kernel, Pins, Store, Ticks
from bpflinkd.core.sources import ObjectImage, SourceText, StoredObject, StoredSource
from bpflinkd.core.survey import Survey

FEATURES_HOLD: Final = 5_000_000
"""Microseconds for which what the kernel can do is taken to stay so."""


class Inspection:
    """What there is, beyond the links as they are published."""

    def __init__(
        self, links: Links, access: Access, kernel: Kernel, store: Store, ticks: Ticks, pins: Pins
    ) -> None:
        self._links = links
        self._access = access
        self._kernel = kernel
        self._pins = pins
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
        targets = (entry.record.target for entry in self._links.values())
        return self._kernel.foreign(targets, self._ours())

    def begin_examination(self, caller: Caller) -> frozenset[LinkId]:
        """Whether this caller may have the host examined; returns the bpf_links that are ours now."""
        self._access.administer(caller, Action.VIEW, "have the host examined")
        return self._ours()

    def survey(self) -> Survey:
        """Look at the whole host. Takes seconds, and touches no link: on a thread other than the worker."""
        return self._kernel.survey()

    def facts(
        self, caller: Caller, survey: Survey, ours: frozenset[LinkId], circumstances: Circumstances
    ) -> Facts:
        """What the doctor judges by, on whichever thread.

        Args:
            ours: what `begin_examination` returned. Links came and went since.
        """
        return Facts(
            survey=survey,
            links=tuple(entry.view() for entry in self._links.values()),
            ours=ours | self._ours(),
            strays=frozenset(self._pins.strangers(self._links)),
            kept=frozenset(map(self._pins.kept_place, self._links)),
            features=self.features(),
            circumstances=circumstances,
            asker=caller.user,
        )

    def _ours(self) -> frozenset[LinkId]:
        return frozenset(entry.held.link.id for entry in self._links.values() if entry.held.link)

    def events(self, caller: Caller, query: Query) -> Query:
        """What of the event log this caller may read of what it asks for.

        Others than administrators name links that they own, and are told what happened to these since they
        were made: before, the name may have been another's. `Unsanctioned`.
        """
        if caller.may(Action.VIEW):
            return query
        since = {}
        for name in query.links or ():
            entry = self._links.get(name)
            if entry is None:
                self._access.administer(
                    caller, Action.VIEW, f"read what happened to {name!r}, which is no link"
                )
            elif not owns(caller, entry.record.owner):
                owner = described(entry.record.owner)
                verb = f"read what happened to link {name!r}, which {owner} owns"
                self._access.administer(caller, Action.VIEW, verb)
            else:
                since[name] = entry.record.created
        if not since:
            self._access.administer(
                caller, Action.VIEW, "read what happened without naming links that it owns"
            )
        return replace(query, links=since)

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
