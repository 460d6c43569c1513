"""`python -m bench [NAME...]`: run all benchmarks that any kernel can, or those named."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from bench import declared, diff, kprobe, noticed, packets, reads, replace, thousand, together
from bench.setting import Setting
from bench.table import Row, show

Benchmark: TypeAlias = Callable[[Setting], Iterator[Row]]

BENCHMARKS: Mapping[str, Benchmark] = {
    "xdp-replace": replace.xdp,
    "cgroup-replace": replace.cgroup,
    "replace-many": together.replace_many,
    "reads": reads.under_swaps,
    "packets": packets.counted_once,
    "objects": thousand.objects,
    "start": thousand.start,
    "memory": thousand.memory,
    "sweep": thousand.sweep,
    "list": thousand.command_line,
    "diff": diff.hundred_thousand,
    "boot": declared.boot,
    "reload": declared.reload,
    "hotplug": declared.hotplug,
    "noticed-netlink": noticed.by_netlink,
    "noticed-sweep": noticed.by_sweep,
    "restored": noticed.restored,
    "quiet": noticed.nothing,
}
KPROBE_BENCHMARKS: Mapping[str, Benchmark] = {
    "kprobe-hits": kprobe.hits,
    "kprobe-swaps": kprobe.swaps,
    "kprobe-count": kprobe.counted_once,
    "noticed-sentinel": noticed.by_sentinel,
    "noticed-burst": noticed.burst,
    "unrelated": noticed.unrelated,
}
"""Named only: they need a kernel that runs kprobes and tracing programs."""


def main(names: list[str]) -> int:
    """Exit code: 0 measured, whatever the verdicts; 1 a benchmark broke; 2 usage."""
    known = {**BENCHMARKS, **KPROBE_BENCHMARKS}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    # The processes that we start are to run as installed ones do: with byte code and buffers.
    for setting_of_shell in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"):
        os.environ.pop(setting_of_shell, None)
    rows: list[Row] = []
    broken = False
    with Setting() as setting:
        for name in names or BENCHMARKS:
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                rows.extend(known[name](setting))
            except Exception:
                traceback.print_exc()
                broken = True
    show(rows)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
