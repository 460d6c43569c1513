"""The BPF C of tests/programs, compiled once a run."""

import functools
import subprocess
import sysconfig
import tempfile
from pathlib import Path

PROGRAMS = Path(__file__).parents[1] / "programs"
_INCLUDE = f"-I/usr/include/{sysconfig.get_config_var('MULTIARCH') or ''}"


def compile_c(source: Path, output: Path, *, target: str = "bpf") -> Path:
    """Compile one file with clang."""
    subprocess.run(
        ["clang", "-O2", "-g", "-target", target, _INCLUDE, "-c", str(source), "-o", str(output)],
        check=True,
    )
    return output


@functools.cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bpflinkd-programs-")


@functools.cache
def program(name: str) -> Path:
    """The object of `tests/programs/NAME.bpf.c`."""
    return compile_c(PROGRAMS / f"{name}.bpf.c", Path(_directory().name) / f"{name}.bpf.o")
