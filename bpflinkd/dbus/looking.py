"""The methods Check and Compare: begun on the worker, done on another thread, answered as dictionaries."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol, TypeAlias

from gi.repository import GLib

from bpflinkd.core import testruns
from bpflinkd.core.attach_types import ProgramType
from bpflinkd.core.callers import Caller
from bpflinkd.core.checking import (
    CheckBegun,
    Checking,
    CheckReport,
    CheckRequest,
    CompareBegun,
    CompareRequest,
)
from bpflinkd.core.map_shapes import MapUse
from bpflinkd.core.maps import Fates
from bpflinkd.core.testruns import Comparison, TestedPacket
from bpflinkd.dbus import parse, wire
from bpflinkd.dbus.wrapper import Call

_Done: TypeAlias = Callable[[Any, BaseException | None], None]
_Submit: TypeAlias = Callable[[Callable[[], Any], _Done], None]
_SubmitSlow: TypeAlias = Callable[[int, Callable[[], Any], _Done], None]
_Then: TypeAlias = Callable[[Call, Callable[[Any], None]], _Done]
_MOST_NAMED: Final = 256
_string = GLib.Variant.new_string
_u32 = GLib.Variant.new_uint32
_u64 = GLib.Variant.new_uint64


class Authorized(Protocol):
    """Begins with work that may be refused unless polkit allows it, and goes on with what it returned."""

    def __call__(
        self, call: Call, work: Callable[[Caller], Any], go_on: Callable[[Caller, Any], None]
    ) -> None: ...


class Looking:
    """For the main loop."""

    def __init__(self, checking: Checking, then: _Then, submit: _Submit, submit_slow: _SubmitSlow) -> None:
        """`then` goes on with a result or answers with the error; the rest are arguments of `Verbs`."""
        self._checking = checking
        self._then = then
        self._submit = submit
        self._submit_slow = submit_slow

    # What begins a call is a method of `Verbs`. Were it kept here, each would keep the other in memory, and
    # the connection, when that is broken.

    def check(self, call: Call, authorized: Authorized) -> None:
        """Check(a{sv} target, a{sv} program, a{sv} options) -> a{sv}."""
        target, program, options = call.arguments
        chosen = parse.check_options(options)
        wanted = parse.wanted_target(target) if target or chosen.link is None else None
        source = parse.wanted_program(program, call.fd)

        def request(caller: Caller) -> CheckRequest:
            return CheckRequest(caller=caller, target=wanted, program=source, **chosen._asdict())

        def load(caller: Caller, begun: CheckBegun) -> None:
            asked = request(caller)

            def finish(examined: Any) -> None:
                work = self._checking.finish_check
                self._submit(lambda: report(work(asked, begun, examined)), self._then(call, call.answer))

            work = self._checking.examine
            self._submit_slow(caller.uid, lambda: work(asked, begun), self._then(call, finish))

        authorized(call, lambda caller: self._checking.begin_check(request(caller)), load)

    def compare(self, call: Call, authorized: Authorized) -> None:
        """Compare(s name, a{sv} program, h packets, a{sv} options) -> a{sv}."""
        name, program, packets, options = call.arguments
        chosen = parse.compare_options(options)
        source = parse.wanted_program(program, call.fd)
        fd = call.fd(packets)

        def request(caller: Caller) -> CompareRequest:
            return CompareRequest(caller=caller, name=name, program=source, packets_fd=fd, **chosen._asdict())

        def run(caller: Caller, begun: CompareBegun) -> None:
            asked = request(caller)

            def work() -> GLib.Variant:
                return comparison(begun, self._checking.compare(asked, begun))

            self._submit_slow(caller.uid, work, self._then(call, call.answer))

        authorized(call, lambda caller: self._checking.begin_compare(request(caller)), run)


def report(value: CheckReport) -> GLib.Variant:
    """What Check returns: (a{sv})."""
    examined = value.examined
    info = examined.program.info
    log = examined.log.replace("\0", " ").encode(errors="replace").decode()
    told = {
        "target": wire.target(value.target),
        "attach_type": _string(value.target.attach_type.name),
        "program": wire.program(info),
        "log": _string(log),
        "translated": _u32(examined.translated),
        "jited": _u32(examined.jited),
        "verified": _u32(examined.verified),
        "program_memory": _u64(examined.memory),
        "memory": _u64(value.memory),
        "maps": _dictionaries(_map(each, value.fates) for each in examined.maps),
        "compatibility": GLib.Variant.new_strv(list(value.fates.wrong.values())),
        "features": GLib.Variant("a(sbs)", [(f.name, not f.lacks, f.lacks) for f in value.features]),
        "obstacle": _string(str(value.obstacle or "")),
        "refusal": _string(type(value.obstacle).__name__ if value.obstacle else ""),
        "tests": _dictionaries(_tested(info.type, each) for each in examined.tested),
        "not_tested": _string(examined.not_tested),
    }
    if value.record is not None:
        told["generation"] = _u64(value.record.generation.number)
        told["running"] = wire.program(value.record.generation.program)
    return GLib.Variant.new_tuple(wire.vardict(told))


def _map(each: MapUse, fates: Fates) -> dict[str, GLib.Variant]:
    numbers = ("key_size", "value_size", "max_entries", "flags")
    return {
        "name": _string(each.name),
        "type": _string(each.type_name),
        **{key: _u32(getattr(each, key)) for key in numbers},
        "memory": _u64(each.memory),
        "kept": GLib.Variant.new_boolean(each.name in fates.kept),
    }


def _tested(program_type: int, each: TestedPacket) -> dict[str, GLib.Variant]:
    return {
        "packet": _string(each.what),
        "verdict": _string(testruns.verdict(program_type, each.verdict)),
        "value": _u32(each.verdict),
        "nanoseconds": _u32(each.nanoseconds),
    }


def comparison(begun: CompareBegun, value: Comparison) -> GLib.Variant:
    """What Compare returns: (a{sv}). Not made on the main loop: it may have many rows."""
    tally, kind = value.tally, begun.pair.program_type
    generation = begun.record.generation
    verdicts = [(old, new, count) for (old, new), count in tally.verdicts.most_common()]
    told = {
        "type": _string(ProgramType(kind).name.lower()),
        "generation": _u64(generation.number),
        "running": wire.program(generation.program),
        "packets": _u64(value.packets),
        "verdicts": GLib.Variant("a(uut)", verdicts),
        "names": GLib.Variant("a(us)", _names(kind, tally)),
        "differing": _u64(tally.differing),
        "differences": GLib.Variant("a(uuub)", tally.differences),
        "not_run": GLib.Variant("a(st)", tally.not_run.most_common()),
        "copied": GLib.Variant.new_strv(list(value.copied)),
        "fresh": GLib.Variant("a(sss)", value.fresh),
    }
    return GLib.Variant.new_tuple(wire.vardict(told))


def _names(kind: ProgramType, tally: testruns.Tally) -> list[tuple[int, str]]:
    """Programs may return anything: the first few are named."""
    values = sorted({value for pair in tally.verdicts for value in pair})
    return [(value, testruns.verdict(kind, value)) for value in values[:_MOST_NAMED]]


def _dictionaries(rows: Iterable[Mapping[str, GLib.Variant]]) -> GLib.Variant:
    return GLib.Variant.new_array(GLib.VariantType("a{sv}"), [wire.vardict(row) for row in rows])
