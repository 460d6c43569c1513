"""What `bpflinkctl`, a whole process, makes of a daemon's answers: output and exit codes.

The daemon here is a FAKE: `_Fake` at the end of this file, on a bus of its own. It serves the
real interface.xml, but holds no link, and answers what a link's name asks for. That the real daemon
answers like this is for the tests against the kernel to show.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from gi.repository import Gio, GLib

from bpflinkd.core.errors import ERROR_PREFIX
from bpflinkd.dbus import answers, client, contract

CTL = Path(sys.executable).with_name("bpflinkctl")
ROOT = Path(__file__).parents[2]
LINK = {
    "Name": ("s", "edge"),
    "Target": ("(sss)", ("cgroup", "/a.slice", "egress")),
    "State": ("s", "displaced"),
    "Reason": ("s", "another program runs there"),
    "StateSince": ("t", 1_700_000_000_000_000),
    "Owner": ("u", 0),
    "Policy": ("s", "alert"),
    "Lifetime": ("s", "pinned"),
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


@contextlib.contextmanager
def _bus(address: str) -> Iterator[None]:
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
        _line(daemon.stdout)
        yield
        daemon.terminate()


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bus with the fake on it."""
    if shutil.which("dbus-daemon") is None:
        pytest.skip("dbus-daemon is not installed")
    address = f"unix:path={tmp_path_factory.mktemp('bus')}/socket"
    with _bus(address), _fake(address) as fake:
        yield address
        fake.terminate()


def _fake(address: str) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "tests.unit.test_cli_on_a_bus", address]
    made = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    _line(made.stdout)
    return made


def _line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def _run(bus: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [CTL, "--bus", bus, *words], capture_output=True, text=True, check=False, timeout=30
    )


def test_the_client_and_the_daemon_name_the_same_things() -> None:
    for name in ("BUS_NAME", "ROOT", "LINKS", "MANAGER", "LINK", "OBJECT_MANAGER", "PROPERTIES"):
        assert getattr(client, name, getattr(contract, name)) == getattr(contract, name)
    interfaces = (ROOT / "bpflinkd/dbus/interface.xml").read_text()
    for name in (contract.MANAGER, contract.LINK, contract.OBJECT_MANAGER):
        assert f'<interface name="{name}">' in interfaces


def test_the_largest_numbers_survive_decoding() -> None:
    body = GLib.Variant("(ta{sv}at)", (2**64 - 1, {"-": GLib.Variant("t", 2**63)}, [1, 2**63 + 1]))
    assert answers.decode(body) == [2**64 - 1, {"-": 2**63}, [1, 2**63 + 1]]


def test_list_is_a_table(bus: str) -> None:
    done = _run(bus, "list")
    assert done.returncode == 0, done.stderr
    header, row = done.stdout.splitlines()
    assert header.split() == ["NAME", "TARGET", "STATE", "OWNER", "GEN", "PROGRAM", "SINCE"]
    assert row.split()[:8] == [
        "edge",
        "cgroup:/a.slice",
        "egress",
        "displaced",
        "root",
        "2",
        "count",
        "01234567",
    ]


def test_the_document_of_a_link_is_the_same_from_list_and_show(bus: str) -> None:
    (listed,) = json.loads(_run(bus, "list", "--json").stdout)["links"]
    shown = json.loads(_run(bus, "--json", "show", "edge").stdout)
    assert listed == shown
    assert shown == {
        "name": "edge",
        "target": {"cgroup": "/a.slice", "attach_type": "egress"},
        "state": "displaced",
        "reason": "another program runs there",
        "state_since": 1_700_000_000_000_000,
        "owner": {"uid": 0, "user": "root"},
        "policy": "alert",
        "lifetime": "pinned",
        "origin": {"file": "/etc/bpflinkd/links.d/a.toml", "template": "slices"},
        "created": 1_700_000_000_000_000,
        "generation": 2,
        "generation_since": 1_700_000_000_000_000,
        "program": {"id": 7, "name": "count", "tag": "0123456789abcdef", "type": "cgroup_skb"},
        "source": {"object": "ab" * 32},
        "running": {
            "program": {"id": 9, "name": "drop", "tag": "feed", "type": "cgroup_skb"},
            "link_id": 4,
            "mode": None,
            "processes": [{"pid": 123, "comm": "loader"}],
        },
        "kernel_link_id": None,
        "hook": {"cgroup_id": 2**63 + 5},
        "maps": ["counts"],
        "cookie": 0,
        "missed": 0,
        "suppressed": 0,
        "pins": "/b/edge",
    }


