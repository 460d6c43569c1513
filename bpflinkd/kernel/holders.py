"""Who holds a program or a link: processes, from /proc; bpf_links, by walking their ids."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bpflinkd.core.ids import LinkId, ProgId
from bpflinkd.core.model import Process
from bpflinkd.kernel import info, libbpf

_FIELD: Final = re.compile(r"^(link_id|prog_id):\s+(\d+)$", re.MULTILINE)
MOST: Final = 16
"""Processes named at the most."""


def links() -> Iterator[info.LinkInfo]:
    """Every bpf_link of the host that can be asked just now."""
    for link_id in libbpf.link_ids():
        try:
            with info.opened_link(link_id) as fd:
                found = info.link_info(fd)
        except OSError:
            continue  # ended meanwhile, or not settled yet
        yield found


def processes(prog_id: ProgId, link_id: LinkId | None) -> tuple[Process, ...]:
    """Processes other than this one that hold the program or the link open."""
    found: list[Process] = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        if _holds(Path(entry.path), prog_id, link_id):
            found.append(Process(pid=int(entry.name), comm=_comm(Path(entry.path))))
            if len(found) == MOST:
                break
    return tuple(found)


def _holds(process: Path, prog_id: int, link_id: int | None) -> bool:
    wanted = {("prog_id", str(prog_id)), ("link_id", str(link_id))}
    try:
        for fd in os.scandir(process / "fd"):
            if not os.readlink(fd.path).startswith("anon_inode:"):
                continue
            if "bpf" not in os.readlink(fd.path):
                continue
            text = (process / "fdinfo" / fd.name).read_text()
            if wanted.intersection(_FIELD.findall(text)):
                return True
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
