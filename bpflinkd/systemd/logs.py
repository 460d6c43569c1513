"""Where log lines go: to the journal with their fields, or as text to standard error."""

import logging
import os
import sys

from systemd import journal


def set_up_logging(*, foreground: bool) -> None:
    """Log to the journal as a service, to standard error otherwise."""
    handler: logging.Handler
    if _stderr_is_the_journal() and not foreground:
        handler = journal.JournalHandler(SYSLOG_IDENTIFIER="bpflinkd")
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)


def _stderr_is_the_journal() -> bool:
    """$JOURNAL_STREAM is the stream's device and inode; a child with its output elsewhere has it, too."""
    status = os.fstat(2)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