@pytest.mark.parametrize(
    ("command", "told"),
    [
        pytest.param(
            ["show", "edge"], ["another program runs there", "loader (pid 123)", "bpf_link 4"], id="show"
        ),
        pytest.param(
            ["status"],
            ["9.9", "1 displaced", "NOT live", "no BTF", "/b", "NO: no CONFIG_KPROBES"],
            id="status",
        ),
        pytest.param(["foreign"], ["xdp:eth9", "drop feed", "loader (pid 123)"], id="foreign"),
    ],
)
def test_a_person_is_told_everything(bus: str, command: list[str], told: list[str]) -> None:
    done = _run(bus, *command)
    assert done.returncode == 0, done.stderr
    for words in told:
        assert words in done.stdout


def test_an_object_travels_as_a_descriptor(bus: str, tmp_path: Path) -> None:
    path = tmp_path / "only-we-can-name-it.o"
    path.write_bytes(b"twelve bytes")
    done = _run(bus, "replace", "sized", "--object", str(path), "--program", "p", "--json")
    assert json.loads(done.stdout) == {"name": "sized", "generation": 12}


@pytest.mark.parametrize(
    ("name", "code", "error", "log"),
    [
        pytest.param("HookBusy", 1, "HookBusy", "", id="refused"),
        pytest.param("VerifierRejected", 1, "VerifierRejected", "line 1\n\nline 3", id="the verifier spoke"),
        pytest.param("NotAuthorized", 4, "NotAuthorized", "", id="not authorized"),
        pytest.param("NotOwner", 4, "NotOwner", "", id="not the owner"),
        pytest.param("denied", 4, "AccessDenied", "", id="denied by the bus"),
        pytest.param("vanished", 3, "DaemonGone", "", id="the daemon went before it answered"),
        pytest.param("silent", 1, "Timeout", "", id="no answer in time"),
    ],
)
def test_a_refusal_has_a_name_a_sentence_and_a_code(
    bus: str, name: str, code: int, error: str, log: str
) -> None:
    words = ["detach", name, "--timeout", "0.5"]
    told = _run(bus, *words)
    assert told.returncode == code
    assert told.stderr.startswith(f"bpflinkctl: {error}: ")
    assert told.stderr.rstrip().endswith(log)
    assert "Traceback" not in told.stderr
    assert told.stdout == ""
    document = _run(bus, *words, "--json")
    assert document.returncode == code
    assert document.stderr == ""
    told_error = json.loads(document.stdout)["error"]
    assert told_error["name"] == error
    assert told_error["log"] == log
    assert "\n" not in told_error["message"]


def test_a_link_that_is_not_there_is_no_such_link(bus: str) -> None:
    done = _run(bus, "show", "nobody")
    assert done.returncode == 1
    assert done.stderr.startswith("bpflinkctl: NoSuchLink: there is no link 'nobody'")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        pytest.param("unix:path=/nonexistent", ["list"], id="no socket"),
        pytest.param("nonsense", ["list"], id="no address"),
        pytest.param("unix:path=/nonexistent", ["events"], id="no socket to follow"),
    ],
)
def test_without_a_bus_the_code_is_3(address: str, words: list[str]) -> None:
    done = _run(address, *words)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1


def test_events_are_followed_until_ctrl_c(bus: str) -> None:
    with _following(bus, "--json") as following:
        event = _tell(bus, following)
        following.send_signal(signal.SIGINT)
        assert following.wait(10) == 0
        assert following.stderr is not None
        assert following.stderr.read() == ""
    assert event["event"] == "state_changed"
    assert event["name"] == "told"


def test_events_end_with_3_when_the_daemon_goes(bus: str, tmp_path: Path) -> None:
    address = f"unix:path={tmp_path}/socket"
    with _bus(address):
        with _fake(address) as fake, _following(address, "--json") as following:
            _tell(address, following)
            fake.terminate()
            assert following.wait(10) == 3
            assert following.stdout is not None
            assert json.loads(following.stdout.read().splitlines()[-1])["error"]["name"] == "DaemonGone"
        assert _run(address, "list").returncode == 3


