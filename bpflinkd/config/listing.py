"""Which files of several directories count, as systemd has it: the last of a name wins."""

import os
import stat
from pathlib import Path
from typing import Final

from bpflinkd.config.settings import Config
from bpflinkd.config.trust import Trust, Unfit
from bpflinkd.core.declared import Refused

VENDOR: Final = Path("/usr/lib/bpflinkd")
_NULL: Final = os.makedev(1, 3)
"""/dev/null, see Documentation/admin-guide/devices.txt."""


def directories(config_dir: Path, name: str) -> tuple[Path, ...]:
    """Where files of a kind are, in `links.d` or the like; the last wins.

    What a vendor ships is for the system's instance alone.
    """
    own = config_dir / name
    return (VENDOR / name, own) if config_dir == Config().config_dir else (own,)


class Listing:
    """Files that end in `.toml`, by their base names."""

    def __init__(self, trust: Trust) -> None:
        self.refused: list[Refused] = []
        self._trust = trust
        self._found: dict[str, str] = {}
        self._replaced: dict[str, list[str]] = {}
        self._added: list[str] = []

    def files(self) -> list[str]:
        """Their paths, in the order of their base names."""
        return [path for _, path in sorted(self._found.items()) if not _masks(path)]

    def replaced(self, file: str) -> list[str]:
        """Files whose place this one takes."""
        return self._replaced.get(file, [])

    def add(self, directory: str) -> None:
        """Put the files of a directory before those that are there already. One that is missing has none."""
        try:
            self._trust.directory(directory)
            names = os.listdir(directory)
        except FileNotFoundError:
            names = []
        except Unfit as error:
            self._refuse(directory, str(error))
            return
        except OSError as error:
            self._refuse(directory, f"the directory cannot be read: {error.strerror}")
            return
        self._added.append(directory)
        for name in names:
            if not name.endswith(".toml") or name.startswith("."):
                continue
            path = os.path.join(directory, name)
            if name.isprintable():
                if name in self._found:
                    self._replaced.setdefault(path, []).extend(self.replaced(self._found[name]))
                    self._replaced[path].append(self._found[name])
                self._found[name] = path
            else:
                shown = f"{directory}/{name.encode('unicode_escape').decode()}"
                why = "the file's name holds characters that cannot be shown; rename it"
                self.refused.append(Refused(file=shown, sentence=f"{shown}: {why}"))

    def _refuse(self, directory: str, sentence: str) -> None:
        """Of what it would replace nobody can tell, so the directories before it do not count either."""
        self.refused.append(Refused(file=directory, sentence=f"{directory}: {sentence}"))
        for before in self._added:
            why = f"its files are left out, as {directory} may replace them and was refused"
            self.refused.append(Refused(file=before, sentence=f"{before}: {why}"))
        self._added.clear()
        self._found.clear()


def _masks(path: str) -> bool:
    """Whether it is a symbolic link to /dev/null."""
    if not os.path.islink(path):
        return False
    try:
        status = os.stat(path)
    except OSError:
        return False  # it is refused when it is read
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL
