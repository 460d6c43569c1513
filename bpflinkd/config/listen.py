"""Where metrics are offered: a path, or an address of the loopback interface."""

import ipaddress
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

LONGEST_PATH: Final = 107
"""Bytes of a Unix socket's path: `struct sockaddr_un`."""
_PORTS: Final = 65535


class Loopback(NamedTuple):
    """A TCP port of this host's own."""

    host: str
    """An address of 127.0.0.0/8, or ::1."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Listen: TypeAlias = Path | Loopback


def parse(text: str) -> Listen:
    """`/run/bpflinkd/metrics.sock`, `127.0.0.1:9907` or `[::1]:9907`. ValueError with what is wrong."""
    if text.startswith("/"):
        if len(text.encode()) > LONGEST_PATH:
            raise ValueError(f"a socket's path has at most {LONGEST_PATH} bytes")
        return Path(text)
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or not 0 < int(port) <= _PORTS:
        raise ValueError("it is neither an absolute path nor an address and a port, such as 127.0.0.1:9907")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ValueError(f"{host!r} is not a numeric address, such as 127.0.0.1 or [::1]") from None
    if not address.is_loopback:
        raise ValueError(f"{address} is not of this host alone; put a proxy that asks who it is before it")
    return Loopback(str(address), int(port))
