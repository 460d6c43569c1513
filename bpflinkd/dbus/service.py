"""The daemon's objects on the bus. Reads are answered from what was published last; verbs are elsewhere."""

import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from importlib import resources
from typing import Protocol, assert_never

import pydbus
from gi.repository import Gio, GLib
from pydbus.registration import ObjectRegistration

from bpflinkd.core import names
from bpflinkd.core.chronicle import LogEntry, Query
from bpflinkd.core.declarer import Outcome
from bpflinkd.core.errors import NoSuchLink, NotAuthorized
from bpflinkd.core.events import (
    ForeignChange,
    Healed,
    LinkAdded,
    LinkAmended,
    LinkRemoved,
    News,
    OwnerOverridden,
    ProgramReplaced,
    StateChanged,
    SwappedTogether,
)
from bpflinkd.core.findings import Circumstances, WatchSource
from bpflinkd.core.manager import Manager
from bpflinkd.core.model import LinkView
from bpflinkd.dbus import contract, happened, many, wire
from bpflinkd.dbus.closer import Closer
from bpflinkd.dbus.gate import Gate
from bpflinkd.dbus.holding import Holding
from bpflinkd.dbus.leases import Leases
from bpflinkd.dbus.limits import Admission, Limits
from bpflinkd.dbus.peer import Peers
from bpflinkd.dbus.polkit import Polkit
from bpflinkd.dbus.verbs import Done, Submit, SubmitSlow, Verbs
from bpflinkd.dbus.wrapper import Call, DeferringWrapper

log = logging.getLogger(__name__)

_string = GLib.Variant.new_string
_u64 = GLib.Variant.new_uint64
_INTERFACE = GLib.VariantType("{sa{sv}}")


class DaemonFacts(Protocol):
    """What is the daemon's, not the links'."""

    def properties(self) -> dict[str, GLib.Variant]:
        """Its part of the Manager's properties."""

    def reload(self, done: Callable[[Outcome | None, BaseException | None], None]) -> None:
        """Apply what the files say now."""

    def events(self, query: Query, make: Callable[[tuple[LogEntry, ...]], GLib.Variant], done: Done) -> None:
        """Read the event log: see `verbs.ReadEvents`."""


class _Published:
    """One link as readers see it. What goes out often is made once a change."""

    __slots__ = ("entry", "registration", "row", "view")

    def __init__(self, view: LinkView) -> None:
        self.registration = 0
        self.take(view)

    def take(self, view: LinkView) -> None:
        """Show a new view; what is made from it is made when it is asked for."""
        self.view = view
        self.entry: GLib.Variant | None = None
        self.row: GLib.Variant | None = None

    def managed(self, until: int) -> GLib.Variant:
        """The entry of GetManagedObjects: {oa{sa{sv}}}."""
        # A count of misses is read anew for each asking; when a link ends may have come to be known.
        if self.entry is None or self.view.misses is not None or until:
            path = GLib.Variant.new_object_path(wire.path_of(self.view.record.name))
            self.entry = GLib.Variant.new_dict_entry(path, self.interfaces(until))
        return self.entry

    def listed(self) -> GLib.Variant:
        """The row of List."""
        if self.row is None:
            self.row = wire.row(self.view)
        return self.row

    def interfaces(self, until: int = 0) -> GLib.Variant:
        """The a{sa{sv}} of GetManagedObjects and InterfacesAdded; `until` as for `link_properties`."""
        properties = wire.vardict(wire.link_properties(self.view, until))
        entry = GLib.Variant.new_dict_entry(_string(contract.LINK), properties)
        return GLib.Variant.new_array(_INTERFACE, [entry])


