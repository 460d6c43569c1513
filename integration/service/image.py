"""A Debian 12 as a directory tree, made by mmdebstrap once and kept beside the kernels."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from integration.guest import kernels
from integration.guest.kernels import Kernel

RELEASE: Final = "bookworm"
PACKAGES: Final = (
    *("systemd", "systemd-sysv", "dbus", "polkitd", "udev", "kmod"),
    *("iproute2", "iputils-ping", "bpftool", "util-linux", "busybox-static"),
    # What bpflinkd takes from Debian: the run-time part of PACKAGES in the Makefile.
    *("python3", "python3-venv", "python3-gi", "python3-pydbus", "python3-systemd"),
    *("gir1.2-json-1.0", "libbpf1"),
    # For rich. pip leaves out what this machine has from Debian, and this one comes with many packages.
    "python3-pygments",
    # With LLVM and clang behind it a third of the tree, and the one way to try C source under the hardening.
    "python3-bpfcc",
)
_LEFT_OUT: Final = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
_SECONDS: Final = 1800


class ImageError(Exception):
    """There is no tree or no disk to boot from; a sentence."""


def get(kernel: Kernel) -> Path:
    """The tree with the modules and headers of a kernel, from the cache or made now; it is not written to."""
    home = kernels.cache() / f"systemd-{RELEASE}-{_fingerprint(kernel)}"
    if not home.exists():
        fresh = home.with_name(f"{home.name}.{os.getpid()}")
        try:
            _make(kernel, fresh)
            fresh.rename(home)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return home


def run(*command: str | Path, cwd: Path | None = None, seconds: float = 600) -> str:
    """Run a command that must succeed; returns what it printed.

    Raises:
        ImageError: it failed or took too long.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, check=False, capture_output=True, text=True, cwd=cwd, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"{' '.join(words)}: not done after {seconds:g} s") from error
    if done.returncode != 0:
        raise ImageError(f"{' '.join(words)}: exit {done.returncode}: {(done.stderr or done.stdout)[-3000:]}")
    return done.stdout


def _fingerprint(kernel: Kernel) -> str:
    """Changes with whatever goes into the tree."""
    parts = [RELEASE, kernel.release, *sorted(PACKAGES), Path(__file__).read_text()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _make(kernel: Kernel, home: Path) -> None:
    if shutil.which("mmdebstrap") is None:
        raise ImageError("mmdebstrap is not installed")
    run(
        "mmdebstrap",
        "--variant=minbase",
        "--format=directory",
        f"--include={','.join(PACKAGES)}",
        '--aptopt=APT::Sandbox::User "root"',
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
        RELEASE,
        home,
        f"deb [signed-by={kernels.KEYRING}] {kernels.mirror()} {RELEASE} main",
        seconds=_SECONDS,
    )
    for part in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(home / part, ignore_errors=True)
    _copy(kernel.modules, home / "usr/lib/modules" / kernel.release)
    for headers in (kernel.home / "usr/src").iterdir():
        _copy(headers, home / "usr/src" / headers.name)
    for name in ("build", "source"):
        # In the cache they climb to usr/src from /lib, which is a symbolic link here.
        link = home / "usr/lib/modules" / kernel.release / name
        if link.is_symlink():
            place = Path(os.readlink(link)).name
            link.unlink()
            link.symlink_to(f"/usr/src/{place}")


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True)
