"""kprobes: from a target to its hook, and from a hook to a link that runs our dispatcher."""

import errno
import os
from pathlib import Path
from typing import Final

from bpflinkd.core.errors import BadTarget, BpflinkdError, HookGone, KernelRefused, NotSupported
from bpflinkd.core.targets import KprobeHook, KprobeMultiHook, KprobeMultiTarget, KprobeTarget
from bpflinkd.kernel import dispatcher, libbpf, perf, symbols
from bpflinkd.kernel.dispatched import DispatchedLink
from bpflinkd.kernel.dispatcher import Dispatcher
from bpflinkd.kernel.errnos import words
from bpflinkd.kernel.program import HeldProgram
from bpflinkd.kernel.symbols import Symbols

_ENABLED: Final = Path("/sys/kernel/debug/kprobes/enabled")
"""`0` where all kprobes are disarmed. Source: kernel/kprobes.c write_enabled_file_bool()."""


def switched_off() -> bool:
    """Whether somebody switched off all kprobes of the host. False where debugfs does not tell."""
    try:
        return _ENABLED.read_text().strip() == "0"
    except OSError:
        return False


class Kprobes:
    """The kernel's functions as places to attach to."""

    def __init__(self) -> None:
        self._symbols = Symbols()

    def hook(self, target: KprobeTarget | KprobeMultiTarget) -> KprobeHook | KprobeMultiHook | None:
        """Where the target is now; None where there is no such function."""
        if not perf.has_kprobes():
            raise no_kprobes()
        if isinstance(target, KprobeMultiTarget):
            matching = len(symbols.traceable(target.pattern))
            return KprobeMultiHook(matching) if matching else None
        found = self._symbols.functions(target.symbol)
        if not found:
            return None
        module = found[0].module
        if not module:
            return KprobeHook()
        load = symbols.load_of(module)
        # While a module is removed, its functions are listed for a little longer.
        return KprobeHook(module, load) if load else None

    def attach(
        self,
        target: KprobeTarget | KprobeMultiTarget,
        hook: KprobeHook | KprobeMultiHook,
        program: HeldProgram,
    ) -> DispatchedLink:
        """Put the program into a new slot, then the dispatcher onto the probe: no hit finds it empty.

        Raises:
            BpflinkdError: a sentence for each thing that the kernel can refuse.
        """
        if isinstance(target, KprobeTarget):
            self._check(target)
        matching = symbols.traceable(target.pattern) if isinstance(target, KprobeMultiTarget) else []
        if matching:
            hook = KprobeMultiHook(len(matching))
        made = dispatcher.load(target.attach_type, hook)
        try:
            made.slot.put(program.fd)
            if isinstance(target, KprobeTarget):
                fd = _attach_one(target, made)
            else:
                fd = _attach_many(target, matching, made)
            link = DispatchedLink(fd, made.slot, made.misses, hook)
        except BaseException:
            made.close()
            raise
        os.close(made.fd)
        return link

    def _check(self, target: KprobeTarget) -> None:
        """What the kernel would refuse with an errno that says less, or would not refuse at all."""
        found = self._symbols.functions(target.symbol)
        if len(found) > 1:
            where = ", ".join(sorted({function.module or "the kernel" for function in found}))
            raise BadTarget(
                f"the name {target.symbol!r} is ambiguous: {len(found)} functions have it (in {where}); "
                "probe a function that calls it, or one with a name of its own"
            )
        if target.offset and found:
            size = symbols.size_at(found[0].address)
            if size and target.offset >= size:
                raise BadTarget(
                    f"the offset {target.offset:#x} is beyond the end of {target.symbol}, "
                    f"which has {size:#x} bytes"
                )


def no_kprobes() -> NotSupported:
    """This kernel was built without them."""
    return NotSupported(
        "this kernel has no kprobes: it was built without CONFIG_KPROBE_EVENTS or CONFIG_BPF_EVENTS"
    )


def _attach_one(target: KprobeTarget, made: Dispatcher) -> int:
    try:
        event = perf.open_kprobe(target.symbol, target.offset, at_return=target.at_return)
    except OSError as error:
        raise _event_error(error, target) from None
    try:
        return libbpf.link_create_kprobe(made.fd, event, target.cookie)
    except OSError as error:
        raise KernelRefused(f"the kernel refused a link on {target}: {words(error)}") from None
    finally:
        os.close(event)


def _attach_many(target: KprobeMultiTarget, matching: list[str], made: Dispatcher) -> int:
    if not matching:
        raise HookGone(f"no function that can be traced matches {target.pattern!r} any more")
    try:
        return libbpf.link_create_kprobe_multi(made.fd, matching, target.cookie, at_return=target.at_return)
    except OSError as error:
        raise _multi_error(error, target, len(matching)) from None


def _event_error(error: OSError, target: KprobeTarget) -> BpflinkdError:
    match error.errno:
        case errno.ENOENT:
            return HookGone(f"there is no function {target.symbol!r} in this kernel or its loaded modules")
        case errno.EADDRNOTAVAIL:
            return BadTarget(f"the name {target.symbol!r} is ambiguous: several functions have it")
        case errno.EILSEQ:
            return BadTarget(
                f"{target} is not where an instruction begins; the boundaries are in the function's "
                f"disassembly: gdb -batch -ex 'disassemble {target.symbol}' vmlinux"
            )
        case errno.EINVAL:
            why = (
                "it is on the kprobe blacklist"
                if symbols.blacklisted(target.symbol)
                else "it is on the kprobe blacklist or part of the tracing itself (notrace)"
            )
            return NotSupported(
                f"the kernel allows no probe on {target.symbol}: {why}; "
                "/sys/kernel/debug/kprobes/blacklist lists such functions"
            )
        case errno.EPERM | errno.EACCES:
            return NotSupported(
                f"the kernel does not let us probe {target.symbol} ({words(error)}): bpflinkd needs "
                "CAP_PERFMON, on Debian CAP_SYS_ADMIN, and a kernel that is not locked down"
            )
    return KernelRefused(f"the kernel refused a probe on {target}: {words(error)}")


def _multi_error(error: OSError, target: KprobeMultiTarget, count: int) -> BpflinkdError:
    if error.errno == errno.EOPNOTSUPP:
        return no_fprobe()
    if error.errno in (errno.ESRCH, errno.ENOENT):
        return HookGone(f"a function that matches {target.pattern!r} went away meanwhile; try again")
    return KernelRefused(f"the kernel refused a link on the {count} functions of {target}: {words(error)}")


def no_fprobe() -> NotSupported:
    """This kernel was built without what probes many functions at once."""
    return NotSupported(
        "this kernel cannot probe several functions at once: it was built without CONFIG_FPROBE; "
        "make a kprobe link for each function"
    )
