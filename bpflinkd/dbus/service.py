"""The daemon's objects on the bus. Reads are answered from what was published last; verbs go to
the worker and are answered when it is done."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from importlib import resources
from typing import Any, Protocol, assert_never

import pydbus
from gi.repository import Gio, GLib
from pydbus.registration import ObjectRegistration

from bpflinkd.core import names, plan
from bpflinkd.core.declarer import Outcome
from bpflinkd.core.errors import BpflinkdError, NoSuchLink, NotAuthorized
from bpflinkd.core.events import (
    ForeignChange,
    Healed,
    LinkAdded,
    LinkAmended,
    LinkRemoved,
    News,
    ProgramReplaced,
    StateChanged,
)
from bpflinkd.core.manager import Manager
from bpflinkd.core.model import Feature, LinkView
from bpflinkd.core.ports import Program
from bpflinkd.core.requests import AttachRequest, Caller, DetachRequest, ReplaceRequest
from bpflinkd.core.sources import ObjectImage, SourceFile, SourceText, WantedProgram
from bpflinkd.core.targets import WantedTarget
from bpflinkd.dbus import contract, wire
from bpflinkd.dbus.peer import Peers
from bpflinkd.dbus.wrapper import Call, DeferringWrapper

log = logging.getLogger(__name__)

_string = GLib.Variant.new_string
_u64 = GLib.Variant.new_uint64
_INTERFACE = GLib.VariantType("{sa{sv}}")


class Submit(Protocol):
    """Queue work for the worker; `done(result, error)` is called on the main loop."""

    def __call__(
        self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]
    ) -> None: ...


class DaemonFacts(Protocol):
    """What is the daemon's, not the links'."""

    def properties(self) -> dict[str, GLib.Variant]:
        """Its part of the Manager's properties."""

    def reload(self, done: Callable[[Outcome | None, BaseException | None], None]) -> None:
        """Apply what the files say now."""


def _then(call: Call, go_on: Callable[[Any], None]) -> Callable[[Any, BaseException | None], None]:
    """Go on with the result, or answer with the error."""

    def done(result: Any, error: BaseException | None) -> None:
        if error is not None:
            call.fail(error)
        else:
            go_on(result)

    return done


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

    def managed(self) -> GLib.Variant:
        """The entry of GetManagedObjects: {oa{sa{sv}}}."""
        # A count of misses is read anew for each asking.
        if self.entry is None or self.view.misses is not None:
            path = GLib.Variant.new_object_path(wire.path_of(self.view.record.name))
            self.entry = GLib.Variant.new_dict_entry(path, self.interfaces())
        return self.entry

    def listed(self) -> GLib.Variant:
        """The row of List."""
        if self.row is None:
            self.row = wire.row(self.view)
        return self.row

    def interfaces(self) -> GLib.Variant:
        """The a{sa{sv}} of GetManagedObjects and InterfacesAdded."""
        properties = wire.vardict(wire.link_properties(self.view))
        entry = GLib.Variant.new_dict_entry(_string(contract.LINK), properties)
        return GLib.Variant.new_array(_INTERFACE, [entry])


