"""Who may change a link, as a client says it."""

import pwd
from typing import NamedTuple, TypeAlias

from bpflinkd.client.errors import BadInput


class User(NamedTuple):
    """A user, by uid."""

    uid: int


class Unit(NamedTuple):
    """A unit of the system's service manager: whatever runs in it may change the link."""

    name: str


Owner: TypeAlias = User | Unit


def parse(text: str) -> Owner:
    """`user:tw-agent`, `user:812`, `unit:tw-agent.service`; a word alone is a user. `BadInput`."""
    kind, colon, value = text.partition(":")
    if not colon:
        kind, value = "user", text
    if kind == "unit" and value:
        return Unit(value)
    if kind != "user" or not value:
        raise BadInput(
            f"{text[:80]!r} is not an owner; write it as user:NAME, user:UID or unit:NAME, "
            "such as unit:tw-agent.service"
        )
    if value.isascii() and value.isdecimal():
        return User(int(value))
    try:
        return User(pwd.getpwnam(value).pw_uid)
    except (KeyError, ValueError):
        hint = f"; for the unit write unit:{value}" if "." in value else ""
        raise BadInput(f"there is no user {value[:80]!r} on this host{hint}") from None
