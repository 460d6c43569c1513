"""ReplaceMany: many swaps in one message, which is taken apart on the worker; it may be long."""

import functools
import json
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import gi
from gi.repository import GLib

from bpflinkd.core import requests, swaps
from bpflinkd.core.callers import Caller
from bpflinkd.core.errors import BadOption, BpflinkdError
from bpflinkd.core.many import Early, Many, ToLoad
from bpflinkd.core.maps import AS_USUAL, MapWishes
from bpflinkd.core.requests import ReplaceRequest, RollbackRequest
from bpflinkd.core.sources import WantedProgram
from bpflinkd.core.swaps import ReplaceManyRequest, Swap, Swapped
from bpflinkd.dbus import parse
from bpflinkd.dbus.parse import Dict, Fds
from bpflinkd.dbus.wrapper import Call

gi.require_version("Json", "1.0")
from gi.repository import Json  # noqa: E402  # its version comes first

_GENERATIONS: Final = GLib.VariantType("a(st)")
_OPTIONS: Final = {"message": str, "force": bool, "confirm_within": int, "dry_run": bool}
_BESIDE: Final = {"expect": int, "maps": dict, "fresh_maps": bool, "where": str}
"""What may be said of one swap beside its program."""


class _Wanted(NamedTuple):
    """One swap, before it is known who asks."""

    name: str
    program: WantedProgram | int
    """Or a generation."""
    expect: int | None
    maps: MapWishes
    where: str


class _Asked(NamedTuple):
    """All of them."""

    swaps: tuple[_Wanted, ...]
    options: parse.ReplaceOptions
    dry_run: bool

    def by(self, caller: Caller) -> ReplaceManyRequest:
        """As a caller's request."""
        return ReplaceManyRequest(
            caller, tuple(self._swap(caller, wanted) for wanted in self.swaps), self.dry_run
        )

    def _swap(self, caller: Caller, wanted: _Wanted) -> Swap:
        options, program = self.options, wanted.program
        if isinstance(program, int):
            back = RollbackRequest(
                caller=caller,
                name=wanted.name,
                generation=program or None,
                expect=wanted.expect,
                force=options.force,
                message=options.message,
                maps=wanted.maps,
                confirm_within=options.confirm_within,
            )
            return Swap(back, wanted.where)
        replace = ReplaceRequest(
            caller=caller,
            name=wanted.name,
            program=program,
            expect=wanted.expect,
            force=options.force,
            message=options.message,
            maps=wanted.maps,
            confirm_within=options.confirm_within,
        )
        return Swap(replace, wanted.where)


def asked(arguments: GLib.Variant, fds: Fds) -> _Asked:
    """Parse the arguments. `BadOption`, `BadProgram`; refusals name the link."""
    # A third of the time that unpack() takes, and without holding up other threads of Python's.
    try:
        given, options = json.loads(Json.gvariant_serialize_data(arguments)[0])
    except ValueError:
        raise BadOption("the arguments hold a number that is none; there are no fractions in them") from None
    parse.refuse_unknown(options, _OPTIONS)
    within = options.get("confirm_within")
    common = parse.ReplaceOptions(
        None,
        options.get("force", False),
        requests.message(options.get("message", "")),
        AS_USUAL,
        requests.confirm_within(within) if within is not None else None,
        (),
    )
    found = tuple(_wanted(name, words, fds) for name, words in given)
    return _Asked(found, common, options.get("dry_run", False))


def _wanted(name: str, words: dict[str, Any], fds: Fds) -> _Wanted:
    where = ""
    try:
        beside = {key: words.pop(key) for key in _BESIDE if key in words}
        if beside:
            parse.refuse_unknown(beside, _BESIDE)
            where = swaps.place(beside.get("where", ""))
        number = parse.generation(words)
        program = number if number is not None else parse.wanted_program(words, fds)
        return _Wanted(name, program, beside.get("expect"), _wishes(beside), where)
    except BpflinkdError as error:
        place = f"{where}: " if where else ""
        raise type(error)(f"{place}link {name[:128]!r}: {error}; no link was changed") from None


def _wishes(beside: Dict) -> MapWishes:
    if "maps" not in beside and "fresh_maps" not in beside:
        return AS_USUAL
    return requests.map_wishes(parse.words(beside, "maps"), fresh=beside.get("fresh_maps", False))


@functools.lru_cache(maxsize=1)
def generations(swapped: Swapped) -> GLib.Variant:
    """The a(st) of an answer, and of the signal. Names of links hold nothing that would need an escape."""
    rows = ", ".join(f"('{name}', {number})" for name, number in swapped.generations)
    return GLib.Variant.parse(_GENERATIONS, f"[{rows}]", None, None)


class _Done(NamedTuple):
    answer: GLib.Variant


Authorized: TypeAlias = Callable[[Call, Callable[[Caller], Any], Callable[[Caller, Any], None]], None]
"""Do work of a caller on the worker, and go on with its result on the main loop."""
Then: TypeAlias = Callable[[Call, Callable[[Any], None]], Callable[[Any, BaseException | None], None]]


class ReplaceMany:
    """The handler of the method."""

    def __init__(
        self, many: Many, submit: Callable[..., None], submit_slow: Callable[..., None], then: Then
    ) -> None:
        """The others are those of `Verbs`; `then` goes on with a result, or answers with the error."""
        self._many = many
        self._submit = submit
        self._submit_slow = submit_slow
        self._then = then

    def begin(self, call: Call, authorized: Authorized) -> None:
        """Load all that must be loaded, on a thread of its own, and swap on the worker.

        Args:
            authorized: of `Verbs`. Were it kept here, each would keep the other in memory, and the
                connection, when that is broken.
        """
        (arguments,) = call.arguments
        parsed: list[_Asked] = []

        def begin(caller: Caller) -> _Done | tuple[ReplaceManyRequest, tuple[ToLoad, ...]]:
            if not parsed:  # or it is asked again, as polkit allowed it
                parsed.append(asked(arguments, call.fd))
            request = parsed[0].by(caller)
            found = self._many.begin(request)
            return _Done(_answer(found)) if isinstance(found, Swapped) else (request, found)

        def go_on(caller: Caller, found: _Done | tuple[ReplaceManyRequest, tuple[ToLoad, ...]]) -> None:
            if isinstance(found, _Done):
                call.answer(found.answer)
                return
            request, waits = found

            def put(loaded: Early) -> None:
                self._submit(
                    lambda: _answer(self._many.replace(request, loaded)), self._then(call, call.answer)
                )

            self._submit_slow(caller.uid, partial(self._many.load, request, waits), self._then(call, put))

        authorized(call, begin, go_on)


def _answer(swapped: Swapped) -> GLib.Variant:
    return GLib.Variant.new_tuple(generations(swapped))
