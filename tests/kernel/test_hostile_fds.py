"""Descriptors of every kind: each call is answered by name, none stays open, none holds anybody up.

An io_uring is not among them: kernels from 6.7 on refuse to send one (net/core/scm.c scm_fp_copy()).
"""

import contextlib
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gi.repository import GLib

from tests.lab import Daemon, fuse
from tests.lab.as_user import AsUser, Refused, memfd
from tests.lab.compiled import program
from tests.lab.daemon import ROOT, Source, builtin, by_fd
from tests.lab.maps import _lib as libbpf
from tests.lab.poison import break_connection, require_poison
from tests.lab.size import Size
from tests.lab.world import run, until

pytestmark = pytest.mark.cold

NOBODY = 65534
MAP = ("type", "array", "key", "4", "value", "4", "entries", "1", "name", "given")
PROPERTIES = "org.freedesktop.DBus.Properties"
_STUCK = 3.0
"""Seconds after which the daemon takes a file system for one that does not answer."""


def sparse(daemon: Daemon) -> int:
    place = daemon.world.dir / "sparse"
    with place.open("wb") as file:
        file.truncate(1 << 40)
    return os.open(place, os.O_RDONLY)


def sparse_memfd(_: Daemon) -> int:
    fd = memfd(b"\x7fELF", sealed=False)
    os.truncate(fd, 1 << 40)
    return fd


def pinned(daemon: Daemon, *words: str) -> int:
    """A descriptor of what bpftool pins."""
    place = daemon.world.bpffs / "given"
    run("bpftool", *words[:2], *(place if word == "PIN" else word for word in words[2:]))
    return int(libbpf.bpf_obj_get(os.fsencode(place)))


def bpf_map(daemon: Daemon) -> int:
    return pinned(daemon, "map", "create", "PIN", *MAP)


def other_program(daemon: Daemon) -> int:
    return pinned(daemon, "prog", "load", str(program("single")), "PIN", "type", "xdp")


def own_link(daemon: Daemon) -> int:
    return int(libbpf.bpf_obj_get(os.fsencode(daemon.pins / "edge" / "link")))


def epoll(_: Daemon) -> int:
    with select.epoll() as made:
        return os.dup(made.fileno())


def opened(path: str, flags: int = os.O_RDONLY) -> Callable[[Daemon], int]:
    return lambda _: os.open(path, flags)


def detached_socket(_: Daemon) -> int:
    ours, theirs = socket.socketpair()
    with ours:
        return theirs.detach()


KINDS = [
    pytest.param(lambda _: os.pipe()[0], id="a pipe"),
    pytest.param(detached_socket, id="a socket"),
    pytest.param(opened("/tmp"), id="a directory"),
    pytest.param(opened("/dev/zero"), id="endless zeros"),
    pytest.param(opened("/dev/ptmx", os.O_RDWR | os.O_NOCTTY), id="a terminal"),
    pytest.param(opened("/proc/self/mem"), id="the memory of a process"),
    pytest.param(opened("/etc/passwd", os.O_PATH), id="a path"),
    pytest.param(sparse, id="a sparse terabyte"),
    pytest.param(sparse_memfd, id="a sparse terabyte in memory"),
    pytest.param(lambda _: memfd(b""), id="nothing"),
    pytest.param(lambda _: memfd(b"\x7fELF" * 1000), id="almost an object"),
    pytest.param(epoll, id="an epoll"),
    pytest.param(lambda _: os.pidfd_open(os.getpid()), id="a process"),
    pytest.param(bpf_map, id="a map"),
    pytest.param(own_link, id="a link of the daemon's"),
]


@pytest.fixture
def attached(daemon: Daemon) -> Daemon:
    daemon.attach("edge", {"xdp": "v0"}, builtin())
    daemon.call("Events", "(a{sv})", ({},))  # and the event log has its files open
    return daemon


@pytest.fixture
def unchanged(attached: Daemon) -> Iterator[Daemon]:
    """What the test does leaves no descriptor in the daemon, and all links as they are."""
    before, links = Size(attached).fds, attached.links()
    yield attached
    until(lambda: Size(attached).fds <= before, "descriptors are closed again")
    assert attached.links() == links
    assert "unexpected failure" not in attached.said()


def words(kind: str) -> tuple[object, ...]:
    return ("x", {"xdp": GLib.Variant("s", "v1")}, {kind: GLib.Variant("h", 0)}, {})


ATTACH = ("Attach", "(sa{sv}a{sv}a{sv})")


@pytest.mark.parametrize("uid", [pytest.param(0, id="root"), pytest.param(NOBODY, id="nobody")])
@pytest.mark.parametrize("make", KINDS)
def test_what_is_no_program(unchanged: Daemon, uid: int, make: Callable[[Daemon], int]) -> None:
    client = AsUser(unchanged.world, uid)
    fd = make(unchanged)
    try:
        for kind in ("object", "source", "fd"):
            with pytest.raises(Refused) as refusal:
                client.call(*ATTACH, words(kind), fds=[fd])
            expected = {"BadProgram", "NotSupported"} if uid == 0 else {"NotAuthorized"}
            assert refusal.value.name in expected, refusal.value
    finally:
        os.close(fd)


def test_a_program_of_another_type(unchanged: Daemon) -> None:
    fd = other_program(unchanged)
    with pytest.raises(Refused) as refusal:
        unchanged.attach("x", {"cgroup": unchanged.world.cgroup(), "attach_type": "egress"}, by_fd(fd))
    assert refusal.value.name == "WrongProgramType"
    os.close(fd)


