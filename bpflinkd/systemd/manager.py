"""Messages to the service manager: sd_notify(3), from any thread."""

import logging
import os
import select
from collections.abc import Sequence

from systemd import daemon

log = logging.getLogger(__name__)


def is_service() -> bool:
    """Whether a service manager listens to us."""
    return "NOTIFY_SOCKET" in os.environ


def notify(*assignments: str, fds: Sequence[int] = ()) -> bool:
    """Send assignments such as `READY=1`, and descriptors with them. False where nobody took them.

    What we do must not depend on whether the manager hears of it, so a failure goes to the log only.
    """
    if not is_service():
        return False
    try:
        return bool(daemon.notify("\n".join(assignments), fds=list(fds)))
    except OSError as error:
        log.warning("the service manager was not told %s: %s", assignments[0], error.strerror)
        return False


def barrier(timeout: float) -> bool:
    """Wait until the manager has dealt with everything sent so far; False where it did not in time.

    It closes the descriptor that comes with `BARRIER=1` when it gets there (systemd 246 and later; older
    ones close it at once, as they do with any that they did not ask for).
    """
    if not is_service():
        return True
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            sent = notify("BARRIER=1", fds=(theirs,))
        finally:
            os.close(theirs)
        poll = select.poll()
        poll.register(ours, 0)  # POLLHUP comes unasked
        return sent and bool(poll.poll(timeout * 1000))
    finally:
        os.close(ours)
