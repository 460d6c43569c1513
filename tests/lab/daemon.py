"""A private bpflinkd, driven over D-Bus without the project's own client."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gi.repository import Gio, GLib

from tests.lab.warm import Process, Server

if TYPE_CHECKING:
    from tests.lab.world import World

BINARY = Path(os.environ.get("BPFLINKD_PROGRAM") or Path(sys.executable).with_name("bpflinkd"))
"""The daemon of this checkout, or one that is installed."""
_SECONDS_TO_START = 100
"""Under emulation a start takes ten seconds and more."""
MANAGER = "org.bpflinkd1.Manager"
ROOT = "/org/bpflinkd1"


class Refused(Exception):
    """A D-Bus error, taken apart."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name.removeprefix("org.bpflinkd1.Error.")
        self.message = message


class Daemon:
    """One instance with its own state and bpffs directory."""

    server: ClassVar[Server | None] = None
    """What all are forked from within `warm_starts`."""

    def __init__(self, world: "World", options: Sequence[str] = (), *, warm: bool = True) -> None:
        """`warm=False`: by exec, also within `warm_starts`."""
        self.world = world
        self._warm = warm
        self.state_dir = world.dir / "state"
        self.pins = world.bpffs / "bpflinkd"
        self.log = world.dir / "daemon.log"
        self.options = list(options)
        self.process: subprocess.Popen[str] | Process | None = None
        self._connection: Gio.DBusConnection | None = None

    def words(self) -> list[str]:
        """The program and its arguments."""
        places = {
            "--bus": self.world.bus,
            "--state-dir": self.state_dir,
            "--config-dir": self.world.dir / "etc",
            "--bpffs": self.pins,
            "--runtime-dir": self.world.dir / "run",
        }
        words = [str(word) for pair in places.items() for word in pair]
        return [str(BINARY), *words, "--foreground", *self.options]

    def command(self) -> list[str]:
        """The command line that starts it in the world's namespace."""
        return self.world.inside(*self.words())

    # Life

    def start(self, *, ready: bool = True) -> None:
        """Start it, and wait until it owns its name."""
        with self.log.open("a") as log:
            if self._warm and Daemon.server is not None:
                self.process = Daemon.server.start(self.words(), self.world.netns_file, log.fileno())
            else:
                self.process = subprocess.Popen(self.command(), stderr=log, text=True)
        deadline = time.monotonic() + _SECONDS_TO_START
        while ready and not self.owned():
            if self.process.poll() is not None:
                raise RuntimeError(f"bpflinkd ended with {self.process.returncode}: {self.said()}")
            if time.monotonic() > deadline:
                raise TimeoutError("bpflinkd does not get ready")
            time.sleep(0.01)

    def owned(self) -> bool:
        """Whether the bus name has an owner."""
        answer = self.bus_call("NameHasOwner", GLib.Variant("(s)", ("org.bpflinkd1",)))
        return bool(answer[0])

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it with a signal; returns the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        code = self.process.wait(20)
        while self._connection is not None and self.owned():
            time.sleep(0.005)
        return code

    def kill(self) -> None:
        """kill -9."""
        self.end(signal.SIGKILL)

    def restart(self, number: int = signal.SIGTERM) -> None:
        """End and start again."""
        self.end(number)
        self.start()

    def said(self) -> str:
        """The whole log."""
        return self.log.read_text()

    def pinned(self) -> set[str]:
        """Names of the directories of pins, without that of the sentinel, which stays."""
        return {place.name for place in self.pins.iterdir()} - {"_sentinel"}

    # Calls

    @property
    def connection(self) -> Gio.DBusConnection:
        """A connection of our own to the private bus."""
        if self._connection is None:
            flags = Gio.DBusConnectionFlags
            self._connection = Gio.DBusConnection.new_for_address_sync(
                self.world.bus,
                flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION,
                None,
                None,
            )
        return self._connection

    def bus_call(self, method: str, arguments: GLib.Variant) -> Any:
        """Call the bus itself."""
        return self.connection.call_sync(
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            method,
            arguments,
            None,
            0,
            5000,
            None,
        ).unpack()

    def call(
        self,
        method: str,
        signature: str = "()",
        arguments: tuple[Any, ...] = (),
        *,
        fds: Sequence[int] = (),
        path: str = ROOT,
        interface: str = MANAGER,
    ) -> Any:
        """Call a method; its out arguments, or the one there is."""
        sent = Gio.UnixFDList.new()
        for fd in fds:
            sent.append(fd)
        try:
            result, _ = self.connection.call_with_unix_fd_list_sync(
                "org.bpflinkd1",
                path,
                interface,
                method,
                GLib.Variant(signature, arguments),
                None,
                0,
                300_000,
                sent,
                None,
            )
        except GLib.Error as error:
            name = Gio.DBusError.get_remote_error(error) or "local"
            raise Refused(name, error.message.removeprefix(f"GDBus.Error:{name}: ")) from None
        values = result.unpack()
        return values[0] if len(values) == 1 else values

    def attach(
        self,
        name: str,
        target: dict[str, str],
        program: "Source",
        **options: GLib.Variant,
    ) -> str:
        """Attach; returns the object path."""
        with program as (wanted, fds):
            words = {key: GLib.Variant("s", value) for key, value in target.items()}
            return str(self.call("Attach", "(sa{sv}a{sv}a{sv})", (name, words, wanted, options), fds=fds))

    def replace(
        self,
        name: str,
        program: "Source",
        expect: int | None = None,
        *,
        force: bool = False,
        **options: GLib.Variant,
    ) -> int:
        """Replace; returns the generation."""
        if expect is not None:
            options["expect"] = GLib.Variant("t", expect)
        if force:
            options["force"] = GLib.Variant("b", True)
        with program as (wanted, fds):
            return int(self.call("Replace", "(sa{sv}a{sv})", (name, wanted, options), fds=fds))

    def rollback(self, name: str, generation: int = 0) -> int:
        """Rollback; returns the generation."""
        return int(self.call("Rollback", "(st)", (name, generation)))

    def confirm(self, name: str) -> None:
        """Confirm."""
        self.call("Confirm", "(s)", (name,))

    def history(self, name: str) -> list[dict[str, Any]]:
        """History."""
        return [readable(each) for each in self.call("History", "(s)", (name,))]

    def detach(self, name: str, *, force: bool = False) -> None:
        """Detach."""
        options = {"force": GLib.Variant("b", True)} if force else {}
        self.call("Detach", "(sa{sv})", (name, options))

    def transfer(self, name: str, *, force: bool = False, **owner: GLib.Variant) -> None:
        """Transfer to `uid=` or `unit=`."""
        if force:
            owner["force"] = GLib.Variant("b", True)
        self.call("Transfer", "(sa{sv})", (name, owner))

    def adopt(self, name: str, link_id: int = 0, **options: GLib.Variant) -> str:
        """Adopt; returns the object path."""
        return str(self.call("Adopt", "(usa{sv})", (link_id, name, options)))

    def foreign(self) -> list[dict[str, Any]]:
        """ListForeign."""
        return [readable(each) for each in self.call("ListForeign")]

    def manager_property(self, name: str) -> Any:
        """A property of the Manager."""
        return self.call("Get", "(ss)", (MANAGER, name), interface="org.freedesktop.DBus.Properties")

    def link(self, name: str) -> dict[str, Any]:
        """All properties of a link."""
        return dict(self.links()[name])

    def links(self) -> dict[str, dict[str, Any]]:
        """All properties of all links, by name."""
        interface = "org.freedesktop.DBus.ObjectManager"
        objects = self.call("GetManagedObjects", interface=interface)
        found = [interfaces["org.bpflinkd1.Link"] for interfaces in objects.values()]
        return {properties["Name"]: readable(properties) for properties in found}

    def state(self, name: str) -> str:
        """A link's state."""
        return str(self.link(name)["State"])


