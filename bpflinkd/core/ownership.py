"""Owners of links, and connections that links live with. Runs on the worker thread, and only there."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

from bpflinkd.core.access import Access
from bpflinkd.core.callers import ROOT_CALLER, Action, Caller, Owner
from bpflinkd.core.errors import BadOption, BpflinkdError
from bpflinkd.core.events import LinkAmended, OwnerOverridden
from bpflinkd.core.links import Entry, Links
from bpflinkd.core.maps import MapWishes
from bpflinkd.core.model import LinkView, Record
from bpflinkd.core.ports import Publish, Store
from bpflinkd.core.requests import ReplaceRequest, TransferRequest
from bpflinkd.core.sources import Builtin, StoredObject, WantedProgram, with_bytes
from bpflinkd.core.targets import WantedTarget

if TYPE_CHECKING:
    from bpflinkd.core.manager import Manager

log = logging.getLogger(__name__)

Receiver: TypeAlias = Callable[[Owner], Caller]
"""An owner as if it called, with the groups that it is in."""
_ENDED: Final = "the connection that held it ended"


class Ownership:
    """Who owns what, and until when."""

    def __init__(
        self,
        manager: "Manager",
        links: Links,
        access: Access,
        store: Store,
        publish: Publish,
        receiver: Receiver,
    ) -> None:
        self._manager = manager
        self._links = links
        self._access = access
        self._store = store
        self._publish = publish
        self._receiver = receiver

    def check_new(
        self, caller: Caller, owner: Owner, name: str, target: WantedTarget, *, force: bool
    ) -> None:
        """Refuse an owner of a new link. `NotAuthorized`, `LimitExceeded`, `Unsanctioned`."""
        self._access.own(caller, owner)
        if not caller.may(Action.ATTACH):
            self._access.limit_links(caller, owner, target, self._owned(owner))
        elif owner != caller.user and not force:
            self._access.receive(self._receiver(owner), owner, name, target)

    def transfer(self, request: TransferRequest) -> LinkView:
        """Make somebody else the owner."""
        caller, owner = request.caller, request.owner
        entry = self._links.named(request.name)
        record = entry.record
        overrides = self._access.change(caller, record, "transfer it", force=request.force)
        if not (request.force and caller.may(Action.CHANGE_ANY)):
            receiver = self._receiver(owner)
            self._access.receive(receiver, owner, record.name, record.target)
            if receiver.uid != 0:
                self._access.limit_links(receiver, owner, record.target, self._owned(owner))
        before = entry.view()
        self._settle(entry, replace(record, owner=owner))
        if overrides:
            self._publish(OwnerOverridden(view=before, by=caller.actor, verb="transferred"))
        return entry.view()

    def claim(self, caller: Caller, name: str, bus: str) -> LinkView:
        """Let the caller's connection be the one that a link lives with."""
        entry = self._links.named(name)
        record = entry.record
        self._access.change(caller, record, "claim it")
        if record.hold is None:
            raise BadOption(
                f"link {name!r} has the lifetime {record.lifetime}: it lives without any connection, so "
                "there is nothing to claim"
            )
        self._settle(entry, replace(record, hold=replace(record.hold, holder=caller.name, bus=bus)))
        return entry.view()

    def lapse(self, name: str, holder: str) -> None:
        """The connection is gone, and the grace time over: end the link, or let the fallback run.

        Nothing is done where the link was claimed, replaced by one of the same name, or let go meanwhile.
        """
        entry = self._links.get(name)
        hold = entry.record.hold if entry is not None else None
        if entry is None or hold is None or hold.holder != holder:
            return
        if hold.fallback is None:
            self._manager.end(name, _ENDED)
            return
        program = self._fallback(entry.record)
        self._manager.replacing.replace(
            ReplaceRequest(
                caller=ROOT_CALLER,
                name=name,
                program=program,
                ours=True,
                message=_ENDED,
                # Maps that do not fit must not keep it from coming.
                maps=MapWishes(fresh=True),
            )
        )
        self._settle(entry, replace(entry.record, hold=replace(hold, holder="")))

    def lapse_quietly(self, name: str, holder: str) -> None:
        """The same; what goes wrong is only for the log, and the link stays as it is."""
        try:
            self.lapse(name, holder)
        except BpflinkdError as error:
            log.error("link %r outlives the connection that held it: %s", name, error)

    def _fallback(self, record: Record) -> WantedProgram:
        assert record.hold is not None
        source = record.hold.fallback
        if isinstance(source, StoredObject):
            data = self._store.image(source.sha256)
            if data is not None:
                return with_bytes(source, data)
        return source if isinstance(source, Builtin) else Builtin(name="pass")

    def _owned(self, owner: Owner) -> list[Record]:
        return [entry.record for entry in self._links.values() if entry.record.owner == owner]

    def _settle(self, entry: Entry, record: Record) -> None:
        if record != entry.record:
            self._store.settle(record)
            entry.record = record
            self._publish(LinkAmended(view=entry.view()))
