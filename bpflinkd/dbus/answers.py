"""What comes back from the daemon: errors by what they mean, and messages as Python's own values."""

# ruff: noqa: PLC0415  # what reads an answer is imported while the daemon makes it

from collections.abc import Callable
from typing import Any, Final

import gi
from gi.repository import GLib

from bpflinkd.core.errors import ERROR_PREFIX

_GONE: Final = ("ServiceUnknown", "NameHasNoOwner", "Disconnected", "TimedOut")
_NOT_ALLOWED: Final = ("NotAuthorized", "NotOwner", "AccessDenied", "AuthFailed")
_U64: Final = 2**64


class ClientError(Exception):
    """A call was refused or failed. `str(error)` is a sentence that a person can act on."""

    def __init__(self, name: str, sentence: str, log: str = "") -> None:
        super().__init__(sentence)
        self.name = name
        """The error's name without its prefix: `HookBusy`."""
        self.sentence = sentence
        self.log = log
        """The verifier's log, whole; empty where it did not speak."""


class NoDaemon(ClientError):
    """There is no bus, or no bpflinkd on it (any more)."""


class NotAllowed(ClientError):
    """The daemon or the bus does not let this user do it."""


def refusal(name: str, message: str) -> ClientError:
    """What an error reply means to us."""
    short = name.rpartition(".")[2]
    if name.startswith(ERROR_PREFIX):
        sentence, _, log = message.partition("\n\n")
        kind = NotAllowed if short in _NOT_ALLOWED else ClientError
        return kind(short, sentence, log)
    if short in _NOT_ALLOWED:
        return NotAllowed(short, f"the bus does not let you ask this of bpflinkd; try as root ({message})")
    if short == "NoReply":
        return NoDaemon(
            "DaemonGone", "bpflinkd went away before it answered; it may have done what was asked"
        )
    # An activation that failed has names of the bus's (Spawn.*) or of systemd's.
    if short in _GONE or ".Spawn." in name or ".systemd1." in name:
        return NoDaemon("NoDaemon", f"bpflinkd is not running on this bus: {message}")
    return ClientError(short, message or f"the call failed: {name}")


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
