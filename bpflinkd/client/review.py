"""Look before you leap: what would become of an attach or a replace, without doing it."""

import fcntl
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol, cast

from gi.repository import Gio, GLib

from bpflinkd.client import messages
from bpflinkd.client.errors import BadInput
from bpflinkd.client.messages import options, text
from bpflinkd.client.programs import Program
from bpflinkd.client.targets import Target
from bpflinkd.client.values import Checked, Compared

_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
MAX_BYTES: Final = 64 << 20
"""Bytes of packets that are compared at a time, with four for the length of each."""


class _Exchange(Protocol):
    """A call of the Manager that sends files and takes long; its only answer."""

    def __call__(self, method: str, arguments: GLib.Variant, files: Gio.UnixFDList) -> Any: ...


class Review:
    """Of one client."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange

    def check(
        self,
        target: Target | str | None,
        program: Program,
        *,
        link: str | None = None,
        log: bool = False,
        maps: Mapping[str, str] | None = None,
        fresh_maps: bool = False,
    ) -> Checked:
        """Load a program as attach would, look at it, and let go of it. Raises what attach would.

        Args:
            target: None for that of the link.
            link: the link whose program would be replaced.
            log: also what the verifier writes on each instruction.
            maps: `keep` or `fresh` by name, as for `Client.replace`; with `link`.
            fresh_maps: all maps would begin empty.
        """
        files = Gio.UnixFDList.new()
        source = messages.program(program, files)
        place = {} if target is None else messages.target(target)
        chosen = options(link=link, maps=maps, flags={"log": log, "fresh_maps": fresh_maps})
        body = GLib.Variant("(a{sv}a{sv}a{sv})", (place, source, chosen))
        return cast(Checked, self._exchange("Check", body, files))

    def compare(
        self,
        name: str,
        program: Program,
        packets: Iterable[bytes],
        *,
        limit: int | None = None,
        force: bool = False,
    ) -> Compared:
        """Run packets through the program of a link and through another, each with copies of the live maps.

        Args:
            packets: each from its Ethernet header on.
            limit: tell at most so many differences one by one.
            force: also if the link is another's. Administrators only.
        """
        files = Gio.UnixFDList.new()
        source = messages.program(program, files)
        copy = _sealed(packets)
        try:
            index = files.append(copy)
        finally:
            os.close(copy)
        chosen = options(flags={"force": force})
        if limit is not None:
            chosen["limit"] = messages.u32(limit, "number of differences")
        body = GLib.Variant("(sa{sv}ha{sv})", (text(name), source, index, chosen))
        return cast(Compared, self._exchange("Compare", body, files))


def _sealed(packets: Iterable[bytes]) -> int:
    """A memfd of packets that nobody can change any more, the length before each. `BadInput`: too much."""
    copy = os.memfd_create("bpflinkd-packets", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(copy, "wb", closefd=False) as file:
            size = 0
            for packet in packets:
                size += file.write(len(packet).to_bytes(4, "little")) + file.write(packet)
                if size > MAX_BYTES:
                    raise BadInput(
                        f"the packets take more than {MAX_BYTES >> 20} MiB, which is the limit; give fewer"
                    )
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(copy)
        raise
    return copy