@contextmanager
def warm_starts() -> Iterator[None]:
    """Within it daemons are forked from a process that has imported the program: see `tests.lab.warm`.

    They must have ended when it ends.
    """
    assert Daemon.server is None
    Daemon.server = Server(BINARY)
    try:
        yield
    finally:
        Daemon.server.close()
        Daemon.server = None


def readable(properties: dict[str, Any]) -> dict[str, Any]:
    """Properties with names for the parts of their structs."""
    made = dict(properties)
    for key in {"Target", "target"} & set(made):
        kind, place, detail = made[key]
        names = {"xdp": "mode", "cgroup": "attach_type", "kprobe": "offset"}
        made[key] = {kind: place, names.get(kind, "detail"): detail}
    for key in {"Program", "program"} & set(made):
        made[key] = dict(zip(("id", "name", "tag", "type"), made[key], strict=True))
    for key in {"Running", "by"} & set(made):
        if isinstance(made[key], dict):
            made[key] = readable(made[key])
    if "Kprobe" in made:
        made |= zip(("Cookie", "Missed", "Suppressed"), made.pop("Kprobe"), strict=True)
    for key in {"By", "by"} & set(made):
        if isinstance(made[key], tuple):
            made[key] = dict(zip(("uid", "pid", "unit", "exe"), made[key], strict=True))
    if "Hook" in made:
        made["Hook"] = {made["Hook"][0]: made["Hook"][1]}
    if "processes" in made:
        made["processes"] = [{"pid": pid, "comm": comm} for pid, comm in made["processes"]]
    return made


class Source:
    """A program source as it goes into a message; opens the object file for the call."""

    def __init__(self, **words: Any) -> None:
        self._words = words
        self._fd = -1

    def __enter__(self) -> tuple[dict[str, GLib.Variant], list[int]]:
        types = {"name": "s", "pin": "s", "id": "u", "builtin": "s", "constants": "a{ss}", "generation": "t"}
        wanted = {key: GLib.Variant(types[key], value) for key, value in self._words.items() if key in types}
        fds = []
        for kind in {"object", "source"} & set(self._words):
            self._fd = os.open(self._words[kind], os.O_RDONLY | os.O_CLOEXEC)
            wanted[kind] = GLib.Variant("h", 0)
            fds = [self._fd]
        if "fd" in self._words:
            wanted["fd"] = GLib.Variant("h", 0)
            fds = [self._words["fd"]]
        return wanted, fds

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def elf(path: Path, name: str | None = None, **constants: str) -> Source:
    """An ELF object file."""
    words: dict[str, Any] = {} if name is None else {"name": name}
    if constants:
        words["constants"] = constants
    return Source(object=str(path), **words)


def pinned(path: Path) -> Source:
    """A pinned program."""
    return Source(pin=str(path))


def by_id(number: int) -> Source:
    """A loaded program."""
    return Source(id=number)


def by_fd(fd: int) -> Source:
    """An open program."""
    return Source(fd=fd)


def builtin(name: str = "pass") -> Source:
    """A built-in program."""
    return Source(builtin=name)