class Service:
    """The bus name and all objects under it."""

    def __init__(
        self,
        bus: pydbus.bus.Bus,
        manager: Manager,
        submit: Submit,
        submit_slow: Submit,
        facts: DaemonFacts,
    ) -> None:
        """Register everything but the name: `claim` takes it when the links are ready.

        `submit_slow` is for work that takes seconds and touches no link: compiling.
        """
        self._bus = bus
        self._connection: Gio.DBusConnection = bus.con
        self._manager = manager
        self._submit = submit
        self._submit_slow = submit_slow
        self._facts = facts
        self._peers = Peers(bus.con)
        self._links: dict[str, _Published] = {}
        text = resources.files(__package__).joinpath("interface.xml").read_text()
        infos = {info.name: info for info in Gio.DBusNodeInfo.new_for_xml(text).interfaces}
        self._link_info = infos.pop(contract.LINK)
        properties = {
            (contract.PROPERTIES, "Get"): self._get,
            (contract.PROPERTIES, "GetAll"): self._get_all,
            (contract.PROPERTIES, "Set"): self._set,
        }
        self._root = DeferringWrapper(
            {
                (contract.MANAGER, "Attach"): self._attach,
                (contract.MANAGER, "Replace"): self._replace,
                (contract.MANAGER, "Detach"): self._detach,
                (contract.MANAGER, "Reload"): self._reload,
                (contract.MANAGER, "ProgramFile"): self._program_file,
                (contract.MANAGER, "List"): self._list,
                (contract.MANAGER, "ListForeign"): self._list_foreign,
                (contract.MANAGER, "Features"): self._features,
                (contract.OBJECT_MANAGER, "GetManagedObjects"): self._managed_objects,
                **properties,
            }
        )
        interfaces = list(infos.values())
        self._registration = ObjectRegistration(bus, contract.ROOT, interfaces, self._root, True)
        self._link_wrapper = DeferringWrapper(properties)

    def claim(self) -> None:
        """Take the bus name. RuntimeError or GLib.Error: another has it, or the bus forbids it."""
        self._name = self._bus.request_name(contract.BUS_NAME, allow_replacement=False)

    def show(self, views: Iterable[LinkView]) -> None:
        """Show links that are there already; no signals, as nobody knows of us yet."""
        for view in views:
            self._add(view)

    # Verbs

    def _attach(self, call: Call) -> None:
        name, target, program, options = call.arguments
        chosen = wire.attach_options(options)
        wanted = wire.wanted_target(target)
        source = wire.wanted_program(program, call.fd)

        def request(caller: Caller) -> AttachRequest:
            return AttachRequest(caller=caller, name=name, target=wanted, program=source, **chosen._asdict())

        def path(view: LinkView) -> GLib.Variant:
            return GLib.Variant("(o)", (wire.path_of(view.record.name),))

        def check(caller: Caller) -> WantedTarget:
            self._manager.check_attach(request(caller))
            return wanted

        def attach(caller: Caller, loaded: Program | None) -> LinkView:
            return self._manager.attach(request(caller), loaded)

        self._put(call, source, check, attach, path)

    def _replace(self, call: Call) -> None:
        name, program, options = call.arguments
        expect = wire.replace_options(options)
        source = wire.wanted_program(program, call.fd)

        def request(caller: Caller) -> ReplaceRequest:
            return ReplaceRequest(caller=caller, name=name, program=source, expect=expect)

        def generation(view: LinkView) -> GLib.Variant:
            return GLib.Variant("(t)", (view.record.generation.number,))

        def check(caller: Caller) -> WantedTarget:
            return self._manager.check_replace(request(caller))

        def replace(caller: Caller, loaded: Program | None) -> LinkView:
            return self._manager.replace(request(caller), loaded)

        self._put(call, source, check, replace, generation)

    def _detach(self, call: Call) -> None:
        name, options = call.arguments
        wire.no_options(options)

        def work(caller: Caller) -> None:
            self._manager.detach(DetachRequest(caller=caller, name=name))

        self._change(call, work, lambda _: None)

    def _reload(self, call: Call) -> None:
        def begin(caller: Caller) -> None:
            plan.authorize(caller, "reload what is declared")
            self._facts.reload(_then(call, lambda outcome: call.answer(wire.outcome(outcome))))

        self._identified(call, begin)

    def _program_file(self, call: Call) -> None:
        (name,) = call.arguments

        def answer(file: ObjectImage | SourceText) -> None:
            kind = "object" if isinstance(file, ObjectImage) else "source"
            call.answer_file(GLib.Variant("(hss)", (0, kind, file.program)), file.data)

        def begin(caller: Caller) -> None:
            self._submit(lambda: self._manager.program_file(caller, name), _then(call, answer))

        self._identified(call, begin)

    def _list_foreign(self, call: Call) -> None:
        def reply(found: Any) -> GLib.Variant:
            return GLib.Variant.new_tuple(wire.foreign(found))

        self._change(call, self._manager.list_foreign, reply)

    def _features(self, call: Call) -> None:
        def reply(found: tuple[Feature, ...]) -> GLib.Variant:
            return GLib.Variant("(a(sbs))", ([(f.name, not f.lacks, f.lacks) for f in found],))

        self._change(call, lambda _caller: self._manager.features(), reply)

    def _change(
        self, call: Call, work: Callable[[Caller], Any], reply: Callable[[Any], GLib.Variant | None]
    ) -> None:
        """Find the caller, do the work on the worker, answer when it is done."""

        def begin(caller: Caller) -> None:
            self._submit(lambda: work(caller), _then(call, lambda result: call.answer(reply(result))))

        self._identified(call, begin)

    def _put(
        self,
        call: Call,
        source: WantedProgram,
        check: Callable[[Caller], WantedTarget],
        work: Callable[[Caller, Program | None], Any],
        reply: Callable[[Any], GLib.Variant | None],
    ) -> None:
        """Do the work. For C source, check and compile on a thread of its own before: other changes go on."""
        if not isinstance(source, SourceFile):
            self._change(call, lambda caller: work(caller, None), reply)
            return

        def begin(caller: Caller) -> None:
            def compile_for(target: WantedTarget) -> None:
                self._submit_slow(lambda: self._manager.compile(source, target), _then(call, change))

            def change(program: Program) -> None:
                self._submit(
                    lambda: work(caller, program), _then(call, lambda result: call.answer(reply(result)))
                )

            self._submit(lambda: check(caller), _then(call, compile_for))

        self._identified(call, begin)

    def _identified(self, call: Call, then: Callable[[Caller], None]) -> None:
        def told(caller: Caller | None) -> None:
            try:
                if caller is None:
                    raise NotAuthorized("the bus does not say who you are")
                then(caller)
            except BpflinkdError as error:
                call.fail(error)

        self._peers.identify(call.sender, told)

    # Reads

    def _managed_objects(self, call: Call) -> None:
        builder = GLib.VariantBuilder.new(GLib.VariantType("a{oa{sa{sv}}}"))
        for link in self._links.values():
            builder.add_value(link.managed())
        call.answer(GLib.Variant.new_tuple(builder.end()))

    def _list(self, call: Call) -> None:
        rows = [self._links[name].listed() for name in sorted(self._links)]
        table = GLib.Variant.new_array(GLib.VariantType("(sssutsst)"), rows)
        call.answer(GLib.Variant.new_tuple(table))

    def _properties_at(self, call: Call, interface: str) -> dict[str, GLib.Variant]:
        if call.path == contract.ROOT:
            if interface != contract.MANAGER:
                return {}
            states = Counter(link.view.health.state for link in self._links.values())
            return {**self._facts.properties(), "States": GLib.Variant("a{su}", states)}
        name = names.decode(call.path.removeprefix(contract.LINKS))
        link = self._links.get(name)
        if link is None:
            raise NoSuchLink(f"there is no link {name!r}")
        return wire.link_properties(link.view)

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
            case ProgramReplaced(view=view) | StateChanged(view=view) | LinkAmended(view=view):
                link = self._links[view.record.name]
                self._later(self._properties_changed, link.view, view)
                link.take(view)
            case ForeignChange() | Healed():
                pass
            case _:
                assert_never(news)
        self._later(self._signals, news)

    @staticmethod
    def _later(function: Callable[..., None], *arguments: Any) -> None:
        def once() -> bool:
            function(*arguments)
            return bool(GLib.SOURCE_REMOVE)

        GLib.idle_add(once, priority=GLib.PRIORITY_DEFAULT)

    def _add(self, view: LinkView) -> None:
        name = view.record.name
        link = _Published(view)
        link.registration = self._connection.register_object(
            wire.path_of(name), self._link_info, self._link_wrapper.call_method, None, None
        )
        self._links[name] = link

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
                health = view.health
                words = (view.record.name, health.state, old_state, health.reason)
                self._signal("StateChanged", *map(_string, words))
            case ForeignChange(view=view, kind=kind):
                name = view.record.name
                self._signal("ForeignChange", _string(name), _string(kind), wire.foreign_change(news))
            case Healed() | LinkAmended():
                pass
            case _:
                assert_never(news)

    def _properties_changed(self, old: LinkView, new: LinkView) -> None:
        before, after = wire.link_properties(old), wire.link_properties(new)
        changed = {key: value for key, value in after.items() if not value.equal(before[key])}
        if changed:
            body = GLib.Variant.new_tuple(
                _string(contract.LINK), wire.vardict(changed), GLib.Variant.new_strv([])
            )
            path = wire.path_of(new.record.name)
            self._connection.emit_signal(None, path, contract.PROPERTIES, "PropertiesChanged", body)

    def _signal(self, name: str, *arguments: GLib.Variant, interface: str = contract.MANAGER) -> None:
        self._root.SignalEmitted(interface, name, GLib.Variant.new_tuple(*arguments))
