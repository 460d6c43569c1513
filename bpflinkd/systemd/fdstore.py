"""The service manager's fd store: descriptors that outlive the daemon, whatever becomes of their pins.

Facts of systemd 252:
- Descriptors come back in no particular order, several under one name; ask the kernel which is which.
- Those of the same open file are kept once. It compares with kcmp(2); on a kernel without CONFIG_KCMP it
  compares inodes, which all bpf descriptors share, and keeps one of all. So the store is a second line, pins
  are the first.
- It lets go of a descriptor that polls as hung up, as a perf event always does: hence FDPOLL=0.
- The store is emptied when the unit is stopped; it lasts over a restart, a crash and a watchdog's kill.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Final

from systemd import daemon

from bpflinkd.systemd.manager import is_service, notify

MOST: Final = 4096
"""FileDescriptorStoreMax= of our unit: descriptors at the most."""
LONGEST_KEY: Final = 30
"""The manager would take 255 characters a name (FDNAME_MAX). But it hands all names over in one variable,
$LISTEN_FDNAMES, and a variable has 128 KiB (MAX_ARG_STRLEN): beyond that execve(2) gives E2BIG, and the
daemon could not be started again while the store lasts."""
_DIGITS: Final = LONGEST_KEY - 2
_A_MESSAGE: Final = 253
"""SCM_MAX_FD: more do not fit one message."""


class FdStore:
    """Keeps descriptors by encoded link name (`names.encode`). Outside of a service it does nothing."""

    @staticmethod
    def key(name: str) -> str:
        """What an encoded name is called in the store: itself, or a hash where it is long. A key is its own.

        The two cannot be mixed up: in an encoded name an underscore comes before a hexadecimal digit.
        """
        if len(name) <= LONGEST_KEY:
            return name
        return "__" + hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]

    def inherited(self) -> dict[str, list[int]]:
        """What an earlier daemon kept, by `key`. The caller's to close; it is in the store still.

        To be asked once, before there are other threads: it takes the variables out of the environment.
        """
        found: dict[str, list[int]] = {}
        for fd, name in daemon.listen_fds_with_names(unset_environment=True).items():
            os.set_inheritable(fd, False)
            found.setdefault(name, []).append(fd)
        for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
            os.environ.pop(variable, None)  # libsystemd does not know of Python's copy
        return found

    def keep(self, name: str, fds: Sequence[int]) -> bool:
        """Add descriptors; they stay ours as well. False where nobody took them.

        It adds to what is there under the name: `drop` first what another link of that name left.
        """
        parts = [fds[first : first + _A_MESSAGE] for first in range(0, len(fds), _A_MESSAGE)]
        return all(notify("FDSTORE=1", f"FDNAME={self.key(name)}", "FDPOLL=0", fds=part) for part in parts)

    def drop(self, name: str) -> bool:
        """Let go of all that is kept under a name, or a key. False where nobody heard of it.

        It does not wait for the manager, which takes messages in turn. Until then a kprobe's bpf_link is
        attached, as it cannot be detached, only closed; but its slot is empty by then, so it runs nothing.
        """
        return not is_service() or notify("FDSTOREREMOVE=1", f"FDNAME={self.key(name)}")
