"""Values as people read them. No terminal, no colour: text in, text out."""

import pwd
import time
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

_MICROS: Final = 1_000_000
_TAG_DIGITS: Final = 8
_SHOWN: Final = 12
"""Characters of a container's id, as docker and crictl show it."""
_STEPS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def clean(text: str) -> str:
    """Text that cannot steer a terminal: what is not printable is shown as its escape.

    A process may call itself anything, an interface nearly so.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def age(since: int, now: float | None = None) -> str:
    """How long ago a time in microseconds was, in its largest unit: 45s, 12m, 3h, 5d."""
    if not since:
        return "-"
    seconds = max(0, int((time.time() if now is None else now) - since / _MICROS))
    for size, unit in _STEPS:
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return "0s"


def when(micros: int) -> str:
    """A time in microseconds as local date and time, with how long ago it was."""
    return f"{moment(micros)} ({age(micros)} ago)" if micros else "-"


def moment(micros: int) -> str:
    """A time in microseconds as local date and time."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(micros // _MICROS))
    except (OverflowError, OSError, ValueError):
        return f"{micros} microseconds since 1970"


def clock(micros: int) -> str:
    """A time in microseconds as local time of day."""
    return time.strftime("%H:%M:%S", time.localtime(micros // _MICROS))


@cache
def user_name(uid: int) -> str | None:
    """The name of a user; None where the uid has none here."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return None


def owner(uid: int) -> str:
    """A user name where there is one."""
    return user_name(uid) or str(uid)


def short_owner(text: str) -> str:
    """An owner, `user:812` or `unit:NAME`, in a table."""
    kind, _, value = text.partition(":")
    return owner(int(value)) if kind == "user" else value


def full_owner(value: dict[str, Any]) -> str:
    """An owner's document."""
    return f"unit {value['unit']}" if "unit" in value else user(value)


def user(value: dict[str, Any]) -> str:
    """A document that has `uid` and `user`."""
    return f"{owner(value['uid'])} (uid {value['uid']})"


def actor(value: dict[str, Any]) -> str:
    """Who did something, from its document."""
    pid = f"pid {value['pid']}" if value["pid"] else ""
    return ", ".join(filter(None, (user(value), value["unit"], pid, value["exe"])))


def who(value: dict[str, Any]) -> str:
    """Who changed something, from its document: `bpftool (pid 47, uid 0, /usr/sbin/bpftool, ssh.service)`."""
    where = f"container {value['container'][:_SHOWN]}" if value["container"] else value["unit"]
    pid = f"pid {value['pid']}" if value["pid"] else ""
    known = ", ".join(filter(None, (pid, f"uid {value['uid']}", value["executable"], where)))
    return f"{value['comm']} ({known})" if value["comm"] else known


def milliseconds(micros: int) -> str:
    """A short span of time in microseconds: 0.4 ms, 1200 ms."""
    return f"{micros / 1000:.1f} ms"


def size(number: int) -> str:
    """Bytes in their largest unit: 512 bytes, 4.1 KiB, 64 MiB."""
    for unit, length in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= length:
            return f"{number / length:.1f}".removesuffix(".0") + f" {unit}"
    return f"{number} bytes"


def duration(micros: int) -> str:
    """A span of time in microseconds: 10 s, 0.5 s."""
    return f"{micros / _MICROS:g} s"


def target(value: Sequence[str]) -> str:
    """A target, (kind, place, mode or attach type or offset), as it is written on the command line."""
    kind, place, detail = value
    if kind == "cgroup":
        return f"{kind}:{place} {detail}"
    offset = f"+{int(detail):#x}" if kind == "kprobe" and detail not in ("", "0") else ""
    return f"{kind}:{place}{offset}"


def document_target(value: dict[str, Any]) -> str:
    """The same from its document."""
    (kind, place), *details = value.items()
    return target((kind, place, str(details[0][1]) if details else ""))


def program(name: str, tag: str) -> str:
    """A program in a table: name and the beginning of the tag."""
    return f"{name or '(unnamed)'} {tag[:_TAG_DIGITS]}"


def full_program(value: Sequence[Any]) -> str:
    """A program, (id, name, tag, type), with everything that the kernel says of it."""
    number, name, tag, kind = value
    return f"{name or '(unnamed)'}, id {number}, tag {tag}, type {kind}"


def processes(value: Sequence[Sequence[Any]]) -> str:
    """Processes, (pid, comm), that hold a program."""
    return ", ".join(f"{comm} (pid {pid})" for pid, comm in value)
