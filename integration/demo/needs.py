"""What the demo needs of the machine; what is missing, it says with the way to get it."""

import ctypes
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
"""The project's directory."""

BPFLINKCTL: Final = Path(sys.executable).with_name("bpflinkctl")

_TOOLS: Final = {
    "bpftool": "bpftool",
    "clang": "clang",
    "dbus-daemon": "dbus-daemon",
    "ip": "iproute2",
    "mount": "mount",
    "nsenter": "util-linux",
}
"""The Debian package of each tool."""

_MODULES: Final = {"gi": "python3-gi", "pydbus": "python3-pydbus", "systemd": "python3-systemd"}

_INSTALLED: Final = ("bpflinkd", "bpflinkctl")


def missing() -> list[str]:
    """A sentence for each thing that is missing; empty where the demo can begin."""
    # A root shell opened with plain `su` has no sbin on its path.
    os.environ["PATH"] = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    if os.geteuid() != 0:
        return ["it must run as root: it makes a network namespace and attaches BPF programs"]
    sentences = [
        _install(f"{tool} is missing", package)
        for tool, package in _TOOLS.items()
        if shutil.which(tool) is None
    ]
    sentences += [
        _install(f"Python's module {module} is missing", package)
        for module, package in _MODULES.items()
        if importlib.util.find_spec(module) is None
    ]
    try:
        ctypes.CDLL("libbpf.so.1")
    except OSError:
        sentences.append(_install("libbpf.so.1 is missing", "libbpf1"))
    if not Path("/usr/include/linux/bpf.h").exists():
        sentences.append(_install("linux/bpf.h is missing", "linux-libc-dev"))
    for name in _INSTALLED:
        program = Path(sys.executable).with_name(name)
        if not os.access(program, os.X_OK):
            sentences.append(f"{program} is missing; make it with: make build")
    return sentences


def _install(what: str, package: str) -> str:
    return f"{what}; it is in Debian's package {package}: apt install {package}"
