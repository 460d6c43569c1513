"""Whether others than root could change what we read, by owners and modes, as sudo asks of its files."""

import errno
import os
import pwd
import stat
from typing import Final

ROOT: Final = frozenset({0})
_MOST_LINKS: Final = 40
"""MAXSYMLINKS: the kernel follows no more (include/linux/namei.h)."""


class Unfit(Exception):
    """A file or directory is not read; `str(error)` is a sentence that says why not."""


def fault(path: str, uid: int, mode: int, trusted: frozenset[int], *, sticky: bool = True) -> str:
    """A sentence on who could change the file or directory at a path; empty where nobody could.

    Args:
        mode: `st_mode`.
        trusted: uids that may own it.
        sticky: others may make files in a directory whose sticky bit keeps them from replacing ours.
    """
    if uid not in trusted:
        return f"{path} is owned by {_user(uid)}, who could change what root runs; make it root's: chown root"
    if stat.S_ISLNK(mode):
        return ""  # its mode means nothing
    if not mode & (stat.S_IWGRP | stat.S_IWOTH):
        return ""
    if sticky and stat.S_ISDIR(mode) and mode & stat.S_ISVTX:
        return ""
    who = "everybody" if mode & stat.S_IWOTH else "its group"
    return (
        f"{path} can be written by {who}, who could change what root runs; take that right away: chmod go-w"
    )


def _user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


class Trust:
    """Finds files, and judges all that lead to them: directories, symbolic links and the file itself.

    What was judged is remembered, so an instance is for one reading.
    """

    def __init__(self, trusted: frozenset[int] | None) -> None:
        """`trusted` are the uids that may own what is read; None judges nothing."""
        self._trusted = trusted
        self._known: dict[str, str] = {"/": "/"}

    def file(self, path: str) -> tuple[str, os.stat_result]:
        """Where a file really is, and its status.

        Raises:
            OSError: it is not there, or we may not see it.
            Unfit: others could change it, or have another file found there.
        """
        if self._trusted is None:
            return path, os.stat(path)
        real, status = self._walk(path, 0)
        self._judge(real, status)
        return real, status

    def directory(self, path: str) -> None:
        """Judge a directory in which any file counts. Raises as `file` does."""
        real, status = self.file(path)
        self._judge(real, status, sticky=False)

    def _walk(self, path: str, links: int) -> tuple[str, os.stat_result]:
        """The last part of a path, symbolic links followed. All but that part is judged."""
        above, name = os.path.split(path.rstrip("/") or "/")
        parent = self._parent(above, links)
        if name in ("", "."):
            return parent, os.stat(parent)
        if name == "..":
            parent = os.path.dirname(parent)
            return parent, os.stat(parent)
        real = os.path.join(parent, name)
        status = os.lstat(real)
        if not stat.S_ISLNK(status.st_mode):
            return real, status
        if links == _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        self._judge(real, status)
        return self._walk(os.path.join(parent, os.readlink(real)), links + 1)

    def _parent(self, path: str, links: int) -> str:
        """Where a directory really is."""
        path = path.rstrip("/") or "/"
        if path not in self._known:
            real, status = self._walk(path, links)
            self._judge(real, status)
            self._known[path] = real
        return self._known[path]

    def _judge(self, path: str, status: os.stat_result, *, sticky: bool = True) -> None:
        if self._trusted is None:
            return
        sentence = fault(path, status.st_uid, status.st_mode, self._trusted, sticky=sticky)
        if sentence:
            raise Unfit(sentence)
