"""A look at the whole host: every bpf_link, what is on interfaces and cgroups, and who holds it.

Only reads. Where there is much it takes seconds, so each part ends when its time is over. For any thread.
"""

import ctypes
import os
import re
import struct
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

from bpflinkd.core.errors import BpflinkdError, NotSupported
from bpflinkd.core.ids import LinkId, ProgId
from bpflinkd.core.model import Process, ProgramInfo
from bpflinkd.core.survey import Attached, SeenLink, Survey
from bpflinkd.core.targets import Hook, XdpHook, XdpTarget
from bpflinkd.kernel import info, libbpf, pinned, xdp
from bpflinkd.kernel.cgroup import CgroupTree
from bpflinkd.kernel.pinned import Part

_KINDS: Final = (
    *("raw_tracepoint", "tracing", "cgroup", "iter", "netns", "xdp", "perf_event", "kprobe_multi"),
    *("struct_ops", "netfilter", "tcx", "uprobe_multi", "netkit", "sockmap"),
)
"""`enum bpf_link_type` from 1 on, as bpftool calls them."""
_PLACED: Final = ("netns", "xdp", "tcx", "netkit")
"""Kinds whose info begins with a u32 that is 0 once they are detached: a namespace's inode or an ifindex."""
_HELD: Final = re.compile(r"^(link_id|prog_id):\s+(\d+)$", re.MULTILINE)

_Place: TypeAlias = tuple[Hook | None, int | None, ProgId]
"""Hook, attach type of a cgroup's link, program."""
_Holders: TypeAlias = defaultdict[tuple[str, int], list[Process]]
"""By `link_id` or `prog_id`, and number."""


def survey(cgroups: CgroupTree) -> Survey:
    """Look at everything that there is."""
    links, interfaces = Part("bpf_links"), Part("interfaces")
    seen: list[SeenLink] = []
    by_place: defaultdict[_Place, list[LinkId]] = defaultdict(list)
    for link, place in _links(links):
        seen.append(link)
        by_place[place].append(link.id)
    programs = _Programs()
    interfaces.begin()
    attached = list(_on_interfaces(by_place, programs, interfaces))
    in_tree = Part("cgroups")
    root = ""
    with suppress(NotSupported):
        root = str(cgroups.root)
        attached += _on_cgroups(cgroups, by_place, programs, in_tree)
    processes, files = Part("processes"), Part("pins")
    holders = _holders(processes)
    files.begin()
    pins = tuple(pinned.everywhere(files))
    parts = (links, interfaces, in_tree, processes, files)
    return Survey(
        pid=os.getpid(),
        cgroup_root=root,
        bpffs=pinned.usual_place(),
        attached=tuple(attached),
        links=tuple(seen),
        pins=pins,
        link_holders={LinkId(n): tuple(by) for (kind, n), by in holders.items() if kind == "link_id"},
        program_holders={ProgId(n): tuple(by) for (kind, n), by in holders.items() if kind == "prog_id"},
        cut=tuple(sentence for part in parts for sentence in part.sentences()),
    )


class _Programs(dict[ProgId, ProgramInfo | None]):
    """What programs are, asked once each; None where one is gone."""

    def __missing__(self, prog_id: ProgId) -> ProgramInfo | None:
        found = None
        with suppress(OSError):
            found = info.program_info_by_id(prog_id)
        self[prog_id] = found
        return found


def _links(part: Part) -> Iterator[tuple[SeenLink, _Place]]:
    buffer = ctypes.create_string_buffer(info.LINK_INFO_SIZE)
    for link_id in libbpf.link_ids():
        if not part.go_on():
            return
        try:
            with info.opened_link(link_id) as fd:
                libbpf.obj_info(fd, buffer, ctypes.c_uint32(info.LINK_INFO_SIZE))
        except OSError:
            continue  # ended meanwhile, or not settled yet
        told = info.parse_link_info(buffer.raw)
        kind = _KINDS[told.type - 1] if 0 < told.type <= len(_KINDS) else f"type {told.type}"
        (place,) = struct.unpack_from("=I", buffer.raw, 16)
        dead = told.hook is None if kind == "cgroup" else kind in _PLACED and place == 0
        link = SeenLink(id=told.id, kind=kind, prog_id=told.prog_id, dead=dead)
        yield link, (told.hook, told.attach_type, told.prog_id)


def _on_interfaces(
    by_place: defaultdict[_Place, list[LinkId]], programs: _Programs, part: Part
) -> Iterator[Attached]:
    for name, ifindex in xdp.interfaces().items():
        if not part.go_on():
            return
        try:
            found = tuple(xdp.running(ifindex))
        except BpflinkdError:
            part.skipped += 1
            continue
        for mode, prog_id in found:
            # An ifindex is only unique within a network namespace: the program must match as well.
            link_ids = by_place.get((XdpHook(ifindex), None, prog_id))
            program = programs[prog_id]
            if program is not None:
                target = XdpTarget(interface=name, mode=mode)
                yield Attached(target=target, program=program, link_id=link_ids[0] if link_ids else None)


def _on_cgroups(
    tree: CgroupTree, by_place: defaultdict[_Place, list[LinkId]], programs: _Programs, part: Part
) -> Iterator[Attached]:
    """Breadth first: where the time is short, what is far down in the tree is left out."""
    part.begin()
    waiting = deque([""])
    while waiting:
        if not part.go_on():
            return
        path = waiting.popleft()
        try:
            hook, found = tree.hook(path or "/"), tuple(tree.programs(path or "/"))
            with os.scandir(f"{tree.root}{path}") as entries:
                waiting.extend(f"{path}/{e.name}" for e in entries if e.is_dir(follow_symlinks=False))
        except (BpflinkdError, OSError):
            part.skipped += os.path.lexists(f"{tree.root}{path}")
            continue
        for target, prog_id in found:
            link_ids = by_place.get((hook, target.attach_type.number, prog_id))
            program = programs[prog_id]
            if program is not None:
                # One program may be there by several links.
                link_id = link_ids.pop() if link_ids else None
                yield Attached(target=target, program=program, link_id=link_id)


def _holders(part: Part) -> _Holders:
    """All processes that hold links or programs open, found in one walk over /proc."""
    part.begin()
    found: _Holders = defaultdict(list)
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        if not part.go_on():
            break
        held: set[tuple[str, int]] = set()
        try:
            for fd in os.scandir(f"{entry.path}/fd"):
                if not part.go_on():
                    break
                if os.readlink(fd.path).startswith(("anon_inode:bpf", "anon_inode:[bpf")):
                    text = Path(f"{entry.path}/fdinfo/{fd.name}").read_text()
                    held.update((kind, int(number)) for kind, number in _HELD.findall(text))
        except PermissionError:
            part.skipped += 1
        except OSError:
            pass  # it, or a descriptor, was closed while we looked; what was found so far counts
        if held:
            process = Process(pid=int(entry.name), comm=_comm(entry.path))
            for what in held:
                found[what].append(process)
    return found


def _comm(process: str) -> str:
    try:
        # A process names itself, with any bytes it likes.
        name = Path(f"{process}/comm").read_bytes().removesuffix(b"\n").decode(errors="replace")
    except OSError:
        return "?"
    return "".join(c if c.isprintable() else "?" for c in name)
