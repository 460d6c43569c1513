"""systemd: readiness and status, the watchdog, the fd store, the log. Outside a service it does nothing."""

from bpflinkd.systemd.fdstore import FdStore
from bpflinkd.systemd.logs import set_up_logging
from bpflinkd.systemd.manager import barrier, is_service, notify
from bpflinkd.systemd.watchdog import Watchdog, watchdog_interval

__all__ = [
    "FdStore",
    "Watchdog",
    "barrier",
    "is_service",
    "notify",
    "set_up_logging",
    "watchdog_interval",
]
