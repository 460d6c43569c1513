"""RTM_NEWLINK and RTM_DELLINK, parsed by pyroute2.

What this source does not see: rtnetlink is silent about bpf_links. Somebody's BPF_LINK_UPDATE or
BPF_LINK_DETACH shows up only in the sweep.
"""

import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

from pyroute2.netlink.rtnl import RTM_DELLINK, RTM_NEWLINK
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from bpflinkd.core.events import InterfaceChanged, InterfaceGone, Tiding
from bpflinkd.core.targets import IfIndex
from bpflinkd.watch.raw import RawNetlink

log = logging.getLogger(__name__)

_RTMGRP_LINK: Final = 1


class NetlinkWatch:
    """Reports interface changes of our network namespace."""

    def __init__(self, tell: Callable[[Tiding], None], lost: Callable[[], None]) -> None:
        """Begin to listen.

        Args:
            tell: called with each change.
            lost: called when the kernel dropped messages (ENOBUFS): look at everything again.
        """
        self._tell = tell
        self._lost = lost
        self._parse = MarshalRtnl()
        self.events = 0
        self.losses = 0
        self._socket = RawNetlink(
            socket.NETLINK_ROUTE,
            _RTMGRP_LINK,
            self._handle,
            lambda: self._look_at_everything("netlink messages were lost"),
        )

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def _handle(self, data: bytes) -> None:
        try:
            found = [tiding for message in self._parse.parse(data) for tiding in _tidings(message)]
        except Exception as error:  # a message of a newer kernel must not end the watch
            self._look_at_everything(f"a netlink message cannot be read ({error!r})")
            return
        for tiding in found:
            self.events += 1
            self._tell(tiding)

    def _look_at_everything(self, why: str) -> None:
        self.losses += 1
        log.warning("%s; looking at every link", why)
        self._lost()


def _tidings(message: Any) -> Iterator[Tiding]:
    kind = message["header"]["type"]
    ifindex, name = IfIndex(message["index"]), message.get_attr("IFLA_IFNAME") or ""
    # A bridge tells of a port that left by AF_BRIDGE, while the interface itself goes on.
    if message["family"] != socket.AF_UNSPEC:
        return
    if kind == RTM_NEWLINK:
        yield InterfaceChanged(ifindex=ifindex, name=name)
    elif kind == RTM_DELLINK:
        moved = message.get_attr("IFLA_NEW_NETNSID") is not None
        yield InterfaceGone(ifindex=ifindex, name=name, moved=moved)
