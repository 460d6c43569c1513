"""Kernel modules that come and go: uevents of the kernel's, parsed by pyroute2.

The kernel sends `add` when the module's functions can be probed, `remove` when they are gone.
"""

import logging
from collections.abc import Callable
from typing import Final

from pyroute2.netlink.uevent import MONITOR_GROUP_KERNEL, MarshalUevent

from bpflinkd.core.events import ModuleChanged, Tiding
from bpflinkd.watch.raw import RawNetlink

log = logging.getLogger(__name__)

_NETLINK_KOBJECT_UEVENT: Final = 15
_ACTIONS: Final = ("add", "remove")


class UeventWatch:
    """Reports modules that were loaded or removed."""

    def __init__(self, tell: Callable[[Tiding], None], lost: Callable[[], None]) -> None:
        """Begin to listen.

        Args:
            tell: called with each change.
            lost: called when the kernel dropped messages: look at everything again.
        """
        self._tell = tell
        self._lost = lost
        self._parse = MarshalUevent()
        self.events = 0
        self._socket = RawNetlink(
            _NETLINK_KOBJECT_UEVENT, MONITOR_GROUP_KERNEL, self._heard, self._messages_lost
        )

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def _heard(self, data: bytes) -> None:
        if b"SUBSYSTEM=module\0" not in data:
            return
        try:
            (message,) = self._parse.parse(data)
            action, path = message["ACTION"], message["DEVPATH"]
        except Exception as error:  # a message of a newer kernel must not end the watch
            log.warning("a uevent cannot be read (%r); looking at every link", error)
            self._lost()
            return
        if action in _ACTIONS:
            self.events += 1
            self._tell(ModuleChanged(module=path.rpartition("/")[2]))

    def _messages_lost(self) -> None:
        log.warning("uevents were lost; looking at every link")
        self._lost()
