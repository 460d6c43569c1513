"""A process in a cgroup that talks UDP to itself: `python -m integration.demo.talker CGROUP_DIR COUNT`.

The receiving socket is made before the process moves into the cgroup, the sending one after: a socket
belongs to the cgroup it was made in. Prints, as JSON, how many datagrams were sent, refused and received.
"""

import json
import os
import socket
import sys
from pathlib import Path

_PATIENCE = 2.0


def main(cgroup: Path, count: int) -> dict[str, int]:
    """Send datagrams on loopback; returns the tally."""
    tally = {"sent": 0, "refused": 0, "received": 0}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox:
        inbox.bind(("127.0.0.1", 0))
        inbox.settimeout(_PATIENCE)
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outbox:
            for _ in range(count):
                try:
                    outbox.sendto(b"hello", inbox.getsockname())
                except PermissionError:
                    tally["refused"] += 1
                    continue
                tally["sent"] += 1
                try:
                    inbox.recv(64)
                except TimeoutError:
                    break
                tally["received"] += 1
    return tally


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
