"""The client library: what it sends, what it refuses to send, and what it makes of answers.

The daemon here is a fake (see fake_service), whose link `echo` answers with all that came.
"""

import errno
import fcntl
import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import bpflinkd.client
from bpflinkd.client import (
    BadInput,
    Builtin,
    Client,
    ClientError,
    CSource,
    HookBusy,
    KernelLink,
    LimitExceeded,
    NetlinkXdp,
    NoDaemon,
    NoSuchLink,
    NotAllowed,
    NotOwner,
    Object,
    Pinned,
    PinnedLink,
    ProgramFd,
    ProgramId,
    StaleGeneration,
    Unit,
    User,
    VerifierRejected,
    XdpTarget,
    errors,
    owners,
    programs,
)
from bpflinkd.core.errors import ALL_ERRORS, ERROR_PREFIX
from tests.unit.fake_service import ROOT, fake_daemon, private_bus

ALL_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    address = f"unix:path={tmp_path_factory.mktemp('bus')}/socket"
    with private_bus(address), fake_daemon(address) as fake:
        yield address
        fake.terminate()


@pytest.fixture
def client(bus: str) -> Iterator[Client]:
    with Client(bus) as made:
        yield made


def _sent(call: Callable[[], object]) -> dict[str, Any]:
    """What a call sent, as the fake saw it."""
    with pytest.raises(ClientError) as refused:
        call()
    assert refused.value.name == "BadOption"
    found: dict[str, Any] = json.loads(refused.value.sentence)
    return found


def test_an_attach_sends_the_words_of_the_contract(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "a.o"
    path.write_bytes(b"first")
    sent = _sent(
        lambda: client.attach(
            "echo",
            "cgroup:/a.slice egress",
            Object(path, "p"),
            policy="restore",
            wait=True,
            lifetime="owner",
            owner="unit:x.service",
            grace=0.25,
            fallback=Object(b"second"),
            force=True,
        )
    )
    assert sent["given"] == [
        "echo",
        {"cgroup": "/a.slice", "attach_type": "egress"},
        {"object": 0, "name": "p"},
        {
            "policy": "restore",
            "wait": True,
            "lifetime": "owner",
            "owner": {"unit": "x.service"},
            "grace": 250_000,
            "fallback": {"object": 1},
            "force": True,
        },
    ]
    assert sent["files"] == [{"seals": ALL_SEALS, "data": text} for text in ("first", "second")]
    assert sent["asks"] is False


@pytest.mark.parametrize(
    ("call", "given"),
    [
        pytest.param(
            lambda c: c.attach("echo", XdpTarget("e", "generic"), Pinned("/p")),
            ["echo", {"xdp": "e", "mode": "generic"}, {"pin": "/p"}, {}],
            id="a typed target and nothing chosen",
        ),
        pytest.param(
            lambda c: c.attach("echo", "kretprobe-multi:f*", CSource(b"int f;", "f")),
            ["echo", {"kretprobe-multi": "f*"}, {"source": 0, "name": "f"}, {}],
            id="C on functions",
        ),
        pytest.param(
            lambda c: c.replace("echo", ProgramId(7), expect=2**64 - 1, force=True),
            ["echo", {"id": 7}, {"expect": 2**64 - 1, "force": True}],
            id="replace",
        ),
        pytest.param(
            lambda c: c.replace("echo", Builtin("pass")), ["echo", {"builtin": "pass"}, {}], id="a built-in"
        ),
        pytest.param(lambda c: c.detach("echo", force=True), ["echo", {"force": True}], id="detach"),
        pytest.param(
            lambda c: c.transfer("echo", User(812), force=True),
            ["echo", {"uid": 812, "force": True}],
            id="transfer to a user",
        ),
        pytest.param(
            lambda c: c.transfer("echo", Unit("a.service")), ["echo", {"unit": "a.service"}], id="to a unit"
        ),
        pytest.param(lambda c: c.claim("echo"), ["echo"], id="claim"),
        pytest.param(lambda c: c.adopt("echo", KernelLink(9)), [9, "echo", {}], id="adopt a bpf_link"),
        pytest.param(
            lambda c: c.adopt("echo", PinnedLink("/p"), policy="yield"),
            [0, "echo", {"pin": "/p", "policy": "yield"}],
            id="adopt a pin",
        ),
        pytest.param(
            lambda c: c.adopt("echo", NetlinkXdp("e"), owner="root"),
            [0, "echo", {"xdp": "e", "owner": {"uid": 0}}],
            id="adopt from netlink",
        ),
    ],
)
def test_a_call_sends(client: Client, call: Callable[[Client], object], given: list[Any]) -> None:
    assert _sent(lambda: call(client))["given"] == given


def test_a_descriptor_of_a_program_stays_the_callers(client: Client, tmp_path: Path) -> None:
    with (tmp_path / "f").open("w+b") as file:
        file.write(b"not really a program")
        file.flush()
        file.seek(0)
        sent = _sent(lambda: client.replace("echo", ProgramFd(file.fileno())))
        assert sent["files"] == [{"seals": 0, "data": "not really a program"}]
        os.fstat(file.fileno())


def test_the_user_is_asked_only_where_that_is_wanted(bus: str) -> None:
    with Client(bus, interactive=True) as client:
        assert _sent(lambda: client.detach("echo"))["asks"] is True


def _missing(path: Path) -> None: ...


def _too_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate((64 << 20) + 1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(_missing, "cannot be opened: No such file", id="a missing file"),
        pytest.param(Path.mkdir, "is a directory; give an ELF object", id="a directory"),
        pytest.param(os.mkfifo, "not a regular file", id="a fifo, without waiting for its writer"),
        pytest.param(lambda path: path.symlink_to(path), "symbolic links", id="a link to itself"),
        pytest.param(_too_large, "larger than 64 MiB", id="a file that is too large"),
    ],
)
def test_a_file_that_cannot_be_sent_is_refused(
    tmp_path: Path, make: Callable[[Path], object], says: str
) -> None:
    path = tmp_path / "x.o"
    make(path)
    gc.collect()  # what tests before left to Python
    with pytest.raises(BadInput, match=says) as refused:
        programs.sealed(Object(path))
    assert str(path) in refused.value.sentence
    assert not {str(path), "/memfd:bpflinkd-object (deleted)"} & _open_files()


