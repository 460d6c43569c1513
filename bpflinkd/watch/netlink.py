"""RTM_NEWLINK and RTM_DELLINK, parsed by pyroute2.

What this source does not see: rtnetlink is silent about bpf_links. Somebody's BPF_LINK_UPDATE or
BPF_LINK_DETACH shows up only in the sweep. So does an alternative name given to or taken from an
interface that is down: netdev_state_change() (net/core/dev.c) tells only while it is up. The next
message about that interface has all of its names.
"""

import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final

from pyroute2.netlink.rtnl import RTM_DELLINK, RTM_NEWLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from bpflinkd.core.addresses import mac_text
from bpflinkd.core.events import InterfaceChanged, InterfaceGone, Tiding
from bpflinkd.core.targets import IfIndex
from bpflinkd.watch.raw import RawNetlink

log = logging.getLogger(__name__)

_RTMGRP_LINK: Final = 1


class _Link(ifinfmsg):  # type: ignore[misc]
    """With the address as it is: pyroute2 takes all for six bytes, InfiniBand's 20 and an IPv4 tunnel's 4."""

    nla_map = tuple((name, "cdata" if name == "IFLA_ADDRESS" else kind) for name, kind in ifinfmsg.nla_map)


class _Marshal(MarshalRtnl):  # type: ignore[misc]
    msg_map: ClassVar = {**MarshalRtnl.msg_map, RTM_NEWLINK: _Link, RTM_DELLINK: _Link}


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
        self._parse = _Marshal()
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
    # A bridge tells of a port that left by AF_BRIDGE, while the interface itself goes on.
    if message["family"] != socket.AF_UNSPEC:
        return
    kind, ifindex = message["header"]["type"], IfIndex(message["index"])
    name = _text(message.get_attr("IFLA_IFNAME") or "")
    listed = message.get_attr("IFLA_PROP_LIST")
    altnames = tuple(map(_text, listed.get_attrs("IFLA_ALT_IFNAME"))) if listed else ()
    if kind == RTM_NEWLINK:
        mac = mac_text(message.get_attr("IFLA_ADDRESS") or b"")
        yield InterfaceChanged(ifindex=ifindex, name=name, altnames=altnames, mac=mac)
    elif kind == RTM_DELLINK:
        moved = message.get_attr("IFLA_NEW_NETNSID") is not None
        yield InterfaceGone(ifindex=ifindex, name=name, altnames=altnames, moved=moved)


def _text(name: str | bytes) -> str:
    """A name for people: pyroute2 leaves what is not UTF-8 in bytes."""
    return name if isinstance(name, str) else name.rstrip(b"\0").decode(errors="replace")
