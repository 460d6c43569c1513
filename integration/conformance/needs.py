"""What a kernel must be able to do, by how it was built: evidence that is not the daemon's word."""

import gzip
import os
import platform
import subprocess
from functools import cache
from pathlib import Path

from integration.guest.kernels import parse_config

_WORDS = {
    "xdp": ("CONFIG_BPF_SYSCALL", "CONFIG_NET"),
    "cgroup": ("CONFIG_CGROUP_BPF",),
    "kprobe": ("CONFIG_KPROBE_EVENTS", "CONFIG_BPF_EVENTS"),
    "kprobe-multi": ("CONFIG_FPROBE", "CONFIG_BPF_EVENTS"),
}


@cache
def _config() -> dict[str, str]:
    """The running kernel's .config: named by the environment, built in, or in /boot."""
    named = os.environ.get("BPFLINKD_KERNEL_CONFIG")
    if named is None and Path("/proc/config.gz").exists():
        return parse_config(gzip.decompress(Path("/proc/config.gz").read_bytes()).decode())
    return parse_config(Path(named or f"/boot/config-{platform.release()}").read_text())


def missing(feature: str) -> str:
    """What this kernel was built without, so that it may lack the feature; empty where it must have it."""
    if feature == "sentinel":
        return _tracing_refused()
    if feature == "source":
        there = Path(f"/lib/modules/{platform.release()}/build").exists()
        return "" if there else "kernel headers"
    return " and ".join(word for word in _WORDS[feature] if _config().get(word) != "y")


@cache
def _tracing_refused() -> str:
    """Some kernels refuse tracing programs, whatever they were built with: ask another tool."""
    probed = ["bpftool", "feature", "probe", "kernel"]
    told = subprocess.run(probed, capture_output=True, text=True, check=True).stdout
    return "" if "program_type tracing is available" in told else "tracing programs (bpftool feature probe)"
