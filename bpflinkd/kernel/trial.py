"""Asking the kernel whether a program that somebody else has loaded can be dispatched from a kprobe."""

import os
from typing import Final

from bpflinkd.core import attach_types
from bpflinkd.core.attach_types import AttachType
from bpflinkd.core.targets import KprobeHook, KprobeMultiHook
from bpflinkd.kernel import dispatcher, libbpf, perf
from bpflinkd.kernel.dispatcher import Slot

_NEVER_CALLED: Final = "kernel_halt"
"""There on every kernel, and hit only when the machine is halted."""

_slots: Final[dict[AttachType, Slot]] = {}
"""Slots that are on no probe, made when first asked for and kept."""


def slot_takes(prog_fd: int, attach_type: AttachType) -> bool:
    """Put the program into a slot like a link's, and take it out again."""
    slot = _slots.get(attach_type)
    if slot is None:
        hook = KprobeHook() if attach_type is attach_types.KPROBE else KprobeMultiHook(1)
        made = dispatcher.load(attach_type, hook)
        # The map keeps what the dispatcher's load made it expect of programs.
        os.close(made.fd)
        slot = _slots[attach_type] = made.slot
    try:
        slot.put(prog_fd)
    except OSError:
        return False
    slot.empty()
    return True


def may_sleep(prog_fd: int) -> bool:
    """Whether the kernel refuses the program on a kprobe of its own: it does so for those that may sleep.

    Not every slot does (6.12 takes them, 7.2 does not), and no info on a program tells. For
    programs of kprobe.multi there is no such question: kernels that let one into the slot also let it be
    attached directly.
    """
    try:
        event = perf.open_kprobe(_NEVER_CALLED, 0, at_return=False)
    except OSError:
        return False  # it cannot be asked; what the slot said has to do
    try:
        os.close(libbpf.link_create_kprobe(prog_fd, event, 0))
    except OSError:
        return True
    finally:
        os.close(event)
    return False
