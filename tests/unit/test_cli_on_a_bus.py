"""What `bpflinkctl`, a whole process, makes of a daemon's answers: output and exit codes.

The daemon here is a fake: see fake_service.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gi.repository import GLib

from bpflinkd.cli import main
from bpflinkd.client import messages
from bpflinkd.dbus import contract
from tests.unit.fake_service import ROOT, fake_daemon, private_bus

CTL = Path(sys.executable).with_name("bpflinkctl")


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bus with the fake on it."""
    if shutil.which("dbus-daemon") is None:
        pytest.skip("dbus-daemon is not installed")
    address = f"unix:path={tmp_path_factory.mktemp('bus')}/socket"
    with private_bus(address), fake_daemon(address) as fake:
        yield address
        fake.terminate()


def _run(bus: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [CTL, "--bus", bus, *words], capture_output=True, text=True, check=False, timeout=30
    )


def test_the_names_are_those_of_the_contract() -> None:
    interfaces = (ROOT / "bpflinkd/dbus/interface.xml").read_text()
    for name in (contract.MANAGER, contract.LINK, contract.OBJECT_MANAGER):
        assert f'<interface name="{name}">' in interfaces


def test_the_largest_numbers_survive_decoding() -> None:
    body = GLib.Variant("(ta{sv}at)", (2**64 - 1, {"-": GLib.Variant("t", 2**63)}, [1, 2**63 + 1]))
    assert messages.decode(body) == [2**64 - 1, {"-": 2**63}, [1, 2**63 + 1]]


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
        "by": {
            "uid": 0,
            "user": "root",
            "pid": 4321,
            "unit": "loader.service",
            "exe": "/usr/bin/loader",
        },
        "message": "the hook was empty for 3 ms",
        "policy": "alert",
        "lifetime": "owner",
        "trial": None,
        "hold": {"holder": ":1.999", "grace": 2_500_000, "fallback": {"builtin": "pass"}, "until": None},
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
            ["show", "edge"],
            [
                "another program runs there",
                "loader (pid 123)",
                "bpf_link 4",
                "root (uid 0), loader.service, pid 4321, /usr/bin/loader",
                "connection :1.999; it may be claimed for 2.5 s after that, then builtin pass",
                "the hook was empty for 3 ms",
            ],
            id="show",
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


def _sent(bus: str, *words: str) -> dict[str, Any]:
    """What a command sent about the link `echo`, as the fake saw it."""
    done = _run(bus, *words, "--json")
    assert done.returncode == 1, done.stderr
    found: dict[str, Any] = json.loads(json.loads(done.stdout)["error"]["message"])
    return found


def test_every_option_of_attach_is_sent(bus: str, tmp_path: Path) -> None:
    path = tmp_path / "f.o"
    path.write_bytes(b"what stays")
    words = "attach echo xdp:e --mode generic --builtin pass --policy yield --wait --lifetime owner"
    more = ["--grace", "2s", "--fallback", str(path), "--owner", "unit:a.service", "--force"]
    sent = _sent(bus, *words.split(), *more)
    assert sent["given"] == [
        "echo",
        {"xdp": "e", "mode": "generic"},
        {"builtin": "pass"},
        {
            "policy": "yield",
            "wait": True,
            "lifetime": "owner",
            "grace": 2_000_000,
            "fallback": {"object": 0},
            "owner": {"unit": "a.service"},
            "force": True,
        },
    ]
    assert sent["files"][0]["data"] == "what stays"