class Service:
    """The bus name and all objects under it."""

    def __init__(
        self,
        bus: pydbus.bus.Bus,
        manager: Manager,
        submit: Submit,
        submit_slow: SubmitSlow,
        facts: DaemonFacts,
        limits: Limits,
        closer: Closer,
        later: Callable[..., None],
        *,
        trusted: bool,
    ) -> None:
        """Register everything but the name: `claim` takes it when the links are ready.

        Args:
            submit_slow: for what another process compiles or loads.
            limits: what callers have used up, also before this connection.
            later: has a function called with arguments in a later round of the loop, a few in one round.
            trusted: it is the system's bus, on which nobody but polkit has polkit's name.
        """
        self._bus = bus
        self._later = later
        self._connection: Gio.DBusConnection = bus.con
        self._facts = facts
        self._links: dict[str, _Published] = {}
        number = _bus_id(bus.con)

        def lapse(name: str, holder: str) -> None:
            submit(lambda: manager.ownership.lapse_quietly(name, holder), lambda _result, _error: None)

        self._holding = Holding(bus.con, number, lapse)

        def count(asker: str) -> None:
            # Again: an earlier lease may have ended while the question for this one was answered.
            submit(lambda: manager.statistics.begin(asker), lambda _result, _error: None)

        def counted(asker: str) -> None:
            submit(lambda: manager.statistics.end(asker), lambda _result, _error: None)

        self._leases = Leases(bus.con, count, counted)
        polkit = Polkit(bus.con, trusted=trusted)
        verbs = Verbs(
            manager,
            submit,
            submit_slow,
            facts.reload,
            facts.events,
            polkit,
            number,
            self._leases,
            self._circumstances,
        )
        self._peers = Peers(bus.con)
        admit = Admission(self._peers.identify, limits)
        infos = dict(_interfaces())
        self._link_info = infos.pop(contract.LINK)
        properties = {
            (contract.PROPERTIES, "Get"): self._get,
            (contract.PROPERTIES, "GetAll"): self._get_all,
            (contract.PROPERTIES, "Set"): self._set,
        }
        self._root = DeferringWrapper(
            {
                **verbs.handlers,
                (contract.MANAGER, "List"): self._list,
                (contract.OBJECT_MANAGER, "GetManagedObjects"): self._managed_objects,
                **properties,
            },
            admit,
            closer,
        )
        self._gate = Gate(bus.con, infos[contract.MANAGER].methods, closer)
        interfaces = list(infos.values())
        self._registration = ObjectRegistration(bus, contract.ROOT, interfaces, self._root, True)
        self._link_wrapper = DeferringWrapper(properties, admit, closer)

    def claim(self) -> None:
        """Take the bus name. RuntimeError or GLib.Error: another has it, or the bus forbids it."""
        self._name = self._bus.request_name(contract.BUS_NAME, allow_replacement=False)

    def close(self) -> None:
        """The connection broke: let go of what would outlive it, or keep it in memory."""
        self._holding.close()
        self._leases.close()
        self._peers.close()
        for link in self._links.values():
            self._connection.unregister_object(link.registration)
        self._registration.unregister()
        self._root.close()
        self._link_wrapper.close()
        self._gate.close()

    def show(self, views: Iterable[LinkView]) -> None:
        """Show links that are there already; no signals, as nobody knows of us yet."""
        for view in views:
            self._add(view)

    def _circumstances(self) -> Circumstances:
        """For the doctor."""
        told = self._facts.properties()
        sources = told["WatchSources"].unpack().items()
        return Circumstances(
            sources=tuple(WatchSource(name=name, live=x["live"], detail=x["detail"]) for name, x in sources),
            refused=tuple(told["Refused"].unpack()),
            lapsing=frozenset(name for name in self._links if self._holding.until(name)),
        )

    # Reads

    def _managed_objects(self, call: Call) -> None:
        builder = GLib.VariantBuilder.new(GLib.VariantType("a{oa{sa{sv}}}"))
        for name, link in self._links.items():
            builder.add_value(link.managed(self._holding.until(name)))
        call.answer(GLib.Variant.new_tuple(builder.end()))

    def _list(self, call: Call) -> None:
        rows = [self._links[name].listed() for name in sorted(self._links)]
        table = GLib.Variant.new_array(GLib.VariantType("(sssstsst)"), rows)
        call.answer(GLib.Variant.new_tuple(table))

    def _properties_at(self, call: Call, interface: str) -> dict[str, GLib.Variant]:
        if call.path == contract.ROOT:
            if interface != contract.MANAGER:
                return {}
            states = Counter(link.view.state for link in self._links.values())
            return {**self._facts.properties(), "States": GLib.Variant("a{su}", states)}
        name = names.decode(call.path.removeprefix(contract.LINKS))
        link = self._links.get(name)
        if link is None:
            raise NoSuchLink(f"there is no link {name!r}")
        return wire.link_properties(link.view, self._holding.until(name))

    def _get(self, call: Call) -> None:
        interface, key = call.arguments
        value = self._properties_at(call, interface)[key]
        call.answer(GLib.Variant.new_tuple(GLib.Variant.new_variant(value)))

    def _get_all(self, call: Call) -> None:
        (interface,) = call.arguments
        call.answer(GLib.Variant.new_tuple(wire.vardict(self._properties_at(call, interface))))

    @staticmethod
    def _set(_call: Call) -> None:
        raise NotAuthorized("properties are read-only; use the methods of the Manager")

    # News

    def publish(self, news: News) -> None:
        """Show what the manager did. On the main loop, in the order in which it happened.

        Readers see it at once, so that whoever gets an answer finds what it says; signals go out in
        the loop's next round, so that the answer does not wait for them.
        """
        match news:
            case LinkAdded(view=view):
                self._add(view)
            case LinkRemoved(view=view):
                link = self._links.pop(view.record.name)
                self._connection.unregister_object(link.registration)
                self._holding.forget(view.record.name)
            case ProgramReplaced(view=view) | StateChanged(view=view) | LinkAmended(view=view):
                link = self._links[view.record.name]
                self._later(self._properties_changed, link.view, view)
                link.take(view)
                self._holding.follow(view)
            case SwappedTogether():
                self._signals(news)  # who asked waits for it
                return
            case ForeignChange() | Healed() | OwnerOverridden():
                pass
            case _:
                assert_never(news)
        self._later(self._signals, news)

    def recorded(self, number: int) -> None:
        """The event log has new entries, up to this number."""
        self._changed(contract.ROOT, contract.MANAGER, {"LastEvent": _u64(number)})

    def _add(self, view: LinkView) -> None:
        name = view.record.name
        link = _Published(view)
        link.registration = self._connection.register_object(
            wire.path_of(name), self._link_info, self._link_wrapper.call_method, None, None
        )
        self._links[name] = link
        self._holding.follow(view)

    def _signals(self, news: News) -> None:
        match news:
            case LinkAdded(view=view):
                name = view.record.name
                path = GLib.Variant.new_object_path(wire.path_of(name))
                interfaces = _Published(view).interfaces()
                self._signal("InterfacesAdded", path, interfaces, interface=contract.OBJECT_MANAGER)
                self._signal("LinkAdded", _string(name), path)
            case LinkRemoved(view=view, reason=reason):
                path = GLib.Variant.new_object_path(wire.path_of(view.record.name))
                gone = GLib.Variant.new_strv([contract.LINK])
                self._signal("InterfacesRemoved", path, gone, interface=contract.OBJECT_MANAGER)
                self._signal("LinkRemoved", _string(view.record.name), _string(reason))
            case ProgramReplaced(view=view, old=old):
                new = view.record.generation
                programs = (wire.program(old.program), wire.program(new.program))
                self._signal("ProgramReplaced", _string(view.record.name), _u64(new.number), *programs)
            case StateChanged(view=view, old=old_state):
                words = (view.record.name, view.state, old_state, view.health.reason)
                self._signal("StateChanged", *map(_string, words))
            case ForeignChange(view=view, kind=kind):
                name = view.record.name
                self._signal("ForeignChange", _string(name), _string(kind), happened.foreign_change(news))
            case SwappedTogether(swapped=swapped):
                self._signal("SwappedTogether", many.generations(swapped), _u64(swapped.skew_ns))
            case Healed() | LinkAmended() | OwnerOverridden():
                pass
            case _:
                assert_never(news)

    def _properties_changed(self, old: LinkView, new: LinkView) -> None:
        changed = wire.changed_properties(old, new)
        if changed:
            self._changed(wire.path_of(new.record.name), contract.LINK, changed)

    def _changed(self, path: str, interface: str, changed: dict[str, GLib.Variant]) -> None:
        body = GLib.Variant.new_tuple(_string(interface), wire.vardict(changed), GLib.Variant.new_strv([]))
        self._connection.emit_signal(None, path, contract.PROPERTIES, "PropertiesChanged", body)

    def _signal(self, name: str, *arguments: GLib.Variant, interface: str = contract.MANAGER) -> None:
        self._root.SignalEmitted(interface, name, GLib.Variant.new_tuple(*arguments))


@functools.cache
def _interfaces() -> dict[str, Gio.DBusInterfaceInfo]:
    """The contract by interface."""
    text = resources.files(__package__).joinpath("interface.xml").read_text()
    return {info.name: info for info in Gio.DBusNodeInfo.new_for_xml(text).interfaces}


def _bus_id(connection: Gio.DBusConnection) -> str:
    """The bus's own id: unique names are unique on one bus only. GLib.Error where the bus does not answer."""
    daemon = "org.freedesktop.DBus"
    kind = GLib.VariantType("(s)")
    answer = connection.call_sync(
        daemon, "/", daemon, "GetId", None, kind, Gio.DBusCallFlags.NONE, 5000, None
    )
    return str(answer.unpack()[0])
