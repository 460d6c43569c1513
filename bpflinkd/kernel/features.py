"""What this kernel and host can do, found by trying it, never by its version."""

import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from bpflinkd.core import attach_types
from bpflinkd.core.errors import BpflinkdError
from bpflinkd.core.model import Feature
from bpflinkd.core.sources import Builtin
from bpflinkd.core.targets import KprobeHook, KprobeMultiHook
from bpflinkd.kernel import compile as compiler
from bpflinkd.kernel import dispatcher, libbpf, objects, perf
from bpflinkd.kernel.cgroup import CgroupTree
from bpflinkd.kernel.kprobe import no_fprobe, no_kprobes

_NO_FUNCTION: Final = "bpflinkd_asks_whether_there_is_fprobe"


def _try_xdp() -> None:
    objects.load_builtin(Builtin(name="pass"), attach_types.XDP).close()


def _try_cgroup() -> None:
    CgroupTree().root  # noqa: B018  # finds it, or says that there is none


def _try_kprobe() -> None:
    if not perf.has_kprobes():
        raise no_kprobes()
    dispatcher.load(attach_types.KPROBE, KprobeHook()).close()


def _try_kprobe_multi() -> None:
    """A link on a function that does not exist: ESRCH where the kernel went looking for it."""
    _try_kprobe()
    made = dispatcher.load(attach_types.KPROBE_MULTI, KprobeMultiHook(1))
    try:
        os.close(libbpf.link_create_kprobe_multi(made.fd, [_NO_FUNCTION], 0, at_return=False))
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.ENOENT):
            raise no_fprobe() from None
    finally:
        made.close()


def _try_source(compiler_socket: Path | None) -> None:
    lacking = compiler.unsupported(compiler_socket)
    if lacking:
        raise BpflinkdError(lacking)


_TRIALS: Final[dict[str, Callable[[], None]]] = {
    "xdp": _try_xdp,
    "cgroup": _try_cgroup,
    "kprobe": _try_kprobe,
    "kprobe-multi": _try_kprobe_multi,
}


def found(compiler_socket: Path | None) -> Iterator[Feature]:
    """Each kind of target, and C source, with what it lacks here.

    Args:
        compiler_socket: as for `compile.compile_source`.
    """
    trials: dict[str, Callable[[], None]] = {**_TRIALS, "source": partial(_try_source, compiler_socket)}
    for name, attempt in trials.items():
        try:
            attempt()
        except BpflinkdError as error:
            yield Feature(name=name, lacks=str(error))
        else:
            yield Feature(name=name)
