"""The process behind `AsUser`: makes D-Bus calls as whoever it runs as. Needs Debian's Python only.

Requests come over a socket at descriptor 0: a length, then JSON, with the descriptors to send beside the
length. Message bodies travel in their serialised form, so that nothing is lost between JSON and D-Bus.
"""

import base64
import json
import os
import socket
import struct
import sys
from typing import Any

from gi.repository import Gio, GLib

LENGTH = struct.Struct("!I")
_MOST_FDS = 64


def packed(value: GLib.Variant) -> dict[str, str]:
    """A body as JSON."""
    data = base64.b64encode(value.get_data_as_bytes().get_data() or b"").decode()
    return {"type": value.get_type_string(), "data": data}


def body(packet: dict[str, str]) -> GLib.Variant:
    """The inverse of `packed`."""
    data = GLib.Bytes.new(base64.b64decode(packet["data"]))
    return GLib.Variant.new_from_bytes(GLib.VariantType(packet["type"]), data, False)


def send(end: socket.socket, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    """One message."""
    data = json.dumps(message).encode()
    header = LENGTH.pack(len(data))
    if fds:
        socket.send_fds(end, [header], fds)
        end.sendall(data)
    else:
        end.sendall(header + data)


def receive(end: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """One message and the descriptors that came with it. EOFError when there are no more."""
    header, fds, _flags, _address = socket.recv_fds(end, LENGTH.size, _MOST_FDS)
    if not header:
        raise EOFError
    (size,) = LENGTH.unpack(header)
    data = b""
    while len(data) < size:
        data += end.recv(size - len(data))
    return json.loads(data), fds


def answer(connection: Gio.DBusConnection, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Make one call; its answer, or the name and message of the error."""
    destination, path, interface, method = request["to"]
    message = Gio.DBusMessage.new_method_call(destination, path, interface, method)
    message.set_body(body(request["body"]))
    if fds:
        files = Gio.UnixFDList.new()
        for fd in fds:
            files.append(fd)
        message.set_unix_fd_list(files)
    send_flags = Gio.DBusSendMessageFlags.NONE
    if request["no_reply"]:
        message.set_flags(Gio.DBusMessageFlags.NO_REPLY_EXPECTED)
        for _ in range(request["times"]):
            again = message.copy()
            connection.send_message(again, send_flags)
        connection.flush_sync(None)
        return {"body": packed(GLib.Variant("()", ()))}
    reply, _serial = connection.send_message_with_reply_sync(message, send_flags, 300_000, None)
    if reply.get_message_type() == Gio.DBusMessageType.ERROR:
        said = reply.get_body()
        text = said.unpack()[0] if said is not None and said.n_children() else ""
        return {"error": reply.get_error_name(), "message": text}
    return {"body": packed(reply.get_body() or GLib.Variant("()", ()))}


def main(bus: str) -> None:
    """Answer requests until there are no more."""
    end = socket.socket(fileno=0)
    flags = Gio.DBusConnectionFlags
    kind = flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION
    connection = Gio.DBusConnection.new_for_address_sync(bus, kind, None, None)
    send(end, {"name": connection.get_unique_name()})
    while True:
        try:
            request, fds = receive(end)
        except EOFError:
            return
        try:
            said = answer(connection, request, fds)
        except GLib.Error as error:
            said = {"error": "local", "message": error.message}
        for fd in fds:
            os.close(fd)
        send(end, said)


if __name__ == "__main__":
    main(sys.argv[1])
