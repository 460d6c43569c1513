"""What somebody else attached, found and taken over."""

import contextlib
import errno
import os
import time
from typing import Final

from bpflinkd.core import attach_types
from bpflinkd.core.errors import BadOption, HookBusy, HookGone, KernelRefused, NotSupported
from bpflinkd.core.ids import LinkId
from bpflinkd.core.model import Occupant
from bpflinkd.core.ports import FoundLink, TakenOver
from bpflinkd.core.sources import ProgramById
from bpflinkd.core.targets import CgroupHook, CgroupTarget, Target, XdpHook, XdpMode, XdpTarget
from bpflinkd.kernel import errnos, info, libbpf, xdp
from bpflinkd.kernel.cgroup import CgroupTree
from bpflinkd.kernel.info import LinkInfo
from bpflinkd.kernel.link import HeldLink
from bpflinkd.kernel.program import HeldProgram

_KINDS: Final = {
    2: "of tracing",
    5: "a network namespace's",
    7: "a perf event's, as those of kprobes are",
    8: "of kprobe.multi",
}
"""`enum bpf_link_type`: those that people are likely to try."""


def find(cgroups: CgroupTree, link_id: LinkId | None, pin: str | None) -> FoundLink:
    """A bpf_link by id or pin, held by us as well. `BadOption`, `HookGone`, `NotSupported`."""
    fd = _opened_pin(pin) if pin is not None else _opened(link_id or LinkId(0))
    try:
        seen = info.link_info(fd)
        target = _target(cgroups, seen)
        assert seen.hook is not None
        program = HeldProgram(libbpf.prog_fd_by_id(seen.prog_id), ProgramById(id=seen.prog_id))
    except BaseException:
        os.close(fd)
        raise
    return FoundLink(link=HeldLink(fd), target=target, hook=seen.hook, program=program)


def take_over(target: XdpTarget, hook: XdpHook, occupant: Occupant, program: HeldProgram) -> TakenOver:
    """A bpf_link in the place of a netlink attachment, by compare-and-swap; or all as it was.

    The kernel has no call for this: a link cannot be made while a program is attached by netlink. So the
    hook is empty between two system calls.
    """
    flags = xdp.MODE_FLAGS[target.mode]
    began = time.monotonic_ns()
    try:
        libbpf.xdp_detach(hook.ifindex, flags, old_prog_fd=program.fd)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOENT):
            raise HookBusy(f"the program on {target} is no longer {occupant.program}; look again") from None
        raise KernelRefused(f"{occupant} cannot be taken over: {errnos.words(error)}") from None
    try:
        fd = libbpf.link_create(program.fd, hook.ifindex, attach_types.XDP.number, flags)
    except OSError as error:
        put_back(target, hook, program)
        raise errnos.attach_error(error, target, program.info.name) from None
    return TakenOver(HeldLink(fd), time.monotonic_ns() - began)


def give_back(link: HeldLink, target: XdpTarget, hook: XdpHook, program: HeldProgram) -> None:
    """Undo that: our bpf_link goes, and the program is attached by netlink again."""
    link.detach()
    link.close()
    put_back(target, hook, program)


def put_back(target: XdpTarget, hook: XdpHook, program: HeldProgram) -> None:
    """Attach a program by netlink, unless another has the hook by now. `KernelRefused`."""
    try:
        libbpf.xdp_attach(hook.ifindex, program.fd, xdp.MODE_FLAGS[target.mode])
    except OSError as error:
        raise KernelRefused(
            f"program {program.info} is no longer on {target} and could not be put back: "
            f"{errnos.words(error)}"
        ) from None


def _opened(link_id: LinkId) -> int:
    try:
        return libbpf.link_fd_by_id(link_id)
    except OSError as error:
        reason = "there is none" if error.errno == errno.ENOENT else errnos.words(error)
        raise BadOption(f"bpf_link {link_id} cannot be opened: {reason}; 'bpftool link' lists them") from None


def _opened_pin(pin: str) -> int:
    if not pin.startswith("/"):
        raise BadOption(f"the pin {pin[:200]!r} must be an absolute path on a bpffs")
    try:
        fd = libbpf.obj_get(pin)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadOption(f"the pin {pin[:200]!r} cannot be opened: {reason}") from None
    kind = info.kind_of_fd(fd)
    if kind != "link":
        os.close(fd)
        raise BadOption(f"the pin {pin[:200]!r} is not of a bpf_link but of another kind: {kind}")
    return fd


def _target(cgroups: CgroupTree, seen: LinkInfo) -> Target:
    """Where a link is, as a target."""
    if seen.type not in (libbpf.BPF_LINK_TYPE_XDP, libbpf.BPF_LINK_TYPE_CGROUP):
        kind = _KINDS.get(seen.type, f"of type {seen.type}")
        raise NotSupported(
            f"bpf_link {seen.id} is {kind}; only those on interfaces (XDP) and cgroups can be adopted: the "
            "kernel cannot swap the programs of others"
        )
    if isinstance(seen.hook, XdpHook):
        return _interface(seen, seen.hook)
    if isinstance(seen.hook, CgroupHook):
        path = cgroups.path_of(seen.hook)
        attach_type = attach_types.by_number(seen.attach_type or 0)
        if path is not None and attach_type is not None:
            return CgroupTarget(path=path, attach_type=attach_type)
        raise HookGone(f"the cgroup of bpf_link {seen.id} is not to be found below {cgroups.root}")
    raise HookGone(f"bpf_link {seen.id} is detached: its interface or cgroup is gone, or somebody did it")


def _interface(seen: LinkInfo, hook: XdpHook) -> XdpTarget:
    names = {ifindex: name for name, ifindex in xdp.interfaces().items()}
    mode: XdpMode | None = None
    with contextlib.suppress(KernelRefused):
        # An ifindex is only unique within a network namespace: the program must be there as well.
        mode = next((mode for mode, prog_id in xdp.running(hook.ifindex) if prog_id == seen.prog_id), None)
    if mode is None or hook.ifindex not in names:
        raise HookGone(
            f"bpf_link {seen.id} is on an interface of another network namespace, which is not ours"
        )
    return XdpTarget(interface=names[hook.ifindex], mode=mode)
