"""A client of the private bus that runs as another user, in a cgroup of choice."""

import fcntl
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gi.repository import GLib

from tests.lab import as_user_client as client
from tests.lab.daemon import MANAGER, ROOT, Refused, Source
from tests.lab.world import World

_CODE = Path(client.__file__).read_text()


class AsUser:
    """One connection of one process; it ends with the world, or by `end`.

    It runs Debian's own Python, as others than root may not be able to read ours.
    """

    def __init__(self, world: World, uid: int, gids: Sequence[int] = (), cgroup: str | None = None) -> None:
        """Connect.

        Args:
            uid: one that /etc/passwd knows, as 65534, `nobody`: dbus-daemon lets no others in.
            gids: the primary group and others; the group numbered as the user where there are none.
            cgroup: path from the cgroup v2 root, joined before the process becomes that user.
        """
        self.uid = uid
        primary, *others = gids or (uid,)
        groups = ["--groups", ",".join(map(str, others))] if others else ["--clear-groups"]
        words = ["setpriv", f"--reuid={uid}", f"--regid={primary}", *groups, "--"]
        if cgroup is not None:
            join = f'echo $$ > "{world.cgroup_dir(cgroup)}/cgroup.procs"; exec "$@"'
            words = ["sh", "-c", join, "sh", *words]
        self._end, theirs = socket.socketpair()
        with theirs:
            self.process = world.process(
                *words, "/usr/bin/python3", "-I", "-c", _CODE, world.bus, stdin=theirs, cwd="/"
            )
        world.at_end(self._end.close)
        hello, _ = client.receive(self._end)
        self.name = str(hello["name"])
        """Of the connection."""

    def call(
        self,
        method: str,
        signature: str = "()",
        arguments: tuple[Any, ...] = (),
        *,
        fds: Sequence[int] = (),
        path: str = ROOT,
        interface: str = MANAGER,
        destination: str = "org.bpflinkd1",
    ) -> Any:
        """Call a method; its out arguments, or the one there is. `Refused`."""
        made = GLib.Variant(signature, arguments)
        values = self.exchange((destination, path, interface, method), made, fds)
        return values[0] if len(values) == 1 else values

    def exchange(self, to: tuple[str, str, str, str], body: GLib.Variant, fds: Sequence[int] = ()) -> Any:
        """Send any message to destination, path, interface and method; all out arguments. `Refused`."""
        said = self._ask(to, body, fds, no_reply=False, times=1)
        if "error" in said:
            raise Refused(said["error"], said["message"])
        return client.body(said["body"]).unpack()

    def flood(
        self, to: tuple[str, str, str, str], body: GLib.Variant, times: int, fds: Sequence[int] = ()
    ) -> None:
        """Send the same message many times, and want no answer."""
        self._ask(to, body, fds, no_reply=True, times=times)

    def attach(self, name: str, target: dict[str, str], program: Source, **options: GLib.Variant) -> str:
        """Attach; returns the object path. `Refused`."""
        with program as (wanted, fds):
            words = {key: GLib.Variant("s", value) for key, value in target.items()}
            return str(self.call("Attach", "(sa{sv}a{sv}a{sv})", (name, words, wanted, options), fds=fds))

    def replace(self, name: str, program: Source, **options: GLib.Variant) -> int:
        """Replace; returns the generation. `Refused`."""
        with program as (wanted, fds):
            return int(self.call("Replace", "(sa{sv}a{sv})", (name, wanted, options), fds=fds))

    def detach(self, name: str, **options: GLib.Variant) -> None:
        """Detach. `Refused`."""
        self.call("Detach", "(sa{sv})", (name, options))

    def end(self) -> None:
        """Disconnect, as a process that ends does."""
        self._end.close()
        self.process.wait(20)

    def _ask(
        self,
        to: tuple[str, str, str, str],
        body: GLib.Variant,
        fds: Sequence[int],
        *,
        no_reply: bool,
        times: int,
    ) -> dict[str, Any]:
        request = {"to": to, "body": client.packed(body), "no_reply": no_reply, "times": times}
        client.send(self._end, request, tuple(fds))
        return client.receive(self._end)[0]


def memfd(data: bytes, *, sealed: bool = True) -> int:
    """A descriptor of a memfd with these bytes; the caller closes it."""

    fd = os.memfd_create("given", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    if sealed:
        every = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, every)
    return fd


__all__ = ["AsUser", "Refused", "memfd"]
