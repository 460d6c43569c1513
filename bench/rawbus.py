"""A D-Bus client that parses no reply: how long the daemon and the bus take, without a client's share."""

import os
import socket
import struct
from types import TracebackType

from gi.repository import Gio

from tests.lab.daemon import ROOT

_HEADER = struct.Struct("<BBBBIII")
_METHOD_RETURN = 2


class RawBus:
    """A connection to a private bus, by plain sends and receives."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address.removeprefix("unix:path="))
        uid = str(os.geteuid()).encode().hex()
        self._socket.sendall(f"\0AUTH EXTERNAL {uid}\r\n".encode())
        answer = self._socket.recv(1024)
        if not answer.startswith(b"OK "):
            raise ConnectionError(f"the bus said {answer!r}")
        self._socket.sendall(b"BEGIN\r\n")
        self._serial = 0
        bus = "org.freedesktop.DBus"
        self._wait(self._send(Gio.DBusMessage.new_method_call(bus, "/org/freedesktop/DBus", bus, "Hello")))

    def __enter__(self) -> "RawBus":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def managed_objects(self) -> int:
        """Ask for all objects; returns the size of the reply."""
        interface = "org.freedesktop.DBus.ObjectManager"
        message = Gio.DBusMessage.new_method_call("org.bpflinkd1", ROOT, interface, "GetManagedObjects")
        return self._wait(self._send(message))

    def _send(self, message: Gio.DBusMessage) -> int:
        self._serial += 1
        message.set_serial(self._serial)
        message.set_byte_order(Gio.DBusMessageByteOrder.LITTLE_ENDIAN)
        self._socket.sendall(message.to_blob(Gio.DBusCapabilityFlags.NONE))
        return self._serial

    def _wait(self, serial: int) -> int:
        """Read messages until the reply; only its fixed header and reply serial are looked at."""
        wanted = b"\x05\x01u\0" + struct.pack("<I", serial)
        while True:
            head = self._exactly(_HEADER.size)
            _, kind, _, _, body, _, fields = _HEADER.unpack(head)
            rest = self._exactly((fields + 7) // 8 * 8)
            self._exactly(body)
            if wanted in rest:
                if kind != _METHOD_RETURN:
                    raise ConnectionError("the call failed")
                return int(body)

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < size:
            count = self._socket.recv_into(view[done:])
            if count == 0:
                raise ConnectionError("the bus closed the connection")
            done += count
        return data
