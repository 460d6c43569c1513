"""Build hook: compile our own BPF C with clang, so that the package carries it compiled."""

import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROGRAMS = Path("bpflinkd/programs")
# asm/types.h lies in the multiarch folder, where clang does not look for the bpf target.
INCLUDE = f"-I/usr/include/{sysconfig.get_config_var('MULTIARCH') or ''}"

COMPILE = ["clang", "-O2", "-g", "-Wall", "-Werror", "-target", "bpf", INCLUDE]


class CompileBpf(BuildHookInterface):
    """Compiles each `NAME.bpf.c` to `NAME.bpf.o` beside it."""

    def initialize(self, _version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files, for wheels and editable installs alike."""
        if self.target_name != "wheel":
            return
        for source in sorted((Path(self.root) / PROGRAMS).glob("*.bpf.c")):
            subprocess.run(
                [*COMPILE, "-c", str(source), "-o", str(source.with_suffix(".o"))],
                check=True,
            )
        build_data["pure_python"] = True
