"""What the kernel's errnos mean when a program is attached or swapped. Measured; a test pins each."""

import errno
import os

from bpflinkd.core.errors import (
    BpflinkdError,
    HookBusy,
    HookGone,
    KernelRefused,
    NotSupported,
    WrongProgramType,
)
from bpflinkd.core.targets import CgroupTarget, Target, XdpMode, XdpTarget


def attach_error(error: OSError, target: Target, program: str) -> BpflinkdError:
    """BPF_LINK_CREATE failed."""
    code = error.errno or 0
    match target, code:
        case XdpTarget(), errno.EBUSY | errno.EEXIST:
            return HookBusy(f"{target} is held by another program")
        case XdpTarget(interface=name, mode=mode), errno.EOPNOTSUPP:
            wanted = XdpMode.NATIVE if mode is XdpMode.AUTO else mode
            return NotSupported(
                f"the driver of {name} has no {wanted} XDP; --mode generic works on every interface"
            )
        case XdpTarget(interface=name), errno.ENODEV:
            return HookGone(f"there is no interface {name!r}")
        case XdpTarget(interface=name), errno.EINVAL:
            return KernelRefused(
                f"the kernel refused program {program!r} on {target} (EINVAL): the interface may be gone, "
                "its MTU too large for native XDP, or the program loaded for another device"
            )
        case CgroupTarget(), errno.EPERM:
            return HookBusy(
                f"{target} is closed to us (EPERM): a program was attached there, or on a cgroup above, "
                "without BPF_F_ALLOW_MULTI; 'bpftool cgroup tree' shows which"
            )
        case CgroupTarget(), errno.E2BIG:
            return HookBusy(f"{target} has 64 programs already, the most that the kernel takes")
        case CgroupTarget(path=path), errno.ENOENT | errno.ENODEV:
            return HookGone(f"the cgroup {path} is gone")
        case CgroupTarget(), errno.EINVAL:
            return NotSupported(f"this kernel does not know the attach type of {target} (EINVAL)")
    return KernelRefused(f"the kernel refused program {program!r} on {target}: {words(error)}")


def swap_error(error: OSError, target: Target, program: str) -> BpflinkdError:
    """BPF_LINK_UPDATE failed. EPERM is told apart by the caller, who can look again."""
    if error.errno == errno.ENOLINK:
        return HookGone(f"our link on {target} was detached, or its target is gone")
    if error.errno == errno.EINVAL:
        return WrongProgramType(
            f"the kernel refused to put program {program!r} in place on {target} (EINVAL): its type or its "
            "expected_attach_type differs from that of the program that runs there"
        )
    return KernelRefused(
        f"the kernel refused to put program {program!r} in place on {target}: {words(error)}"
    )


def words(error: OSError) -> str:
    """The errno as a person and a search engine know it."""
    code = error.errno or 0
    return f"{os.strerror(code)} ({errno.errorcode.get(code, code)})"
