"""`make install` of this checkout and of an earlier commit, each as a tree of its own."""

import os
import subprocess
from pathlib import Path
from typing import Final

from integration.guest.machine import REPO
from integration.service.image import ImageError, run

PREFIX: Final = "/usr"


def install(checkout: Path, tree: Path) -> None:
    """What `make install` of a checkout puts below an empty tree; byte code too, as emulation is slow."""
    tree.mkdir(parents=True)
    run("make", "--silent", "install", f"DESTDIR={tree}", f"PREFIX={PREFIX}", cwd=checkout)
    lib = tree / PREFIX.strip("/") / "lib"
    run("/usr/bin/python3", "-m", "compileall", "-q", "-s", tree, "-p", "/", lib / "bpflinkd")


def previous() -> str | None:
    """The commit that is upgraded from; None where this checkout has none before its own."""
    revision = os.environ.get("BPFLINKD_PREVIOUS") or "HEAD~1"
    words = ["git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]
    found = subprocess.run(words, cwd=REPO, check=False, stdout=subprocess.DEVNULL)
    return revision if found.returncode == 0 else None


def check_out(revision: str, place: Path) -> None:
    """The files of a commit, as `git archive` writes them; the repository is only read."""
    place.mkdir(parents=True)
    with subprocess.Popen(["git", "archive", revision], cwd=REPO, stdout=subprocess.PIPE) as archive:
        unpacked = subprocess.run(["tar", "-x", "-C", place], stdin=archive.stdout, check=False)
    if archive.returncode != 0 or unpacked.returncode != 0:
        raise ImageError(f"cannot read the commit {revision} of {REPO}")


def pack(tree: Path, archive: Path) -> None:
    """For unpacking over the root of a guest."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    run("tar", "-c", "--owner=0", "--group=0", "-f", archive, "-C", tree, ".")