@pytest.mark.parametrize("method", ["Get", "Nope", "Detach", "Attach"])
def test_descriptors_that_nobody_asked_for(unchanged: Daemon, method: str) -> None:
    """GIO itself answers the last three: unknown, and of the wrong signature."""
    client = AsUser(unchanged.world, NOBODY)
    fd = os.open("/etc/passwd", os.O_RDONLY)
    interface = PROPERTIES if method == "Get" else "org.bpflinkd1.Manager"
    for _ in range(50):
        if method == "Get":
            arguments = ("org.bpflinkd1.Manager", "Version")
            assert client.call(method, "(ss)", arguments, fds=[fd] * 16, interface=interface)
        else:
            with pytest.raises(Refused, match=r"UnknownMethod|InvalidArgs"):
                client.call(method, "(u)", (1,), fds=[fd] * 16, interface=interface)
    os.close(fd)


def test_too_many_descriptors(unchanged: Daemon) -> None:
    fd = memfd(b"")
    with pytest.raises(Refused, match="at most 4") as refusal:
        unchanged.call(*ATTACH, words("object"), fds=[fd] * 5)
    assert refusal.value.name == "LimitExceeded"
    os.close(fd)


def test_thousands_of_descriptors(unchanged: Daemon) -> None:
    client = AsUser(unchanged.world, NOBODY)
    fd = os.open("/etc/passwd", os.O_RDONLY)
    body = GLib.Variant(ATTACH[1], words("object"))
    for _ in range(10):
        client.flood(("org.bpflinkd1", ROOT, "org.bpflinkd1.Manager", "Attach"), body, 200, fds=[fd] * 4)
    os.close(fd)
    unchanged.links()


def test_a_file_that_shrinks_and_grows_while_it_is_read(unchanged: Daemon) -> None:
    code = program("single").read_bytes()
    fd = memfd(code[:64], sealed=False)
    end = threading.Event()

    def change() -> None:
        while not end.is_set():
            os.truncate(fd, 64)
            os.pwrite(fd, os.urandom(4096), 64)
            os.pwrite(fd, code, 0)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(50):
            with pytest.raises(Refused) as refusal:
                unchanged.call(*ATTACH, words("object"), fds=[fd])
                unchanged.detach("x")
                raise Refused("BadProgram", "it was whole for once")
            assert refusal.value.name in {"BadProgram", "VerifierRejected"}
    finally:
        end.set()
        thread.join()
        os.close(fd)


class OpenObject(Source):
    """An object in a descriptor that is open already."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._given = fd

    def __enter__(self) -> tuple[dict[str, GLib.Variant], list[int]]:
        return {"object": GLib.Variant("h", 0)}, [self._given]


class Stuck:
    """A mounted file system that does not answer the daemon's flushes."""

    def __init__(self, daemon: Daemon) -> None:
        assert daemon.process
        place = daemon.world.dir / "fuse"
        place.mkdir()
        code = Path(fuse.__file__).read_text()
        command = ("/usr/bin/python3", "-I", "-c", code, str(place), str(daemon.process.pid))
        self.server = daemon.world.process(*command, stdout=subprocess.PIPE)
        assert self.server.stdout
        assert self.server.stdout.readline() == "mounted\n"
        daemon.world.at_end(lambda: run("umount", "--lazy", place))
        daemon.world.at_end(self.end)
        self.fd = os.open(place / "stuck", os.O_RDWR)

    def said(self) -> list[str]:
        """End it, and give all that the daemon asked of it."""
        self.server.kill()
        out, _ = self.server.communicate()
        return str(out).split()

    def end(self) -> None:
        """Let go of it. What waits for it gets an error."""
        self.server.kill()
        with contextlib.suppress(OSError):  # ENOTCONN; it is closed all the same
            os.close(self.fd)


@pytest.fixture
def stuck(attached: Daemon) -> Stuck:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("there is no /dev/fuse")
    return Stuck(attached)


@pytest.mark.parametrize("method", ["Attach", "Nope", "Detach"])
def test_a_file_system_that_does_not_answer(attached: Daemon, stuck: Stuck, method: str) -> None:
    """The daemon's own close of what it was sent never ends. GIO refuses two of these by itself."""
    before = Size(attached).fds
    client = AsUser(attached.world, NOBODY)
    signature, arguments = (ATTACH[1], words("object")) if method == "Attach" else ("(u)", (1,))
    with pytest.raises(Refused, match=r"NotAuthorized|UnknownMethod|InvalidArgs"):
        client.call(method, signature, arguments, fds=[stuck.fd])
    began = time.monotonic()
    attached.call("Ping", interface="org.freedesktop.DBus.Peer")
    attached.replace("edge", builtin())
    assert time.monotonic() - began < 1
    time.sleep(_STUCK + 0.2)
    with pytest.raises(Refused, match="does not answer") as refusal:
        client.call(*ATTACH, words("object"), fds=[stuck.fd])
    assert refusal.value.name == "LimitExceeded"
    code = memfd(program("single").read_bytes())
    attached.replace("edge", OpenObject(code))
    os.close(code)
    requests = stuck.said()
    assert set(requests) <= {"flush", "release"}, "it was looked at"
    assert "flush" in requests
    until(lambda: Size(attached).fds <= before, "descriptors are closed again")


def test_one_in_a_message_that_glib_cannot_read(attached: Daemon, stuck: Stuck) -> None:
    """GLib closes it on the thread that moves the bytes of every connection."""
    require_poison()
    before = Size(attached).fds
    client = AsUser(attached.world, NOBODY)
    for _ in range(2):
        break_connection(attached, client, [stuck.fd])
        attached.replace("edge", builtin())
    assert "flush" in stuck.said()
    until(lambda: Size(attached).fds <= before, "descriptors are closed again")
