"""The methods that change something, or look where not everybody may.

Who asks is found out first, the work is the worker's, and the answer follows when it is done.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

from gi.repository import GLib

from bpflinkd.core.access import Unsanctioned
from bpflinkd.core.callers import Caller
from bpflinkd.core.checks import Checked, Loaded
from bpflinkd.core.chronicle import LogEntry, Query
from bpflinkd.core.declarer import Outcome
from bpflinkd.core.errors import BpflinkdError, NotAuthorized
from bpflinkd.core.findings import Circumstances
from bpflinkd.core.history import Past
from bpflinkd.core.ids import LinkId
from bpflinkd.core.manager import Manager
from bpflinkd.core.model import Feature, LinkView
from bpflinkd.core.requests import (
    AdoptRequest,
    AttachRequest,
    DetachRequest,
    ReplaceRequest,
    RollbackRequest,
    TransferRequest,
)
from bpflinkd.core.sources import ObjectFile, ObjectImage, SourceFile, SourceText, WantedProgram
from bpflinkd.dbus import contract, happened, parse, statistics, wire
from bpflinkd.dbus.examination import Examination
from bpflinkd.dbus.leases import Leases
from bpflinkd.dbus.looking import Looking
from bpflinkd.dbus.many import ReplaceMany
from bpflinkd.dbus.polkit import Polkit
from bpflinkd.dbus.wrapper import Call, Handlers

Done: TypeAlias = Callable[[Any, BaseException | None], None]


class Submit(Protocol):
    """Queue work for the worker; `done(result, error)` is called on the main loop."""

    def __call__(self, work: Callable[[], Any], done: Done) -> None: ...


class SubmitSlow(Protocol):
    """Queue work of a user that takes seconds and touches no link; `done` as above."""

    def __call__(self, uid: int, work: Callable[[], Any], done: Done) -> None: ...


class Reload(Protocol):
    """Apply what the files say now; `done` is called on the main loop."""

    def __call__(self, done: Callable[[Outcome | None, BaseException | None], None]) -> None: ...


class ReadEvents(Protocol):
    """Read the event log, and make an answer of it, both on a thread; `done(answer, error)` is called on the
    main loop."""

    def __call__(
        self, query: Query, make: Callable[[tuple[LogEntry, ...]], GLib.Variant], done: Done
    ) -> None: ...


class ToLoad(NamedTuple):
    """A program that is loaded elsewhere, before the worker comes to what it is for."""

    source: WantedProgram
    checked: Checked


class Verbs:
    """The methods of the Manager that go to the worker."""

    def __init__(
        self,
        manager: Manager,
        submit: Submit,
        submit_slow: SubmitSlow,
        reload: Reload,
        read_events: ReadEvents,
        polkit: Polkit,
        bus: str,
        leases: Leases,
        circumstances: Callable[[], Circumstances] = Circumstances,
    ) -> None:
        """`submit_slow` is for what takes as long as a compiler. `bus` is the bus's id. `leases` are
        those of who has runs counted. `circumstances` tells what the doctor is to know of the daemon."""
        self._manager = manager
        self._submit = submit
        self._submit_slow = submit_slow
        self._apply = reload
        self._read_events = read_events
        self._polkit = polkit
        self._bus = bus
        self._leases = leases
        self._many = ReplaceMany(manager.many, submit, submit_slow, _then)
        self._examination = Examination(manager.inspection, submit, submit_slow, circumstances)
        self._looking = Looking(manager.checking, _then, submit, submit_slow)

    @property
    def handlers(self) -> Handlers:
        """By interface and method."""
        methods: dict[str, Callable[[Call], None]] = {
            "Attach": self._attach,
            "Replace": self._replace,
            "ReplaceMany": self._replace_many,
            "Rollback": self._rollback,
            "Confirm": self._confirm,
            "History": self._history,
            "Detach": self._detach,
            "Transfer": self._transfer,
            "Claim": self._claim,
            "Adopt": self._adopt,
            "Reload": self._reload,
            "ProgramFile": self._program_file,
            "ListForeign": self._list_foreign,
            "Doctor": self._doctor,
            "Check": self._check,
            "Compare": self._compare,
            "Events": self._events,
            "Statistics": self._statistics,
            "Features": self._features,
        }
        return {(contract.MANAGER, name): handler for name, handler in methods.items()}

    def _attach(self, call: Call) -> None:
        name, target, program, options = call.arguments
        chosen = parse.attach_options(options, call.fd, self._bus)
        wanted = parse.wanted_target(target)
        source = parse.wanted_program(program, call.fd)

        def request(caller: Caller) -> AttachRequest:
            return AttachRequest(caller=caller, name=name, target=wanted, program=source, **chosen._asdict())

        def check(caller: Caller) -> Checked:
            return self._manager.check_attach(request(caller))

        def attach(caller: Caller, loaded: Loaded | None) -> LinkView:
            return self._manager.attach(request(caller), loaded)

        self._put(call, source, check, attach, _path)

    def _replace(self, call: Call) -> None:
        name, program, options = call.arguments
        chosen = parse.replace_options(options)
        number = parse.generation(program)
        if number is not None:
            self._go_back(call, name, number, chosen)
            return
        source = parse.wanted_program(program, call.fd)

        def request(caller: Caller) -> ReplaceRequest:
            return ReplaceRequest(caller=caller, name=name, program=source, **chosen._asdict())

        def check(caller: Caller) -> Checked:
            return self._manager.replacing.check(request(caller))

        def replace(caller: Caller, loaded: Loaded | None) -> LinkView:
            return self._manager.replacing.replace(request(caller), loaded)

        self._put(call, source, check, replace, _generation)

    def _rollback(self, call: Call) -> None:
        name, number = call.arguments
        self._go_back(call, name, number, parse.replace_options({}))

    def _go_back(self, call: Call, name: str, number: int, chosen: parse.ReplaceOptions) -> None:
        def request(caller: Caller) -> RollbackRequest:
            return RollbackRequest(caller=caller, name=name, generation=number or None, **chosen._asdict())

        def begin(caller: Caller) -> ToLoad | None:
            wanted = self._manager.history.check(request(caller))
            return ToLoad(wanted.source, wanted.checked) if wanted.source is not None else None

        def rollback(caller: Caller, loaded: Loaded | None) -> LinkView:
            return self._manager.history.rollback(request(caller), loaded)

        self._load_then(call, begin, rollback, _generation)

    def _confirm(self, call: Call) -> None:
        (name,) = call.arguments
        self._change(call, lambda caller: self._manager.trials.confirm(caller, name), _nothing)

    def _history(self, call: Call) -> None:
        (name,) = call.arguments

        def reply(past: tuple[Past, ...]) -> GLib.Variant:
            return GLib.Variant.new_tuple(wire.history(past))

        self._change(call, lambda _caller: self._manager.history.read(name), reply)

    def _replace_many(self, call: Call) -> None:
        self._many.begin(call, self._authorized)

    def _detach(self, call: Call) -> None:
        name, options = call.arguments
        force = parse.detach_options(options)
        self._change(
            call,
            lambda caller: self._manager.detach(DetachRequest(caller=caller, name=name, force=force)),
            _nothing,
        )

    def _transfer(self, call: Call) -> None:
        name, given = call.arguments
        owner, force = parse.transfer_to(given)

        def work(caller: Caller) -> None:
            request = TransferRequest(caller=caller, name=name, owner=owner, force=force)
            self._manager.ownership.transfer(request)

        self._change(call, work, _nothing)

    def _claim(self, call: Call) -> None:
        (name,) = call.arguments
        self._change(call, lambda caller: self._manager.ownership.claim(caller, name, self._bus), _nothing)

    def _adopt(self, call: Call) -> None:
        link_id, name, options = call.arguments
        chosen = parse.adopt_options(link_id, options)

        def work(caller: Caller) -> LinkView:
            request = AdoptRequest(caller=caller, name=name, link_id=link_id or None, **chosen._asdict())
            return self._manager.adoption.adopt(request)

        self._change(call, work, _path)

    def _reload(self, call: Call) -> None:
        def told(outcome: Outcome | None, error: BaseException | None) -> None:
            if outcome is None:
                call.fail(error or NotAuthorized("the reload came to no end"))
            else:
                call.answer(wire.outcome(outcome))

        self._authorized(call, self._manager.check_reload, lambda _caller, _result: self._apply(told))

    def _program_file(self, call: Call) -> None:
        (name,) = call.arguments

        def answer(_caller: Caller, file: ObjectImage | SourceText) -> None:
            kind = "object" if isinstance(file, ObjectImage) else "source"
            call.answer_file(GLib.Variant("(hss)", (0, kind, file.program)), file.data)

        self._authorized(call, lambda caller: self._manager.inspection.program_file(caller, name), answer)

    def _list_foreign(self, call: Call) -> None:
        def reply(found: Any) -> GLib.Variant:
            return GLib.Variant.new_tuple(wire.foreign(found))

        self._change(call, self._manager.inspection.list_foreign, reply)

    def _events(self, call: Call) -> None:
        (options,) = call.arguments
        wanted = parse.events_options(options)

        def read(_caller: Caller, allowed: Query) -> None:
            self._read_events(allowed, happened.events, _then(call, call.answer))

        self._authorized(call, lambda caller: self._manager.inspection.events(caller, wanted), read)

    def _statistics(self, call: Call) -> None:
        (options,) = call.arguments
        keep = parse.statistics_options(options)

        def read(caller: Caller) -> GLib.Variant:
            found = self._manager.statistics
            return statistics.told(found.ask(caller, call.sender) if keep else found.read())

        def answer(_caller: Caller, told: GLib.Variant) -> None:
            if keep:
                self._leases.keep(call.sender, keep)
            call.answer(told)

        self._authorized(call, read, answer)

    def _doctor(self, call: Call) -> None:
        def answer(findings: GLib.Variant) -> None:
            call.answer(GLib.Variant.new_tuple(findings))

        def begin(caller: Caller, ours: frozenset[LinkId]) -> None:
            self._examination.begin(caller, ours, _then(call, answer))

        self._authorized(call, self._manager.inspection.begin_examination, begin)

    def _check(self, call: Call) -> None:
        self._looking.check(call, self._authorized)

    def _compare(self, call: Call) -> None:
        self._looking.compare(call, self._authorized)

    def _features(self, call: Call) -> None:
        def reply(found: tuple[Feature, ...]) -> GLib.Variant:
            return GLib.Variant("(a(sbs))", ([(f.name, not f.lacks, f.lacks) for f in found],))

        self._change(call, lambda _caller: self._manager.inspection.features(), reply)

    # How they are done

    def _put(
        self,
        call: Call,
        source: WantedProgram,
        check: Callable[[Caller], Checked],
        work: Callable[[Caller, Loaded | None], Any],
        reply: Callable[[Any], GLib.Variant | None],
    ) -> None:
        """Do the work. What another process loads is loaded before."""

        def begin(caller: Caller) -> ToLoad | None:
            checked = check(caller)
            confined = checked.confined is not None and isinstance(source, ObjectFile)
            return ToLoad(source, checked) if confined or isinstance(source, SourceFile) else None

        if _caller(call).uid == 0 and not isinstance(source, SourceFile):
            self._change(call, lambda caller: work(caller, None), reply)
        else:
            self._load_then(call, begin, work, reply)

    def _load_then(
        self,
        call: Call,
        begin: Callable[[Caller], ToLoad | None],
        work: Callable[[Caller, Loaded | None], Any],
        reply: Callable[[Any], GLib.Variant | None],
    ) -> None:
        """Do the work. What `begin` says is checked and loaded before, on a thread of its own: other changes
        go on meanwhile."""

        def answer(result: Any) -> None:
            call.answer(reply(result))

        def go_on(caller: Caller, wanted: ToLoad | None) -> None:
            def put(program: Any) -> None:
                assert wanted is not None
                checked = wanted.checked
                loaded = Loaded(program, checked.confined, checked.replaces)
                self._submit(lambda: work(caller, loaded), _then(call, answer))

            if wanted is None:
                self._submit(lambda: work(caller, None), _then(call, answer))
            else:
                load = partial(self._manager.replacing.load, wanted.source, wanted.checked)
                self._submit_slow(caller.uid, load, _then(call, put))

        self._authorized(call, begin, go_on)

    def _change(
        self, call: Call, work: Callable[[Caller], Any], reply: Callable[[Any], GLib.Variant | None]
    ) -> None:
        """Find the caller, do the work on the worker, answer when it is done."""
        self._authorized(call, work, lambda _caller, result: call.answer(reply(result)))

    def _authorized(
        self, call: Call, work: Callable[[Caller], Any], go_on: Callable[[Caller, Any], None]
    ) -> None:
        self._attempt(call, _caller(call), work, go_on)

    def _attempt(
        self,
        call: Call,
        caller: Caller,
        work: Callable[[Caller], Any],
        go_on: Callable[[Caller, Any], None],
    ) -> None:
        """Do the work. Where it is refused unless polkit allows it, ask polkit and do it again: every rule is
        looked at anew, as the world may be another one by then."""

        def asked(action: Any, refusal: BpflinkdError, allowed: bool) -> None:
            if allowed:
                self._attempt(call, caller.sanctioned(action), work, go_on)
            else:
                call.fail(refusal)

        def done(result: Any, error: BaseException | None) -> None:
            if isinstance(error, Unsanctioned):
                action, refusal = error.action, error.refusal
                self._polkit.check(
                    call.sender, action, call.interactive, lambda allowed: asked(action, refusal, allowed)
                )
            elif error is not None:
                call.fail(error)
            else:
                go_on(caller, result)

        self._submit(lambda: work(caller), done)


def _caller(call: Call) -> Caller:
    assert call.caller is not None, "nobody is admitted unknown"
    return call.caller


def _then(call: Call, go_on: Callable[[Any], None]) -> Done:
    """Go on with the result, or answer with the error."""

    def done(result: Any, error: BaseException | None) -> None:
        if isinstance(error, Unsanctioned):
            call.fail(error.refusal)  # the rules changed since the first look
        elif error is not None:
            call.fail(error)
        else:
            go_on(result)

    return done


def _generation(view: LinkView) -> GLib.Variant:
    return GLib.Variant("(t)", (view.record.generation.number,))


def _path(view: LinkView) -> GLib.Variant:
    return GLib.Variant("(o)", (wire.path_of(view.record.name),))


def _nothing(_result: Any) -> None:
    return None
