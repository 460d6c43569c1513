"""Hostile D-Bus calls, made from the contract: the same ones for the same seed."""

import random
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from gi.repository import GLib

from tests.lab.daemon import ROOT

_BASIC = "ybnqiuxtdsogh"
_RANGES = {"y": 8, "q": 16, "u": 32, "t": 64}
_SIGNED = {"n": 16, "i": 32, "x": 64}
_DEEPEST = 60
"""Variants inside one another; a message may hold 64 levels of everything."""
_STRINGS = (
    "",
    "_",
    "-rf",
    "../../etc/passwd",
    "/etc/shadow",
    "/proc/self/mem",
    "/sys/fs/bpf/../bpf",
    "a.b",
    "a/b",
    "a\nb: c",
    "a\x1b[2Jb",
    "\u202egnol",
    "\U0001f512" * 40,
    "ä" * 64,
    "%s%n{0}{__class__}",
    "*" * 300,
    "?" * 128,
    "[" * 127,
    "x" * 128,
    "x" * 10_000,
    "_2f" * 60,
    "no-such-link",
    "nope0",
    "/no-such-cgroup",
    "xdp",
    "native",
    "alert",
    "restore",
    "owner",
    "pass",
    "user:0",
    "user:4294967295",
    "unit:../x.service",
)
_WORDS = (
    *("xdp", "mode", "cgroup", "attach_type", "kprobe", "kretprobe", "kprobe-multi", "offset", "cookie"),
    *("object", "source", "name", "pin", "id", "fd", "builtin", "uid", "unit"),
    *("policy", "lifetime", "wait", "expect", "force", "owner", "grace", "fallback", "message"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One call."""

    path: str
    interface: str
    method: str
    body: GLib.Variant
    fds: tuple[str, ...]
    """Kinds of descriptors to send, of those that the generator was given."""

    def __str__(self) -> str:
        return f"{self.method} at {self.path} with {self.body.print_(True)[:300]} and {list(self.fds)}"


class Generator:
    """An endless sequence of calls."""

    def __init__(
        self, seed: int, *, strings: Sequence[str], paths: Sequence[str], fds: Sequence[str]
    ) -> None:
        """Begin.

        Args:
            strings: more of them, such as names that exist.
            paths: of objects that exist, besides the root.
            fds: kinds of descriptors there are.
        """
        self._random = random.Random(seed)
        self._strings = (*_STRINGS, *strings)
        self._paths = (ROOT, ROOT, *paths, "/", f"{ROOT}/link", f"{ROOT}/link/_", f"{ROOT}/link/{'x' * 250}")
        self._fds = tuple(fds)
        self._methods = _methods()

    def message(self) -> Message:
        """The next one: most have the right arguments by type, some go to what is not there."""
        pick = self._random
        interface, method, signature = pick.choice(self._methods)
        if pick.random() < 0.3:
            signature = "".join(self._type(0) for _ in range(pick.randrange(5)))
        if pick.random() < 0.05:
            method = pick.choice(("Nope", "GetAll", "Introspect", "Attach"))
        on_root = not interface.endswith(("Properties", "Nope")) and pick.random() < 0.9
        return Message(
            path=ROOT if on_root else pick.choice(self._paths),
            interface=interface,
            method=method,
            body=self._variant(f"({signature})"),
            fds=tuple(pick.choices(self._fds, k=pick.choice((0, 0, 1, 1, 2, 6)))),
        )

    def _type(self, depth: int) -> str:
        pick = self._random
        shape = pick.choice("bbbbavde" if depth < 4 else "b")
        match shape:
            case "a":
                return "a" + self._type(depth + 1)
            case "v":
                return "v"
            case "d":
                return f"a{{{pick.choice('stuy')}{self._type(depth + 1)}}}"
            case "e":
                return f"({''.join(self._type(depth + 1) for _ in range(pick.randrange(1, 4)))})"
            case _:
                return pick.choice(_BASIC)

    def _variant(self, signature: str) -> GLib.Variant:
        return GLib.Variant(signature, self._value(signature, 0))

    def _value(self, text: str, depth: int) -> Any:
        """What GLib.Variant takes for a type."""
        if text == "v":
            return self._in_variant(depth)
        if text.startswith("a{"):
            key, value = text[2], text[3:-1]
            return {
                self._value(key, depth + 1): self._value(value, depth + 1) for _ in range(self._length(depth))
            }
        if text.startswith("a"):
            return [self._value(text[1:], depth + 1) for _ in range(self._length(depth))]
        if text.startswith("("):
            return tuple(self._value(each, depth + 1) for each in GLib.Variant.split_signature(text))
        return self._basic(text)

    def _in_variant(self, depth: int) -> GLib.Variant:
        pick = self._random
        if depth == 0 and pick.random() < 0.02:
            inner = GLib.Variant("s", "deep")
            for _ in range(pick.randrange(_DEEPEST)):
                inner = GLib.Variant("v", inner)
            return inner
        if pick.random() < 0.7:
            return self._variant_of(pick.choice("sssthubx"), depth)
        return self._variant_of(self._type(depth + 2), depth)

    def _variant_of(self, text: str, depth: int) -> GLib.Variant:
        return GLib.Variant(text, self._value(text, depth + 2))

    def _length(self, depth: int) -> int:
        if depth <= 1 and self._random.random() < 0.01:
            return 2000
        return self._random.choice((0, 1, 1, 1, 2, 2, 3))

    def _basic(self, kind: str) -> Any:
        pick = self._random
        match kind:
            case "s":
                if pick.random() < 0.005:
                    return "x" * 100_000
                return pick.choice(_WORDS if pick.random() < 0.4 else self._strings)
            case "o":
                return pick.choice(self._paths)
            case "g":
                return pick.choice(("", "s", "a{sv}", "aaaaaaaas"))
            case "b":
                return pick.random() < 0.5
            case "d":
                return pick.choice((0.0, -1.5, float("inf"), float("nan")))
            case "h":
                return pick.choice((0, 0, 0, 1, 7, -1, 2**31 - 1))
            case _ if kind in _SIGNED:
                bits = _SIGNED[kind]
                return pick.choice((0, 1, -1, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
            case _:
                return pick.choice((0, 1, 2 ** _RANGES[kind] - 1, pick.getrandbits(_RANGES[kind])))


def _methods() -> list[tuple[str, str, str]]:
    """Interface, method and signature: of the contract, and of what every object has."""
    text = resources.files("bpflinkd.dbus").joinpath("interface.xml").read_text()
    ours = [
        (
            str(interface.get("name")),
            str(method.get("name")),
            "".join(str(each.get("type")) for each in method.findall("arg[@direction='in']")),
        )
        for interface in ET.fromstring(text).findall("interface")
        for method in interface.findall("method")
    ]
    properties = "org.freedesktop.DBus.Properties"
    return [
        *ours,
        (properties, "Get", "ss"),
        (properties, "GetAll", "s"),
        (properties, "Set", "ssv"),
        ("org.freedesktop.DBus.Introspectable", "Introspect", ""),
        ("org.freedesktop.DBus.Peer", "Ping", ""),
        ("org.bpflinkd1.Nope", "Nope", "s"),
    ]
