"""The text of the process that compiles and loads, as one file: it may be unable to read where ours lies."""

import functools
import importlib.util
import io
import marshal
import struct
import zipfile
from importlib import resources
from typing import Final

MODULES: Final = (
    *("__init__", "compiler", "core/__init__", "core/attach_types", "core/errors", "core/maps"),
    *("kernel/__init__", "kernel/btf", "kernel/confined", "kernel/loading", "kernel/maps"),
    *("kernel/libbpf_calls", "kernel/libbpf_objects", "kernel/libbpf_said"),
)
"""What it runs of our package."""
_MAIN: Final = "from bpflinkd import compiler\n\ncompiler.main()\n"


@functools.cache
def script() -> bytes:
    """A zip archive that Python runs: each module as text, and compiled.

    Compiled by our Python, which mostly is the process's own, they save it half of its start. Another Python
    tells them by the magic number, and takes the text.
    """
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        file.writestr("__main__.py", _MAIN)
        for name in MODULES:
            text = resources.files("bpflinkd").joinpath(f"{name}.py").read_bytes()
            file.writestr(f"bpflinkd/{name}.py", text)
            file.writestr(f"bpflinkd/{name}.pyc", _compiled(text, f"bpflinkd/{name}.py"))
    return archive.getvalue()


def _compiled(text: bytes, name: str) -> bytes:
    """A `.pyc` that is good whatever the text's time is: flags 1 of PEP 552."""
    code = marshal.dumps(compile(text, name, "exec", dont_inherit=True))
    return importlib.util.MAGIC_NUMBER + struct.pack("<I", 1) + importlib.util.source_hash(text) + code
