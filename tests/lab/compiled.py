"""BPF C of tests, compiled once a run."""

import functools
import subprocess
import sysconfig
import tempfile
from pathlib import Path

PROGRAMS = Path(__file__).parents[1] / "programs"
_INCLUDE = f"-I/usr/include/{sysconfig.get_config_var('MULTIARCH') or ''}"


def compile_c(source: Path, output: Path, *flags: str, target: str = "bpf") -> Path:
    """Compile one file with clang."""
    subprocess.run(
        ["clang", "-O2", "-g", "-target", target, _INCLUDE, *flags, "-c", str(source), "-o", str(output)],
        check=True,
    )
    return output


@functools.cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bpflinkd-programs-")


@functools.cache
def object_of(source: Path, *flags: str) -> Path:
    """The object of one file."""
    return compile_c(source, Path(tempfile.mkdtemp(dir=_directory().name)) / f"{source.stem}.o", *flags)


def program(name: str, **macros: object) -> Path:
    """The object of `tests/programs/NAME.bpf.c`, compiled with these macros."""
    return object_of(PROGRAMS / f"{name}.bpf.c", *(f"-D{key}={value}" for key, value in macros.items()))
