"""The disk of one run: the cached tree, bpflinkd as it is installed, and what the test brings along."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from integration.guest.kernels import Kernel
from integration.guest.machine import REPO
from integration.service import image, product
from integration.service.image import ImageError, run
from tests.lab.compiled import object_of

INSIDE: Final = Path(__file__).with_name("inside")
BESIDE: Final = "/usr/lib/service-test"
"""Where the guest finds the test's own files."""
CURRENT: Final = f"{BESIDE}/current.tar"
PREVIOUS: Final = f"{BESIDE}/previous.tar"
_OBJECTS: Final = (
    REPO / "tests/programs/count.bpf.c",
    REPO / "integration/conformance/programs/kprobe.bpf.c",
)
_ENABLED: Final = (
    "bpflinkd.service",
    "test-agent.service",
    "test-hardware.service",
    "test-network@test.service",
    "test-network@run.service",
)
_MASKED: Final = (
    *("getty.target", "e2scrub_reap.service", "systemd-firstboot.service"),
    *(
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "dpkg-db-backup.timer",
        "e2scrub_all.timer",
        "fstrim.timer",
    ),
)
"""Nothing that is tested; each costs seconds under emulation."""
_SPARE_BYTES: Final = 512 << 20


def make(kernel: Kernel, output: Path, *, work: Path, files: dict[str, str]) -> None:
    """Make the disk.

    Args:
        work: a directory for trees on the way, removed afterwards.
        files: more files by their path in the guest, such as declared links.

    Raises:
        ImageError: something could not be installed.
    """
    try:
        root = work / "root"
        work.mkdir(parents=True)
        shutil.copytree(image.get(kernel), root, symlinks=True, ignore=_no_devices)
        _install(root, work)
        _settle(root, kernel, files)
        run("systemctl", "--quiet", f"--root={root}", "enable", *_ENABLED)
        run("systemctl", "--quiet", f"--root={root}", "mask", *_MASKED)
        _format(root, output)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _no_devices(directory: str, names: Sequence[str]) -> set[str]:
    """What lies in /dev there would be opened to be copied."""
    return set(names) if os.path.basename(directory) == "dev" else set()


def _install(root: Path, work: Path) -> None:
    current = Path(os.environ.get("BPFLINKD_CHECKOUT") or REPO)
    product.install(current, work / "current")
    names = ["current"]
    previous = product.previous()
    if previous is not None:
        product.check_out(previous, work / "previous-checkout")
        product.install(work / "previous-checkout", work / "previous")
        names.append("previous")
    for name in names:
        product.pack(work / name, work / f"{name}.tar")
    run("tar", "-x", "-C", root, "-f", work / "current.tar", "--keep-directory-symlink")
    beside = root / BESIDE.strip("/")
    beside.mkdir()
    for name in names:
        shutil.move(work / f"{name}.tar", beside)
    _check_modules(root)


def _check_modules(root: Path) -> None:
    """pip looked at this machine's modules when it chose what to install; the guest's are others."""
    program = root / os.readlink(root / "usr/bin/bpflinkd").lstrip("/")
    interpreter = program.read_text().splitlines()[0].removeprefix("#!")
    # The guest's own pip, from where Debian keeps it for new environments.
    script = 'PYTHONPATH=$(echo /usr/share/python-wheels/pip-*.whl) exec "$0" -m pip check'
    words = ("chroot", root, "sh", "-c", script, interpreter)
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    # Debian's PyGObject says that it requires pycairo, which is for drawing, and does without.
    lacks = [line for line in done.stdout.splitlines() if "requires" in line and "pycairo" not in line]
    if lacks or not done.stdout:
        raise ImageError(f"bpflinkd cannot run in the guest: {lacks or done.stderr}")


def _settle(root: Path, kernel: Kernel, files: dict[str, str]) -> None:
    """What an administrator and a package manager do, and the test's own files."""
    beside = root / BESIDE.strip("/")
    for file in INSIDE.iterdir():
        if file.suffix == ".service":
            shutil.copy(file, root / "etc/systemd/system" / file.name)
        elif file.suffix in {".py", ".c"}:
            shutil.copy(file, beside / file.name)
    for source in _OBJECTS:
        shutil.copy(object_of(source), beside / f"{source.name.partition('.')[0]}.o")
    all_files = {
        "/etc/hostname": "guest\n",
        "/etc/machine-id": "0123456789abcdef0123456789abcdef\n",
        "/etc/fstab": "",
        **files,
    }
    for path, text in all_files.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    (root / "var/log/journal").mkdir(exist_ok=True)
    # dpkg's triggers would do these.
    run("systemd-sysusers", f"--root={root}")
    run("journalctl", f"--root={root}", "--update-catalog")
    run("depmod", "--basedir", root, kernel.release)
    for updated in ("etc/.updated", "var/.updated"):
        (root / updated).touch()
        shutil.copystat(root / "usr", root / updated)


def _format(root: Path, output: Path) -> None:
    used = int(run("du", "--summarize", "--block-size=1", root).split()[0])
    with output.open("wb") as disk:
        disk.truncate(used + used // 8 + _SPARE_BYTES)
    run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,root_owner=0:0", "-d", root, output)


def read_journal(disk: Path, output: Path, work: Path) -> None:
    """Read the guest's journal from its disk; it need not have been shut down."""
    try:
        work.mkdir(parents=True)
        # Replays what the file system had not written yet; exit 1 says that it did.
        run("sh", "-c", f'e2fsck -fy "{disk}" >/dev/null 2>&1; [ $? -lt 4 ]')
        run("debugfs", "-R", f"rdump /var/log/journal {work}", disk)
        text = run("journalctl", "--directory", work / "journal", "--no-pager", "-o", "short-monotonic")
        output.write_text(text)
    finally:
        shutil.rmtree(work, ignore_errors=True)
