"""What a daemon takes of its machine."""

from pathlib import Path
from typing import Final

from tests.lab.daemon import Daemon

_KIB_A_PAGE: Final = 4


class Size:
    """Descriptors and memory, as of now."""

    def __init__(self, daemon: Daemon) -> None:
        assert daemon.process
        place = Path(f"/proc/{daemon.process.pid}")
        self.fds = len(list((place / "fd").iterdir()))
        self.kib = int((place / "statm").read_text().split()[1]) * _KIB_A_PAGE