@pytest.mark.parametrize(
    ("words", "given"),
    [
        pytest.param("replace echo --id 5 --force", ["echo", {"id": 5}, {"force": True}], id="replace"),
        pytest.param("detach echo --force", ["echo", {"force": True}], id="detach"),
        pytest.param(
            "transfer echo user:root --force", ["echo", {"uid": 0, "force": True}], id="transfer to a user"
        ),
        pytest.param("transfer echo unit:a.service", ["echo", {"unit": "a.service"}], id="to a unit"),
        pytest.param("claim echo", ["echo"], id="claim"),
        pytest.param("adopt echo --link-id 4", [4, "echo", {}], id="adopt a bpf_link"),
        pytest.param(
            "adopt echo --pin /p --policy restore",
            [0, "echo", {"pin": "/p", "policy": "restore"}],
            id="a pin",
        ),
        pytest.param(
            "adopt echo --xdp e --owner 7 --force",
            [0, "echo", {"xdp": "e", "owner": {"uid": 7}, "force": True}],
            id="from netlink",
        ),
        pytest.param(
            "attach echo xdp:e --id 1 --ephemeral",
            ["echo", {"xdp": "e"}, {"id": 1}, {"lifetime": "ephemeral"}],
            id="ephemeral",
        ),
    ],
)
def test_a_command_sends(bus: str, words: str, given: list[Any]) -> None:
    sent = _sent(bus, *words.split())
    assert sent["given"] == given
    assert sent["asks"] is False


def test_ask_lets_polkit_ask(bus: str) -> None:
    assert _sent(bus, "detach", "echo", "--ask")["asks"] is True


def test_a_descriptor_is_inherited_and_sent(bus: str, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("opened by the shell")
    script = f"'{CTL}' --bus '{bus}' --json replace echo --fd 7 7<'{path}'"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    sent = json.loads(json.loads(done.stdout)["error"]["message"])
    assert sent["given"][1] == {"fd": 0}
    assert sent["files"][0]["data"] == "opened by the shell"


def test_a_file_that_cannot_be_sent_is_bad_input(bus: str) -> None:
    done = _run(bus, "attach", "edge", "xdp:e", "--object", "/no/such.o")
    assert done.returncode == 1
    assert done.stderr == (
        "bpflinkctl: BadInput: the object file /no/such.o cannot be opened: No such file or directory\n"
    )


def test_a_transfer_tells_the_owner_there_is_then(bus: str) -> None:
    assert _run(bus, "transfer", "edge", "unit:a.service").stdout == "edge is owned by root\n"
    told = json.loads(_run(bus, "transfer", "edge", "0", "--json").stdout)
    assert told == {"name": "edge", "owner": {"uid": 0, "user": "root"}}


def test_an_adoption_tells_what_and_at_what_price(bus: str) -> None:
    assert _run(bus, "adopt", "edge", "--link-id", "4").stdout.splitlines() == [
        "edge is displaced: adopted count, id 7, tag 0123456789abcdef, type cgroup_skb "
        "on cgroup:/a.slice egress",
        "the hook was empty for 3 ms",
    ]
    told = json.loads(_run(bus, "adopt", "edge", "--link-id", "4", "--json").stdout)
    assert told["message"] == "the hook was empty for 3 ms"
    assert told["object_path"] == "/org/bpflinkd1/link/edge"


def test_holding_ends_when_another_holds_the_link(bus: str) -> None:
    done = _run(bus, "claim", "edge")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "holding edge; it ends 2.5 s after this does",
        "link 'edge' is held by :1.999 now",
    ]
    told = _run(bus, "attach", "edge", "xdp:e", "--id", "1", "--lifetime", "owner", "--json").stdout
    assert json.loads(told.splitlines()[-1]) == {"name": "edge", "holder": ":1.999"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        pytest.param(["detach", "NotAuthorized"], True, id="not authorized"),
        pytest.param(["detach", "NotOwner", "--force"], True, id="another's, by force"),
        pytest.param(["detach", "NotOwner"], False, id="another's: asking would not help"),
        pytest.param(["detach", "NotAuthorized", "--ask"], False, id="polkit was asked already"),
    ],
)
def test_a_refusal_that_polkit_could_lift_says_so(
    bus: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    told: bool,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert main.main(["--bus", bus, *words]) == 4
    assert ("--ask lets polkit" in capsys.readouterr().err) is told


def test_root_is_not_told_of_polkit(bus: str, capsys: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    assert main.main(["--bus", bus, "detach", "NotAuthorized"]) == 4
    assert "--ask" not in capsys.readouterr().err


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
    with private_bus(address):
        with fake_daemon(address) as fake, _following(address, "--json") as following:
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
