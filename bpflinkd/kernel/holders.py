"""Who holds a program or a link: processes, from /proc; bpf_links, by walking their ids."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bpflinkd.core.ids import LinkId, ProgId
from bpflinkd.core.model import Process
from bpflinkd.kernel import info, libbpf

_FIELD: Final = re.compile(r"^(link_id|prog_id):\s+(\d+)$", re.MULTILINE)
MOST: Final = 16
"""Processes named at the most."""
AT_ONCE: Final = 0.01
"""Seconds that there are where somebody waits to be told."""
AT_LEISURE: Final = 0.5
"""The same where somebody asked who it is."""


def links() -> Iterator[info.LinkInfo]:
    """Every bpf_link of the host that can be asked just now."""
    for link_id in libbpf.link_ids():
        try:
            with info.opened_link(link_id) as fd:
                found = info.link_info(fd)
        except OSError:
            continue  # ended meanwhile, or not settled yet
        yield found


def processes(prog_id: ProgId, link_id: LinkId | None, *, seconds: float = AT_ONCE) -> tuple[Process, ...]:
    """Processes other than this one that hold the program or the link open; the newest are asked first.

    Args:
        seconds: how long to look. On a host where thousands of descriptors are open it takes a tenth of one.
    """
    found: list[Process] = []
    deadline = time.monotonic() + seconds
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    for pid in sorted(pids, reverse=True):
        if len(found) == MOST or time.monotonic() > deadline:
            break
        place = Path(f"/proc/{pid}")
        if pid != os.getpid() and _holds(place, prog_id, link_id, deadline):
            found.append(Process(pid=pid, comm=_comm(place)))
    return tuple(found)


def _holds(process: Path, prog_id: int, link_id: int | None, deadline: float) -> bool:
    wanted = {("prog_id", str(prog_id)), ("link_id", str(link_id))}
    try:
        for fd in os.scandir(process / "fd"):
            leads_to = os.readlink(fd.path)
            if not leads_to.startswith("anon_inode:") or "bpf" not in leads_to:
                continue
            text = (process / "fdinfo" / fd.name).read_text()
            if wanted.intersection(_FIELD.findall(text)):
                return True
            if time.monotonic() > deadline:
                return False
    except OSError:
        return False  # it ended while we looked
    return False


def _comm(process: Path) -> str:
    try:
        # A process names itself, with any bytes it likes.
        name = (process / "comm").read_bytes().removesuffix(b"\n").decode(errors="replace")
    except OSError:
        return "?"
    return "".join(c if c.isprintable() else "?" for c in name)
