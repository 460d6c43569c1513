"""XDP hooks: flags by mode, and who is on an interface."""

import errno
import os
import socket
from collections.abc import Iterator
from typing import Final

from bpflinkd.core.errors import HookBusy, KernelRefused
from bpflinkd.core.ids import ProgId
from bpflinkd.core.model import Occupant
from bpflinkd.core.targets import IfIndex, XdpHook, XdpMode
from bpflinkd.kernel import holders, info, libbpf
from bpflinkd.kernel.interfaces import ifindex_of, shown

MODE_FLAGS: Final = {
    XdpMode.AUTO: 0,
    XdpMode.NATIVE: libbpf.XDP_FLAGS_DRV_MODE,
    XdpMode.GENERIC: libbpf.XDP_FLAGS_SKB_MODE,
    XdpMode.OFFLOAD: libbpf.XDP_FLAGS_HW_MODE,
}


_IFNAMSIZ: Final = 16


def interfaces() -> dict[str, IfIndex]:
    """All interfaces of our network namespace; bytes that are not UTF-8 are shown as such."""
    return {shown(os.fsencode(name)): IfIndex(index) for index, name in socket.if_nameindex()}


def hook(interface: str) -> XdpHook | None:
    """The index of the interface with this name or alternative name; None where there is none."""
    if len(os.fsencode(interface)) >= _IFNAMSIZ:
        # An alternative name, of up to 127 bytes: if_nametoindex() finds shorter ones only.
        ifindex = ifindex_of(interface)
        return None if ifindex is None else XdpHook(ifindex)
    try:
        return XdpHook(IfIndex(socket.if_nametoindex(interface)))
    except OSError:
        return None


def running(ifindex: IfIndex) -> Iterator[tuple[XdpMode, ProgId]]:
    """The programs on an interface, at most one a mode."""
    try:
        query = libbpf.xdp_query(ifindex)
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            return
        raise KernelRefused(f"the XDP hook of ifindex {ifindex} cannot be read: {error}") from None
    by_mode = (
        (XdpMode.NATIVE, query.drv_prog_id),
        (XdpMode.GENERIC, query.skb_prog_id),
        (XdpMode.OFFLOAD, query.hw_prog_id),
    )
    for mode, prog_id in by_mode:
        if prog_id:
            yield mode, ProgId(prog_id)


def occupants(
    ifindex: IfIndex, *, known: Occupant | None = None, seconds: float = holders.AT_ONCE
) -> Iterator[Occupant]:
    """Each program on an interface with the bpf_link and processes that hold it.

    Args:
        known: one that was found there before: whose it is takes long to find out.
        seconds: see `holders.processes`.
    """
    for mode, prog_id in running(ifindex):
        if known is not None and (known.program.id, known.mode) == (prog_id, mode):
            yield known
            continue
        try:
            program = info.program_info_by_id(prog_id)
        except OSError:
            continue  # it left meanwhile
        # An ifindex is only unique within a network namespace: the program must match as well.
        here = XdpHook(ifindex)
        link = next((x for x in holders.links() if x.hook == here and x.prog_id == prog_id), None)
        link_id = link.id if link else None
        yield Occupant(
            program=program,
            link_id=link_id,
            mode=mode,
            processes=holders.processes(prog_id, link_id, seconds=seconds),
        )


def evict(ifindex: IfIndex, occupant: Occupant) -> None:
    """Remove exactly this program: by netlink compare-and-swap, or by detaching its link."""
    with info.opened_program(occupant.program.id) as prog_fd:
        try:
            if occupant.link_id is None:
                flags = MODE_FLAGS[occupant.mode or XdpMode.AUTO]
                libbpf.xdp_detach(ifindex, flags, old_prog_fd=prog_fd)
                return
            with info.opened_link(occupant.link_id) as link_fd:
                seen = info.link_info(link_fd)
                if seen.hook == XdpHook(ifindex) and seen.prog_id == occupant.program.id:
                    libbpf.link_detach(link_fd)
                    return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.EBUSY, errno.ENOENT):
                raise KernelRefused(f"{occupant} cannot be removed: {error}") from None
    raise HookBusy(f"the program on ifindex {ifindex} is no longer {occupant.program}")
