"""Our own BPF programs: C here, compiled by the build, shipped compiled."""

from importlib import resources


def image(name: str) -> bytes:
    """The compiled object `NAME.bpf.o`. FileNotFoundError: the package was not built."""
    return (resources.files(__name__) / f"{name}.bpf.o").read_bytes()
