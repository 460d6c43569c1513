"""A kprobe's bpf_link that we hold, with the slot behind it."""

import os

from bpflinkd.core.events import SlotHook
from bpflinkd.core.ids import NO_PROGRAM, ProgId
from bpflinkd.core.model import LinkFacts
from bpflinkd.core.targets import KprobeHook, KprobeMultiHook
from bpflinkd.kernel import dispatcher, info, libbpf, symbols
from bpflinkd.kernel.dispatcher import MissCounter, Slot
from bpflinkd.kernel.link import HeldLink


class DispatchedLink(HeldLink):
    """Implements `core.ports.Link` for perf_event and kprobe_multi links of our dispatcher.

    What runs is what the slot holds; the link's own program is the dispatcher for ever.
    """

    INFO_SIZE = 16
    """What follows in `struct bpf_link_info` goes both ways: the kernel would refuse its own answer."""
    _INFO = libbpf.SameInfo(INFO_SIZE)

    def __init__(self, fd: int, slot: Slot, misses: MissCounter, hook: KprobeHook | KprobeMultiHook) -> None:
        self.slot = slot
        self._slot_hook = SlotHook(info.map_info(slot.fd).id)
        self._misses = misses
        self._hook = hook
        self._runs = self._runs_good = NO_PROGRAM
        super().__init__(fd)

    @property
    def misses(self) -> MissCounter:
        return self._misses

    @property
    def slot_hook(self) -> SlotHook:
        return self._slot_hook

    def facts(self) -> LinkFacts:
        told = super().facts()
        self._runs = self.slot.program()
        return LinkFacts(id=told.id, prog_id=self._runs, hook=self._hook if self._there() else None)

    def mark_good(self, runs: ProgId | None = None) -> None:
        super().mark_good()
        self._runs_good = self._runs if runs is None else runs

    def unchanged(self) -> bool:
        return super().unchanged() and self.slot.program() == self._runs_good and self._there()

    def _there(self) -> bool:
        """Whether the function that we probe is still loaded; a module takes its probes along."""
        hook = self._hook
        return isinstance(hook, KprobeMultiHook) or (
            not hook.module or symbols.load_of(hook.module) == hook.load
        )

    def detach(self) -> None:
        """Nothing runs any more; the kernel cannot detach such a link, it ends with its last reference."""
        self.slot.empty()

    def close(self) -> None:
        super().close()
        self.slot.close()


def reopened(fd: int) -> HeldLink:
    """A link of ours from its pin's fd, whichever kind it is. OSError: it is none of ours."""
    try:
        told = info.link_info(fd)
        if told.type not in (libbpf.BPF_LINK_TYPE_PERF_EVENT, libbpf.BPF_LINK_TYPE_KPROBE_MULTI):
            return HeldLink(fd)
        slot, misses, hook = dispatcher.opened(told.prog_id)
    except OSError:
        os.close(fd)
        raise
    return DispatchedLink(fd, slot, misses, hook)