def _following(address: str, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [CTL, "--bus", address, "events", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _tell(address: str, following: "subprocess.Popen[str]") -> dict[str, Any]:
    """Have the fake send signals until the follower, which starts in its own time, prints one."""
    assert following.stdout is not None
    os.set_blocking(following.stdout.fileno(), False)
    for _ in range(50):
        assert _run(address, "detach", "told").returncode == 0
        line = following.stdout.readline()
        if line:
            os.set_blocking(following.stdout.fileno(), True)
            found: dict[str, Any] = json.loads(line)
            return found
    raise AssertionError("no event was printed")


def test_what_a_reload_refused_is_told_and_the_rest_is_counted(bus: str) -> None:
    done = _run(bus, "reload")
    assert done.returncode == 1
    assert done.stdout == "2 attached, 7 unchanged\n"
    assert done.stderr.splitlines() == [
        "bpflinkctl: refused: /l/b.toml:3:1: no",
        "bpflinkctl: refused: /l/c.toml:1: no",
        "log",
    ]
    told = json.loads(_run(bus, "reload", "--json").stdout)
    assert told["done"] == {"attached": 2, "unchanged": 7}
    assert told["refused"][1] == {
        "file": "/l/c.toml",
        "link": "x",
        "sentence": "/l/c.toml:1: no",
        "log": "log",
    }


def test_an_export_declares_the_link(bus: str, tmp_path: Path) -> None:
    (link,) = tomllib.loads(_run(bus, "export", "edge").stdout)["link"]
    assert link == {
        "name": "edge",
        "target": "cgroup:/a.slice egress",
        "program": {"kept": "ab" * 32, "name": "count_all"},
        "policy": "alert",
        "lifetime": "pinned",
        "owner": "root",
    }
    done = _run(bus, "export", "edge", "--directory", str(tmp_path / "out"), "--json")
    assert json.loads(done.stdout)["written"] == [f"{tmp_path}/out/edge.bpf.o", f"{tmp_path}/out/edge.toml"]
    assert (tmp_path / "out/edge.bpf.o").read_bytes() == b"ELF of edge"
    (beside,) = tomllib.loads((tmp_path / "out/edge.toml").read_text())["link"]
    assert beside["program"] == {"object": "edge.bpf.o", "name": "count_all"}


def test_a_reader_who_leaves_is_no_failure(bus: str) -> None:
    script = f"'{CTL}' --bus '{bus}' list --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_a_failure_in_one_sentence(bus: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [CTL, "--bus", bus, "list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "bpflinkctl: OSError: No space left on device\n"


def test_ctrl_c_while_waiting_is_130(bus: str) -> None:
    with subprocess.Popen(
        [CTL, "--bus", bus, "detach", "silent"], stderr=subprocess.PIPE, text=True
    ) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1.0)
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(10) == 130
        assert waiting.stderr is not None
        assert "Traceback" not in waiting.stderr.read()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        pytest.param("bpflinkctl sho", ["show"], id="a command"),
        pytest.param("bpflinkctl --bus BUS show e", ["edge"], id="a link's name"),
        pytest.param("bpflinkctl --bus unix:path=/none show e", [], id="no daemon, nothing"),
        pytest.param("bpflinkctl attach a xdp:l", ["xdp:lo"], id="an interface, colon or not"),
        pytest.param(
            "bpflinkctl attach a cgroup:/x --attach-type connect_", ["connect_unix"], id="an attach type"
        ),
    ],
)
def test_a_shell_is_offered(bus: str, line: str, offered: list[str]) -> None:
    environment = {
        **os.environ,
        "_BPFLINKCTL_COMPLETE": "bash_complete",
        "COMP_LINE": line.replace("BUS", bus),
    }
    done = subprocess.run([CTL], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"plain,{word}" for word in offered]
    assert done.stderr == ""


class _Fake:
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
        name = arguments.unpack()[0] if arguments.n_children() else ""
        match method, name:
            case "List", _:
                row = ("edge", "cgroup:/a.slice egress", "displaced", 0, 2, "count", "0123456789abcdef", 1)
                invocation.return_value(GLib.Variant("(a(sssutsst))", ([row],)))
            case "GetManagedObjects", _:
                properties = {key: GLib.Variant(*value) for key, value in LINK.items()}
                objects = {contract.LINKS + "edge": {contract.LINK: properties}}
                invocation.return_value(GLib.Variant("(a{oa{sa{sv}}})", (objects,)))
            case "ListForeign", _:
                target = GLib.Variant("(sss)", ("xdp", "eth9", "auto"))
                entry = {"target": target, **LINK["Running"][1]}  # type: ignore[dict-item]
                invocation.return_value(GLib.Variant("(aa{sv})", ([entry],)))
            case "Features", _:
                found = [("xdp", True, ""), ("kprobe", False, "no CONFIG_KPROBES")]
                invocation.return_value(GLib.Variant("(a(sbs))", (found,)))
            case "Reload", _:
                done = {"attached": 2, "unchanged": 7}
                refused = [
                    ("/l/b.toml", "", "/l/b.toml:3:1: no", ""),
                    ("/l/c.toml", "x", "/l/c.toml:1: no", "log"),
                ]
                invocation.return_value(GLib.Variant("(a{su}a(ssss))", (done, refused)))
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


if __name__ == "__main__":
    _fake_daemon = _Fake(sys.argv[1])
    GLib.MainLoop().run()
