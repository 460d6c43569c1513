"""The smallest initial file system that gets a Debian kernel to a root on a virtio disk."""

import lzma
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from integration.guest.kernels import Kernel
from integration.service.image import ImageError

_MODULES: Final = ("crc32c_generic", "virtio_blk", "ext4")
"""What Debian's kernels do not have built in, in this order; ext4 asks for crc32c without naming it."""
_INIT: Final = """#!/busybox sh
/busybox mount -t devtmpfs devtmpfs /dev
for module in {modules}; do /busybox insmod /$module; done
tries=0
until [ -b /dev/vda ] || [ $tries = 50 ]; do tries=$((tries + 1)); /busybox usleep 100000; done
/busybox mount -t ext4 -o rw,noatime /dev/vda /root
/busybox mount --move /dev /root/dev
exec /busybox switch_root /root /sbin/init
"""


def make(kernel: Kernel, busybox: Path, output: Path) -> Path:
    """Write it as an uncompressed cpio archive: unpacking costs time under emulation."""
    modules = {place.name.partition(".ko")[0]: _plain(place) for place in _in_order(kernel)}
    script = _INIT.format(modules=" ".join(modules)).encode()
    with output.open("wb") as out:
        for number, (name, mode, body) in enumerate(
            (
                ("dev", stat.S_IFDIR | 0o755, b""),
                ("root", stat.S_IFDIR | 0o755, b""),
                ("busybox", stat.S_IFREG | 0o755, busybox.read_bytes()),
                ("init", stat.S_IFREG | 0o755, script),
                *((name, stat.S_IFREG | 0o644, body) for name, body in modules.items()),
                ("TRAILER!!!", 0, b""),
            )
        ):
            out.write(_entry(number, name, mode, body))
    return output


def _in_order(kernel: Kernel) -> list[Path]:
    """The modules with what they need, each after what it needs."""
    needs = dict[str, tuple[str, list[str]]]()
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        place, _, others = line.partition(":")
        needs[_name(place)] = (place, [_name(other) for other in others.split()])
    found: dict[str, Path] = {}

    def add(name: str) -> None:
        if name not in needs:
            raise ImageError(f"the kernel {kernel.release} has no module {name}")
        place, others = needs[name]
        for other in others:
            add(other)
        found.setdefault(name, kernel.modules / place)

    for name in _MODULES:
        add(name)
    return list(found.values())


def _name(place: str) -> str:
    return Path(place).name.partition(".ko")[0]


def _plain(module: Path) -> bytes:
    """Unpacked: busybox's insmod does not do that."""
    body = module.read_bytes()
    return lzma.decompress(body) if module.suffix == ".xz" else body


def _entry(number: int, name: str, mode: int, body: bytes) -> bytes:
    """One file in the "newc" format, Documentation/driver-api/early-userspace/buffer-format.rst."""
    path = name.encode() + b"\0"
    #       ino     mode  uid gid nlink mtime filesize   dev 3 4, rdev 3 4, namesize, check
    fields = (number, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(f"{field:08x}".encode() for field in fields)
    return b"".join(_padded((head + path, body)))


def _padded(parts: tuple[bytes, ...]) -> Iterator[bytes]:
    for part in parts:
        yield part + b"\0" * (-len(part) % 4)
