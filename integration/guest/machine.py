"""One command in one guest: virtme-ng boots a kernel with this machine's file system, read-only."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from integration.guest.kernels import Kernel

REPO: Final = Path(__file__).parents[2]
MEMORY: Final = "3G"
_MODULES: Final = Path("/lib/modules")
"""Where the guest mounts its modules; a machine that never booted a kernel of its own lacks it."""
_OFFER_AGAIN: Final = " -virtfs local,path=/,mount_tag=cached,security_model=none,readonly=on,multidevs=remap"


class GuestError(Exception):
    """The guest did not come to the end of the command; a sentence with what it printed last."""


def run(
    kernel: Kernel,
    command: Sequence[str],
    results: Path,
    *,
    seconds: float,
    hear: Callable[[str], None] = lambda line: None,
) -> int:
    """Boot, run the command in the repository, power off; returns its exit code.

    Args:
        results: a directory that both sides write to; it gets `output`, `exit` and `console`.
        hear: called with each line of output soon after it was written.

    Raises:
        GuestError: it did not boot, or took longer than `seconds`.
    """
    results.mkdir(parents=True, exist_ok=True)
    _MODULES.mkdir(exist_ok=True)
    for name in ("output", "exit", "console"):
        (results / name).unlink(missing_ok=True)
    words = ["sh", Path(__file__).with_name("inside.sh"), REPO, results, *command]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (results / "console").open("w") as console:
        guest = subprocess.Popen(
            _vng(kernel, results, shlex.join(map(str, words))),
            stdin=subprocess.DEVNULL,
            # Through a pipe: written to a file, its parts overwrite each other.
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        copier = subprocess.Popen(["cat"], stdin=guest.stdout, stdout=console)
        try:
            _follow(guest, results / "output", seconds, hear)
        finally:
            _end(guest)
            copier.wait(10)
    if not (results / "exit").exists():
        raise GuestError(
            f"the guest {kernel.release} ended early, virtme-ng with {guest.returncode}; its console: "
            f"{_tail(results / 'console')}"
        )
    return int((results / "exit").read_text())


def _vng(kernel: Kernel, results: Path, command: str) -> list[str]:
    # /dev/kvm is there on machines where it does not work: it must be asked for.
    # Emulated processors take turns on one thread: with a thread each, one may still meet the int3 that
    # the kernel puts where it patches code, after the kernel is done, and the guest panics.
    emulated = [] if os.environ.get("BPFLINKD_KVM") else ["--disable-kvm", "-o", " -accel tcg,thread=single"]
    return [
        "vng",
        "--verbose",  # the kernel's messages are part of the result
        *("-r", str(kernel.image)),
        *emulated,
        "--disable-microvm",
        "--force-9p",
        *("-m", MEMORY, "-p", str(os.cpu_count() or 1)),
        *("--append", "spectre_v2=off"),  # retpolines cost a quarter of what the kernel does, emulated
        *("--rwdir", str(results)),
        *("-o", _OFFER_AGAIN),
        *("--", command),
    ]


def _follow(
    guest: "subprocess.Popen[bytes]", output: Path, seconds: float, hear: Callable[[str], None]
) -> None:
    deadline, told = time.monotonic() + seconds, 0
    while True:
        ended = guest.poll() is not None
        if output.exists():
            text = output.read_text(errors="replace")
            whole = text.rfind("\n") + 1
            for line in text[told:whole].splitlines():
                hear(line)
            told = max(told, whole)
        if ended:
            return
        if time.monotonic() > deadline:
            raise GuestError(f"the guest took longer than {seconds:g} s; it printed last: {_tail(output)}")
        time.sleep(0.5)


def _end(guest: "subprocess.Popen[bytes]") -> None:
    """End virtme-ng and the emulator, which are a process group of their own."""
    if guest.poll() is None:
        os.killpg(guest.pid, signal.SIGTERM)
        try:
            guest.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(guest.pid, signal.SIGKILL)
            guest.wait()


def _tail(file: Path) -> str:
    return file.read_text(errors="replace")[-3000:] if file.exists() else "nothing"
