"""A FAKE of the daemon, on a bus of its own.

It serves the real interface.xml, but holds no link, and answers what a link's name asks for. That the
real daemon answers like this is for the tests against the kernel to show.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from gi.repository import Gio, GLib

from bpflinkd.core.errors import ERROR_PREFIX
from bpflinkd.dbus import contract

ROOT = Path(__file__).parents[2]
LINK = {
    "Name": ("s", "edge"),
    "Target": ("(sss)", ("cgroup", "/a.slice", "egress")),
    "State": ("s", "displaced"),
    "Reason": ("s", "another program runs there"),
    "StateSince": ("t", 1_700_000_000_000_000),
    "Owner": ("s", "user:0"),
    "Policy": ("s", "alert"),
    "Lifetime": ("s", "owner"),
    "Hold": (
        "a{sv}",
        {
            "holder": GLib.Variant("s", ":1.999"),
            "grace": GLib.Variant("t", 2_500_000),
            "fallback": GLib.Variant("(ss)", ("builtin", "pass")),
        },
    ),
    "Trial": ("a{sv}", {}),
    "By": ("(uuss)", (0, 4321, "loader.service", "/usr/bin/loader")),
    "Message": ("s", "the hook was empty for 3 ms"),
    "Origin": ("(ss)", ("/etc/bpflinkd/links.d/a.toml", "slices")),
    "Created": ("t", 1_700_000_000_000_000),
    "Generation": ("t", 2),
    "GenerationSince": ("t", 1_700_000_000_000_000),
    "Program": ("(usss)", (7, "count", "0123456789abcdef", "cgroup_skb")),
    "Source": ("(ss)", ("object", "ab" * 32)),
    "Running": (
        "a{sv}",
        {
            "program": GLib.Variant("(usss)", (9, "drop", "feed", "cgroup_skb")),
            "link_id": GLib.Variant("u", 4),
            "processes": GLib.Variant("a(us)", [(123, "loader")]),
        },
    ),
    "KernelLinkId": ("u", 0),
    "Hook": ("(st)", ("cgroup_id", 2**63 + 5)),
    "Maps": ("as", ["counts"]),
    "Kprobe": ("(ttt)", (0, 0, 0)),
}
PATHS = {"bpffs": "/b", "state": "/s", "config": "/c", "runtime": "/r"}
MANAGER = {
    "Version": ("s", "9.9"),
    "Pid": ("u", 42),
    "Started": ("t", 1_700_000_000_000_000),
    "KernelRelease": ("s", "6.1"),
    "Paths": ("a{ss}", PATHS),
    "States": ("a{su}", {"displaced": 1}),
    "WatchSources": (
        "a{sa{sv}}",
        {"sentinel": {"live": GLib.Variant("b", False), "detail": GLib.Variant("s", "no BTF")}},
    ),
    "Refused": ("as", ["/etc/bpflinkd/links.d/b.toml:3:1: a sentence"]),
}


ROW = ("edge", "cgroup:/a.slice egress", "displaced", "user:0", 2, "count", "0123456789abcdef", 1)
REFUSED = [("/l/b.toml", "", "/l/b.toml:3:1: no", ""), ("/l/c.toml", "x", "/l/c.toml:1: no", "log")]
FOREIGN = {"target": GLib.Variant("(sss)", ("xdp", "eth9", "auto")), **cast(Any, LINK["Running"][1])}
OBJECTS = {
    contract.LINKS + "edge": {contract.LINK: {key: GLib.Variant(*value) for key, value in LINK.items()}}
}
READS: dict[str, Any] = {
    "List": ("(a(sssstsst))", ([ROW],)),
    "GetManagedObjects": ("(a{oa{sa{sv}}})", (OBJECTS,)),
    "ListForeign": ("(aa{sv})", ([FOREIGN],)),
    "Features": ("(a(sbs))", ([("xdp", True, ""), ("kprobe", False, "no CONFIG_KPROBES")],)),
    "Reload": ("(a{su}a(ssss))", ({"attached": 2, "unchanged": 7}, REFUSED)),
}
"""What is answered whatever is asked: signature and values, by method."""


@contextlib.contextmanager
def private_bus(address: str) -> Iterator[None]:
    """A dbus-daemon while the context lasts."""
    words = [
        "dbus-daemon",
        "--session",
        "--nofork",
        "--nosyslog",
        "--print-address=1",
        f"--address={address}",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as daemon:
        line_of(daemon.stdout)
        yield
        daemon.terminate()


def fake_daemon(address: str) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "tests.unit.fake_service", address]
    made = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    line_of(made.stdout)
    return made


def line_of(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


class Fake:
    """Answers as the name of a link says. Holds nothing, attaches nothing."""

    def __init__(self, address: str) -> None:
        flags = Gio.DBusConnectionFlags
        self._bus = Gio.DBusConnection.new_for_address_sync(
            address, flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None
        )
        info = Gio.DBusNodeInfo.new_for_xml((ROOT / "bpflinkd/dbus/interface.xml").read_text())
        for interface in info.interfaces:
            path = contract.LINKS + "edge" if interface.name == contract.LINK else contract.ROOT
            self._bus.register_object(path, interface, self._called, self._property, None)
        Gio.bus_own_name_on_connection(
            self._bus,
            contract.BUS_NAME,
            Gio.BusNameOwnerFlags.NONE,
            lambda *_: print("ready", flush=True),
            None,
        )

    def _property(self, _bus: Any, _sender: str, _path: str, interface: str, name: str) -> GLib.Variant:
        return GLib.Variant(*(LINK if interface == contract.LINK else MANAGER)[name])

    def _called(
        self,
        _bus: Any,
        _sender: str,
        _path: str,
        _interface: str,
        method: str,
        arguments: Any,
        invocation: Any,
    ) -> None:
        if method in READS:
            invocation.return_value(GLib.Variant(*READS[method]))
            return
        given: Any = arguments.unpack() if arguments.n_children() else ("",)
        self._change(method, given, given[1] if method == "Adopt" else given[0], invocation)

    def _change(self, method: str, given: Any, name: str, invocation: Any) -> None:
        match method, name:
            case _, "echo":
                invocation.return_dbus_error(ERROR_PREFIX + "BadOption", _described(given, invocation))
            case (("Attach" | "Adopt"), "edge"):
                invocation.return_value(GLib.Variant("(o)", (contract.LINKS + "edge",)))
            case (("Transfer" | "Claim"), "edge"):
                invocation.return_value(None)
            case "ProgramFile", _:
                with tempfile.TemporaryFile() as file:
                    file.write(b"ELF of edge")
                    file.flush()
                    os.lseek(file.fileno(), 0, os.SEEK_SET)
                    files = Gio.UnixFDList.new()
                    files.append(file.fileno())
                    answer = GLib.Variant("(hss)", (0, "object", "count_all"))
                    invocation.return_value_with_unix_fd_list(answer, files)
            case "Replace", "sized":
                fd = invocation.get_message().get_unix_fd_list().get(0)
                invocation.return_value(GLib.Variant("(t)", (os.fstat(fd).st_size,)))
                os.close(fd)
            case "Detach", "told":
                change = GLib.Variant("(ssss)", ("told", "severed", "active", "why"))
                self._bus.emit_signal(None, contract.ROOT, contract.MANAGER, "StateChanged", change)
                invocation.return_value(None)
            case "Detach", "silent":
                pass
            case "Detach", "vanished":
                gone = "org.freedesktop.DBus.Error.NoReply"
                invocation.return_dbus_error(gone, "Message recipient disconnected from message bus")
            case "Detach", "denied":
                denied = "org.freedesktop.DBus.Error.AccessDenied"
                invocation.return_dbus_error(denied, "Rejected send message, 2 matched rules")
            case _:
                log = "\n\nline 1\n\nline 3" if name == "VerifierRejected" else ""
                invocation.return_dbus_error(ERROR_PREFIX + name, f"a sentence{log}")


def _described(given: Any, invocation: Any) -> str:
    """Everything that came with a call, as JSON."""
    message = invocation.get_message()
    files = message.get_unix_fd_list()
    sent = []
    for fd in files.steal_fds() if files is not None else []:
        with open(fd, "rb") as file:
            link = os.readlink(f"/proc/self/fd/{fd}")
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS) if link.startswith("/memfd:") else 0
            sent.append({"seals": seals, "data": file.read().decode(errors="replace")})
    asks = bool(message.get_flags() & Gio.DBusMessageFlags.ALLOW_INTERACTIVE_AUTHORIZATION)
    return json.dumps({"given": given, "files": sent, "asks": asks})


if __name__ == "__main__":
    _fake_daemon = Fake(sys.argv[1])
    GLib.MainLoop().run()
