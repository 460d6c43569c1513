"""Between what a client says or gets and what travels on the bus."""

# ruff: noqa: PLC0415  # what reads an answer is imported while the daemon makes it

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import gi
from gi.repository import Gio, GLib

from bpflinkd.client import owners, programs, targets
from bpflinkd.client.attachments import Attachment, KernelLink, NetlinkXdp, PinnedLink
from bpflinkd.client.errors import BadInput
from bpflinkd.client.owners import Owner, Unit, User
from bpflinkd.client.programs import (
    Builtin,
    CSource,
    Generation,
    Object,
    Pinned,
    Program,
    ProgramFd,
    ProgramId,
)
from bpflinkd.client.targets import CgroupTarget, KprobeTarget, Target, XdpTarget

_U32: Final = 2**32
_U64: Final = 2**64
_MICROS: Final = 1_000_000


def target(given: Target | str) -> dict[str, GLib.Variant]:
    """The a{sv} of a target. `BadInput` where its text is not one."""
    match targets.parse(given) if isinstance(given, str) else given:
        case XdpTarget(interface, mode):
            return strings(xdp=interface, mode=mode)
        case CgroupTarget(path, attach_type):
            return strings(cgroup=path, attach_type=attach_type)
        case KprobeTarget(function, offset, at_return, multi, cookie):
            kind = ("kretprobe" if at_return else "kprobe") + ("-multi" if multi else "")
            numbers = {"offset": offset, "cookie": cookie}
            return {
                **strings(**{kind: function}),
                **{key: u64(number, key) for key, number in numbers.items() if number},
            }


def program(given: Program, files: Gio.UnixFDList) -> dict[str, GLib.Variant]:
    """The a{sv} of a program; its descriptor is added to those that go with the message. `BadInput`."""
    match given:
        case Object() | CSource():
            copy = programs.sealed(given)
            try:
                index = files.append(copy)
            finally:
                os.close(copy)
            kind = "object" if isinstance(given, Object) else "source"
            constants = given.constants if isinstance(given, Object) else None
            told = {"constants": words(constants)} if constants else {}
            return {kind: GLib.Variant("h", index), **strings(name=given.program), **told}
        case ProgramFd(fd):
            try:
                os.fstat(fd)
                return {"fd": GLib.Variant("h", files.append(fd))}
            except (OSError, GLib.Error, OverflowError):
                raise BadInput(f"{fd} is not an open descriptor; give one of a loaded program") from None
        case Pinned(path):
            return strings(pin=path)
        case ProgramId(number):
            return {"id": u32(number, "id")}
        case Builtin(name):
            return strings(builtin=name)
        case Generation(before):
            return {"generation": u64(before or 0, "generation")}


def owner(given: Owner | str) -> dict[str, GLib.Variant]:
    """The a{sv} of an owner. `BadInput` where its text is not one."""
    match owners.parse(given) if isinstance(given, str) else given:
        case User(uid):
            return {"uid": u32(uid, "uid")}
        case Unit(name):
            return strings(unit=name)


def attachment(given: Attachment) -> tuple[int, dict[str, GLib.Variant]]:
    """What Adopt takes for it: a kernel link id, and options. `BadInput`."""
    match given:
        case KernelLink(number):
            u32(number, "link id")
            return number, {}
        case PinnedLink(path):
            return 0, strings(pin=path)
        case NetlinkXdp(interface):
            return 0, strings(xdp=interface)


def options(
    *,
    flags: Mapping[str, bool] | None = None,
    grace: float | None = None,
    confirm_within: float | None = None,
    expect: int | None = None,
    owner_of: Owner | str | None = None,
    maps: Mapping[str, str] | None = None,
    confirm_if: Iterable[str] = (),
    **chosen_words: str | None,
) -> dict[str, GLib.Variant]:
    """The a{sv} of options: those that were chosen. Spans of time are in seconds here. `BadInput`."""
    chosen = strings(**chosen_words)
    chosen |= {key: GLib.Variant("b", True) for key, value in (flags or {}).items() if value}
    if grace is not None:
        chosen["grace"] = u64(round(grace * _MICROS), "grace time in microseconds")
    if confirm_within is not None:
        chosen["confirm_within"] = u64(round(confirm_within * _MICROS), "time to confirm in microseconds")
    if expect is not None:
        chosen["expect"] = u64(expect, "generation")
    if maps:
        chosen["maps"] = words(maps)
    conditions = [text(each) for each in confirm_if]
    if conditions:
        chosen["confirm_if"] = GLib.Variant("as", conditions)
    if owner_of is not None:
        chosen["owner"] = vardict(owner(owner_of))
    return chosen


def which_events(
    links: Iterable[str] | None, kinds: Iterable[str], since: int, limit: int | None = None
) -> dict[str, GLib.Variant]:
    """The a{sv} that says which events are asked for. `BadInput`."""
    lists = {"links": list(links) if links is not None else None, "kinds": list(kinds) or None}
    chosen = {
        key: GLib.Variant("as", [text(word) for word in words])
        for key, words in lists.items()
        if words is not None
    }
    if since:
        chosen["since"] = u64(since, "time")
    if limit is not None:
        chosen["limit"] = u32(limit, "number of events")
    return chosen


def text(given: str) -> str:
    """The same, if it can travel: the bus carries UTF-8 without NUL. `BadInput`."""
    try:
        given.encode()
    except UnicodeEncodeError:
        raise BadInput(f"{ascii(given)[:80]} is not valid UTF-8, which is what the bus carries") from None
    if "\0" in given:
        raise BadInput(f"{ascii(given)[:80]} holds a NUL, which the bus does not carry")
    return given


def strings(**words: str | None) -> dict[str, GLib.Variant]:
    """Those words that there are."""
    return {key: GLib.Variant("s", text(value)) for key, value in words.items() if value is not None}


def words(values: Mapping[str, str]) -> GLib.Variant:
    """An a{ss}. `BadInput`."""
    return GLib.Variant("a{ss}", {text(key): text(value) for key, value in values.items()})


def vardict(values: Mapping[str, GLib.Variant]) -> GLib.Variant:
    """A dictionary inside of another."""
    return GLib.Variant("a{sv}", values)


def u32(number: int, what: str) -> GLib.Variant:
    """A u, or `BadInput`."""
    return _number("u", number, what, _U32)


def u64(number: int, what: str) -> GLib.Variant:
    """A t, or `BadInput`."""
    return _number("t", number, what, _U64)


def _number(kind: str, number: int, what: str, end: int) -> GLib.Variant:
    if not 0 <= number < end:
        raise BadInput(f"the {what} {number} is not a number from 0 to {end - 1}")
    return GLib.Variant(kind, number)


def decode(value: GLib.Variant) -> Any:
    """A message's body as lists, dicts, strings and ints; a struct is a list."""
    serialize, loads = decoder()
    text = serialize(value)[0]
    # json-glib writes a `t` from 2**63 on as a negative number; no signed integer is in the contract.
    if any(sign in text for sign in (":-", "[-", ",-")):
        return loads(text, parse_int=lambda digits: int(digits) % _U64)
    return loads(text)


def decoder() -> tuple[Callable[[GLib.Variant], tuple[str, int]], Callable[..., Any]]:
    """json-glib and json: for a thousand links a third of the time that GLib.Variant.unpack takes."""
    import json

    gi.require_version("Json", "1.0")
    from gi.repository import Json

    return Json.gvariant_serialize_data, json.loads
