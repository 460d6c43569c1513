"""systemd: readiness and status by sd_notify, the log by the journal. Both do nothing elsewhere."""

import logging
import os
import sys

from systemd import daemon, journal


def notify(*assignments: str) -> None:
    """Send assignments such as `READY=1` to the service manager, where there is one."""
    daemon.notify("\n".join(assignments))


def set_up_logging(*, foreground: bool) -> None:
    """Log to the journal as a service, to standard error otherwise."""
    handler: logging.Handler
    if "JOURNAL_STREAM" in os.environ and not foreground:
        handler = journal.JournalHandler(SYSLOG_IDENTIFIER="bpflinkd")
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
