"""What `--json` prints: the contract's properties with snake_case keys and its structs spelt out.

The documents are described field by field in docs/cli.md; a field may be added, none is taken away.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

from bpflinkd.cli.words import user_name
from bpflinkd.client.values import Event, LinkProperties, ManagerProperties, Past, Recorded
from bpflinkd.core import names

Document: TypeAlias = dict[str, Any]

_ARGUMENTS = {
    "LinkAdded": ("object_path",),
    "LinkRemoved": ("reason",),
    "ProgramReplaced": ("generation", "old", "new"),
    "StateChanged": ("state", "old_state", "reason"),
    "ForeignChange": ("kind", "details"),
}
"""The arguments of each signal after the link's name, as in interface.xml."""
_PROGRAMS = ("before", "after")
"""Of what ran, in a foreign change and in the event log."""


@cache
def snake_case(name: str) -> str:
    """`KernelLinkId` becomes `kernel_link_id`."""
    return "".join(f"_{c.lower()}" if c.isupper() and at else c.lower() for at, c in enumerate(name))


def target(value: Sequence[str]) -> Document:
    """A target, as the method Attach takes it."""
    kind, place, detail = value
    match kind:
        case "xdp":
            return {kind: place, "mode": detail}
        case "cgroup":
            return {kind: place, "attach_type": detail}
        case "kprobe":
            return {kind: place, "offset": int(detail)}
        case _:
            return {kind: place}


def program(value: Sequence[Any]) -> Document:
    """A loaded program."""
    return dict(zip(("id", "name", "tag", "type"), value, strict=True))


def occupant(value: Mapping[str, Any]) -> Document | None:
    """A program that is not ours and what is known of it; None where there is none."""
    if not value:
        return None
    return {
        "program": program(value["program"]),
        "link_id": value.get("link_id"),
        "mode": value.get("mode"),
        "processes": [{"pid": pid, "comm": comm} for pid, comm in value.get("processes", ())],
    }


def owner(text: str) -> Document:
    """Who may change a link, from the property Owner."""
    kind, _, value = text.partition(":")
    return {"uid": int(value), "user": user_name(int(value))} if kind == "user" else {kind: value}


def actor(value: Sequence[Any]) -> Document:
    """Who did something, from the property By; null for what is not known."""
    uid, pid, unit, exe = value
    return {
        "uid": uid,
        "user": user_name(uid),
        "pid": pid or None,
        "unit": unit or None,
        "exe": exe or None,
    }


def hold(value: Mapping[str, Any]) -> Document | None:
    """With which connection a link lives; None where it lives by itself."""
    if not value:
        return None
    source, detail = value.get("fallback", ("", ""))
    return {
        "holder": value.get("holder") or None,
        "grace": value.get("grace"),
        "fallback": {source: detail} if source else None,
        "until": value.get("until") or None,
    }


def past(value: Past) -> Document:
    """One generation of `history`."""
    source, detail = value["source"]
    return {
        **value,
        "program": program(value["program"]),
        "source": {source: detail},
        "by": actor(value["by"]),
        "way_back": value["way_back"] or None,
        "of": value.get("of"),
        "constants": value.get("constants", {}),
    }


def link(properties: LinkProperties, bpffs: str) -> Document:
    """One link: `show`, and each of `list`. `bpffs` is where the daemon pins."""
    found: Document = {snake_case(key): value for key, value in properties.items()}
    source, detail = properties["Source"]
    hook, number = properties["Hook"]
    file, template = properties["Origin"]
    del found["kprobe"]
    found |= zip(("cookie", "missed", "suppressed"), properties["Kprobe"], strict=True)
    return found | {
        "target": target(properties["Target"]),
        "owner": owner(properties["Owner"]),
        "by": actor(properties["By"]),
        "hold": hold(properties["Hold"]),
        "trial": properties["Trial"] or None,
        "program": program(properties["Program"]),
        "source": {source: detail},
        "origin": {"file": file, "template": template} if file else None,
        "running": occupant(properties["Running"]),
        "kernel_link_id": properties["KernelLinkId"] or None,
        "hook": {hook: number} if hook else None,
        "pins": f"{bpffs}/{names.encode(properties['Name'])}",
    }


def foreign(entry: Mapping[str, Any]) -> Document:
    """One program of `foreign`."""
    return {"target": target(entry["target"]), **(occupant(entry) or {})}


def status(properties: ManagerProperties, features: Sequence[tuple[str, bool, str]]) -> Document:
    """The daemon."""
    found: Document = {snake_case(key): value for key, value in properties.items()}
    return found | {"features": {name: {"supported": can, "reason": why} for name, can, why in features}}


def event(happened: Event, now: int) -> Document:
    """One line of `events`. A signal of a newer daemon keeps its arguments in a list."""
    found: Document = {"time": now, "event": snake_case(happened.signal), "name": happened.link}
    named = _ARGUMENTS.get(happened.signal)
    if named is None:
        return {**found, "arguments": happened.arguments}
    found |= zip(named, happened.arguments, strict=False)
    for key in ("old", "new"):
        if key in found:
            found[key] = program(found[key])
    if "details" in found:
        details = found.pop("details")
        found |= details
        found["target"] = target(details["target"])
        found["by"] = occupant(details["by"])
        found |= _change(details)
    return found


def recorded(entry: Recorded) -> Document:
    """One entry of the event log: what `event` makes of the signal that told it, and more."""
    found: Document = {key: value for key, value in entry.items() if key not in _PROGRAMS}
    if "target" in entry:
        found["target"] = target(entry["target"])
    found |= _change(entry)
    sentence = found.pop("sentence", "")
    match entry["event"]:
        case "link_removed" | "state_changed":
            return found | {"reason": sentence}
        case "program_replaced":
            return found | {"old": found["before"], "new": found["after"], "message": sentence}
        case _:
            return found | {"sentence": sentence}


def _change(value: Mapping[str, Any]) -> Document:
    """What ran before and after, who did it, and how late it was noticed; null for what is not known."""
    return {
        **{key: _program_or_none(value, key) for key in _PROGRAMS},
        "who": who(value["who"]) if "who" in value else None,
        "delay": value.get("delay"),
    }


def _program_or_none(value: Mapping[str, Any], key: str) -> Document | None:
    return program(value[key]) if key in value else None


def who(value: Mapping[str, Any]) -> Document:
    """A process that did something; null for what is not known."""
    known = ("pid", "thread", "comm", "executable", "unit", "container", "cgroup")
    uid = value["uid"]
    return {"uid": uid, "user": user_name(uid), **{key: value.get(key) for key in known}}
