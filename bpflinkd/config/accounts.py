"""Users and groups of this host by name."""

import grp
import pwd
from collections.abc import Callable

from bpflinkd.config.directories import At


class Accounts:
    """Finds them, each once; an instance is for one reading."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], int | None] = {}

    def uid(self, user: str | int, key: str) -> int:
        """The uid of a user, or `At` the key."""
        return self._id("user", "uid", user, key, lambda name: pwd.getpwnam(name).pw_uid)

    def gid(self, group: str | int, key: str) -> int:
        """The gid of a group, or `At` the key."""
        return self._id("group", "gid", group, key, lambda name: grp.getgrnam(name).gr_gid)

    def _id(self, kind: str, number: str, given: str | int, key: str, find: Callable[[str], int]) -> int:
        if isinstance(given, int):
            return given
        if (kind, given) not in self._known:
            try:
                self._known[kind, given] = find(given)
            except (KeyError, ValueError):  # ValueError: a NUL in it
                self._known[kind, given] = None
        found = self._known[kind, given]
        if found is None:
            hint = f", or write the {number} without quotes" if given.isdecimal() else ""
            raise At(f"there is no {kind} {given[:80]!r} on this host; make it first{hint}", key)
        return found