def _open_files() -> set[str]:
    """What this process has open. GIO's thread opens and closes others at any time."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return found


def test_nobody_can_change_what_was_sealed(tmp_path: Path) -> None:
    path = tmp_path / "a.o"
    path.write_bytes(bytes(3 << 20))
    copy = programs.sealed(Object(path))
    try:
        assert "/memfd:bpflinkd-object (deleted)" in _open_files()
        assert os.fstat(copy).st_size == 3 << 20
        assert fcntl.fcntl(copy, fcntl.F_GET_SEALS) == ALL_SEALS
        for change in (lambda: os.pwrite(copy, b"x", 0), lambda: os.ftruncate(copy, 1)):
            with pytest.raises(PermissionError):
                change()
    finally:
        os.close(copy)


def test_c_has_a_smaller_limit() -> None:
    with pytest.raises(BadInput, match="the source is larger than 1 MiB"):
        programs.sealed(CSource(bytes((1 << 20) + 1)))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        pytest.param(lambda c: c.attach("a", "eth0", Builtin("pass")), "is not a target", id="no target"),
        pytest.param(lambda c: c.attach("a", "xdp:e*", Builtin("pass")), "is a pattern", id="a pattern"),
        pytest.param(lambda c: c.replace("a", ProgramFd(-1)), "not an open descriptor", id="no descriptor"),
        pytest.param(lambda c: c.replace("a", ProgramFd(9999)), "not an open descriptor", id="a closed one"),
        pytest.param(lambda c: c.replace("a", ProgramId(2**32)), "id 4294967296", id="an id out of range"),
        pytest.param(
            lambda c: c.replace("a", Pinned("\udcff")), "not valid UTF-8", id="bytes that are no text"
        ),
        pytest.param(lambda c: c.detach("a\0b"), "holds a NUL", id="a NUL in a name"),
        pytest.param(lambda c: c.link("\udcff"), "not valid UTF-8", id="a name that cannot be"),
        pytest.param(lambda c: c.transfer("a", "user:no such user"), "no user", id="an unknown user"),
        pytest.param(
            lambda c: c.attach("a", "xdp:e", Builtin("pass"), grace=-1.0),
            "grace time",
            id="less than no time",
        ),
    ],
)
def test_what_cannot_be_sent_is_refused_before_anything_is_asked(
    client: Client, call: Callable[[Client], object], says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        call(client)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("user:812", User(812), id="a uid"),
        pytest.param("812", User(812), id="a number alone"),
        pytest.param("root", User(0), id="a name alone"),
        pytest.param("user:root", User(0), id="a name"),
        pytest.param("unit:a.service", Unit("a.service"), id="a unit"),
    ],
)
def test_an_owner_is_understood(text: str, expected: User | Unit) -> None:
    found = owners.parse(text)
    assert (type(found), found) == (type(expected), expected)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NotAuthorized", NotAllowed),
        ("NotOwner", NotOwner),
        ("NoSuchLink", NoSuchLink),
        ("StaleGeneration", StaleGeneration),
        ("HookBusy", HookBusy),
        ("LimitExceeded", LimitExceeded),
        ("WrongProgramType", ClientError),
    ],
)
def test_an_error_has_the_class_of_its_name(client: Client, name: str, kind: type[ClientError]) -> None:
    with pytest.raises(ClientError) as refused:
        client.detach(name)
    assert type(refused.value) is kind
    assert (refused.value.name, refused.value.sentence) == (name, "a sentence")


def test_the_verifiers_log_comes_whole(client: Client) -> None:
    with pytest.raises(VerifierRejected) as refused:
        client.replace("VerifierRejected", Builtin("pass"))
    assert refused.value.log == "line 1\n\nline 3"


def test_classes_are_named_as_the_contract_names_errors() -> None:
    ours = {"BadInput", "ClientError", "NoDaemon", "NotAllowed", "Released"}
    known = {error.__name__ for error in ALL_ERRORS}
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, ClientError):
            assert name in ours | known
    for error in ALL_ERRORS:
        assert errors.refusal(ERROR_PREFIX + error.__name__, "x").name == error.__name__


def test_without_a_bus_there_is_no_daemon() -> None:
    with pytest.raises(NoDaemon, match="cannot be reached"):
        Client("unix:path=/nonexistent")


def test_a_closed_client_says_so(bus: str) -> None:
    client = Client(bus)
    client.close()
    client.close()
    with pytest.raises(NoDaemon):
        client.rows()


def test_only_the_client_itself_imports_gio() -> None:
    words = "import bpflinkd.client as c, sys; c.Object; c.ClientError; sys.exit('gi' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0
    for name in bpflinkd.client.__all__:
        assert getattr(bpflinkd.client, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        getattr(bpflinkd.client, "Nonsense")  # noqa: B009


def test_running_out_of_memory_for_the_copy_is_an_os_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "a.o"
    path.write_bytes(b"x")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "sendfile", full)
    with pytest.raises(OSError, match="No space left"):
        programs.sealed(Object(path))


def test_the_page_names_all_that_is_exported() -> None:
    page = (ROOT / "docs/client.md").read_text()
    methods = [name for name in vars(Client) if not name.startswith("_")]
    for name in [*bpflinkd.client.__all__, *methods]:
        assert re.search(rf"\b{name}\b", page), name


def test_the_page_shows_the_examples_as_they_are() -> None:
    page = (ROOT / "docs/client.md").read_text()
    shown = re.findall(r"^`(examples/\S+)`:\n\n```\w+\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    on_disk = {
        str(path.relative_to(ROOT)): path.read_text()
        for path in (ROOT / "examples").rglob("*")
        if path.suffix in (".c", ".go", ".py", ".sh")
    }
    assert dict(shown) == on_disk
