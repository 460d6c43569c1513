"""Debian kernels, fetched by apt with a configuration of its own and unpacked, never installed.

The cache holds one directory a suite, as `dpkg-deb --extract` leaves it: boot/, lib/modules/, usr/src/.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUITES: Final = ("bookworm", "bookworm-backports", "sid")
"""Where the kernels come from: 6.1, 6.12 and the newest that Debian has."""
_PARTS: Final = re.compile(r"linux-(?:image|binary|modules|headers)-[\w.+-]*")


class KernelError(Exception):
    """A kernel cannot be had; a sentence."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One unpacked kernel with its modules and headers."""

    suite: str
    release: str
    """What `uname -r` prints there."""
    home: Path

    @property
    def image(self) -> Path:
        return self.home / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        return self.home / "lib" / "modules" / self.release

    @property
    def config_file(self) -> Path:
        """How it was built: what it must be able to do, whatever we find."""
        return self.home / "boot" / f"config-{self.release}"


def parse_config(text: str) -> dict[str, str]:
    """The words of a kernel's .config that are set."""
    return dict(re.findall(r"^(CONFIG_\w+)=(.+)$", text, re.MULTILINE))


def cache() -> Path:
    """Where kernels stay between runs. Readable by everyone, as bcc reads their headers as nobody; and
    not below /var/cache, which virtme-ng hides from the guest."""
    return Path(os.environ.get("BPFLINKD_KERNELS") or "/var/lib/bpflinkd-kernels")


def get(suite: str) -> Kernel:
    """The kernel of a suite, from the cache or from the machine's own Debian mirror."""
    home = cache() / suite
    if not home.exists():
        fresh = home.with_name(f"{suite}.{os.getpid()}")
        try:
            _fetch(suite, fresh)
            fresh.rename(home)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    images = sorted((home / "boot").glob("vmlinuz-*"))
    if len(images) != 1:
        raise KernelError(f"{home} holds {len(images)} kernels instead of one; remove it and try again")
    return Kernel(suite=suite, release=images[0].name.removeprefix("vmlinuz-"), home=home)


def _fetch(suite: str, home: Path) -> None:
    apt = _Apt(suite, home / "apt")
    for package in sorted(apt.closure("linux-image-amd64", "linux-headers-amd64")):
        archive = apt.download(package)
        _run("dpkg-deb", "--extract", archive, home)
        archive.unlink()
    _settle(home)
    shutil.rmtree(home / "apt")


def _settle(home: Path) -> None:
    """One layout for old and new packages: lib/modules, boot/vmlinuz, links that lead somewhere."""
    if (home / "usr/lib/modules").exists():
        shutil.copytree(home / "usr/lib/modules", home / "lib/modules", symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(home / "usr/lib/modules")
    for modules in (home / "lib/modules").iterdir():
        release = modules.name
        (home / "boot").mkdir(exist_ok=True)
        headers = home / "usr/src" / f"linux-headers-{release}"
        for name, beside in (("vmlinuz", modules / "vmlinuz"), ("config", headers / ".config")):
            proper = home / "boot" / f"{name}-{release}"
            if beside.exists() and not proper.exists():
                shutil.copyfile(beside, proper)
        for name in ("build", "source"):
            # They lead to /usr/src/linux-headers-...: absolute in some releases, relative in others.
            link = modules / name
            if link.is_symlink():
                inside = os.path.normpath(os.path.join("/usr/lib/modules", release, os.readlink(link)))
                link.unlink()
                link.symlink_to(f"../../..{inside}")
        _run("depmod", "--basedir", home, release)


class _Apt:
    """apt with sources, lists and cache of its own: those of the machine stay as they are."""

    def __init__(self, suite: str, home: Path) -> None:
        for place in ("lists/partial", "archives/partial"):
            (home / place).mkdir(parents=True)
        self._home = home
        self._environment = {**os.environ, "APT_CONFIG": str(home / "apt.conf")}
        (home / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n")
        (home / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{home}/sources.list";\nDir::Etc::sourceparts "-";\n'
            f'Dir::Etc::preferences "-";\nDir::Etc::preferencesparts "-";\n'
            f'Dir::State::lists "{home}/lists";\nDir::Cache::archives "{home}/archives";\n'
            'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n'
            'Acquire::Languages "none";\nAPT::Sandbox::User "root";\n'
        )
        self._apt("apt-get", "update", "--quiet=2")

    def closure(self, *packages: str) -> set[str]:
        """The packages of kernel, modules and headers that these lead to."""
        found: set[str] = set()
        waiting = list(packages)
        while waiting:
            package = waiting.pop()
            shown = self._apt("apt-cache", "show", "--no-all-versions", package)
            depends = "".join(re.findall(r"^Depends: (.*)$", shown, re.MULTILINE))
            found.add(package)
            waiting += [p for p in _PARTS.findall(depends) if p not in found and not p.endswith("-unsigned")]
        return found.difference(packages)

    def download(self, package: str) -> Path:
        """Fetch one package; apt checks its signature chain."""
        self._apt("apt-get", "download", "--quiet=2", package, cwd=self._home / "archives")
        (archive,) = (self._home / "archives").glob("*.deb")
        return archive

    def _apt(self, *command: str, cwd: Path | None = None) -> str:
        return _run(*command, env=self._environment, cwd=cwd)


def mirror() -> str:
    """The Debian mirror that this machine uses."""
    for address, release in _index_targets():
        if release == "bookworm":
            return address
    raise KernelError("apt of this machine has no source of Debian bookworm; kernels come from its mirror")


def _index_targets() -> Iterator[tuple[str, str]]:
    shown = _run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)")
    for line in shown.splitlines():
        address, _, release = line.partition(" ")
        yield address, release


def _run(*command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=env, cwd=cwd)
    if done.returncode != 0:
        raise KernelError(f"{' '.join(words)}: exit {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout
