"""What the command line accepts, and what it calls a mistake in usage."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from bpflinkd.cli import arguments, main
from bpflinkd.cli.arguments import SourceOptions
from bpflinkd.dbus.values import CgroupTarget, KprobeTarget, OpenObject, OpenSource, Source, Target, XdpTarget

NOTHING = SourceOptions(None, None, None, None, None, None)


@pytest.mark.parametrize(
    ("text", "mode", "attach_type", "expected"),
    [
        pytest.param("xdp:eth0", None, None, XdpTarget("eth0"), id="an interface"),
        pytest.param(
            "xdp:eth0", "generic", None, XdpTarget("eth0", "generic"), id="an interface with a mode"
        ),
        pytest.param("cgroup:/a.slice", None, None, CgroupTarget("/a.slice"), id="a cgroup"),
        pytest.param("cgroup://a.slice/", None, None, CgroupTarget("/a.slice"), id="slashes too many"),
        pytest.param(
            "cgroup:/a.slice", None, "egress", CgroupTarget("/a.slice", "egress"), id="a cgroup and an option"
        ),
        pytest.param(
            "cgroup:/a.slice egress", None, None, CgroupTarget("/a.slice", "egress"), id="as list prints it"
        ),
        pytest.param(
            "cgroup:/a cgroup_inet_egress", None, None, CgroupTarget("/a", "egress"), id="libbpf's long name"
        ),
        pytest.param("cgroup:/my app/web", None, None, CgroupTarget("/my app/web"), id="a path with a space"),
        pytest.param(
            "cgroup:/my app", None, "egress", CgroupTarget("/my app", "egress"), id="a space, and the option"
        ),
        pytest.param("kprobe:f", None, None, KprobeTarget("f"), id="a function"),
        pytest.param("kprobe:f+0x10", None, None, KprobeTarget("f", 16), id="an offset in hex"),
        pytest.param("kprobe:f+16", None, None, KprobeTarget("f", 16), id="an offset"),
        pytest.param("kretprobe:f", None, None, KprobeTarget("f", at_return=True), id="a return"),
        pytest.param("kprobe-multi:f*", None, None, KprobeTarget("f*", multi=True), id="functions"),
        pytest.param(
            "cgroup:/my app egress", None, None, CgroupTarget("/my app", "egress"), id="a space, as printed"
        ),
    ],
)
def test_a_target_is_understood(
    text: str, mode: str | None, attach_type: str | None, expected: Target
) -> None:
    assert arguments.target(text, mode, attach_type) == expected


@pytest.mark.parametrize(
    ("text", "mode", "attach_type", "says"),
    [
        pytest.param("eth0", None, None, "is not a target", id="no kind"),
        pytest.param("tc:eth0", None, None, "is not a target", id="a kind that we do not have"),
        pytest.param("xdp:", None, None, "is not a target", id="no interface"),
        pytest.param("cgroup:a.slice", None, None, "begin with a slash", id="a relative cgroup"),
        pytest.param("cgroup:/a egres", None, None, "not an attach type", id="a typo in the attach type"),
        pytest.param("cgroup:/a", None, "xyz", "not an attach type", id="an unknown attach type"),
        pytest.param("cgroup:/a", "native", None, "a mode is for xdp", id="a mode for a cgroup"),
        pytest.param("xdp:eth0", None, "egress", "an attach type is for cgroup", id="an attach type for xdp"),
        pytest.param("kprobes:f", None, None, "did you mean kprobe:f", id="a typo in the kind"),
        pytest.param("kretprobe:f+4", None, None, "takes no offset", id="an offset at return"),
        pytest.param("kprobe:f+four", None, None, "not a number of bytes", id="an offset in words"),
        pytest.param("kprobe:f", "native", None, "a mode is for xdp", id="a mode for a kprobe"),
        pytest.param("kprobe:f", None, "egress", "an attach type is for", id="an attach type for a kprobe"),
        pytest.param("cgroup:/a egress", None, "ingress", "says egress already", id="two attach types"),
        pytest.param("xdp:a/b", None, None, "cannot be an interface name", id="no name of an interface"),
        pytest.param("xdp:veth*", None, None, r"template, in a file of /etc.*links\.md", id="interfaces"),
        pytest.param("cgroup:/a/*.service", None, "egress", "template, in a file", id="a pattern of cgroups"),
        pytest.param("kprobes:f", None, None, r"kprobe:f\?$", id="a question ends in no full stop"),
    ],
)
def test_a_target_is_refused_as_usage(
    text: str, mode: str | None, attach_type: str | None, says: str
) -> None:
    with pytest.raises(click.UsageError, match=says):
        arguments.target(text, mode, attach_type)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({"pinned": "/sys/fs/bpf/x"}, Source("pin", "/sys/fs/bpf/x"), id="a pin"),
        pytest.param({"id": 7}, Source("id", 7), id="a kernel id"),
        pytest.param({"builtin": "pass"}, Source("builtin", "pass"), id="a built-in"),
    ],
)
def test_a_source_is_understood(given: dict[str, Any], expected: Source) -> None:
    with arguments.opened_source(NOTHING._replace(**given)) as source:
        assert source == expected


def test_a_cookie_is_for_kprobes() -> None:
    assert arguments.target("kretprobe-multi:f*", cookie=9) == KprobeTarget("f*", 0, True, True, 9)
    with pytest.raises(click.UsageError, match="a cookie is for kprobe"):
        arguments.target("xdp:eth0", cookie=9)


def test_c_source_is_sent_as_such(tmp_path: Path) -> None:
    path = tmp_path / "a.c"
    path.write_text("int f;")
    with arguments.opened_source(NOTHING._replace(source=str(path), program="f")) as source:
        assert isinstance(source, OpenSource)
        assert source.program == "f"


def test_an_object_is_open_while_it_is_sent_and_closed_after(tmp_path: Path) -> None:
    path = tmp_path / "a.o"
    path.write_bytes(b"ELF")
    with arguments.opened_source(NOTHING._replace(object=str(path), program="p")) as source:
        assert isinstance(source, OpenObject)
        assert source.program == "p"
        assert os.read(source.fd, 9) == b"ELF"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(source.fd)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        pytest.param({}, "got none", id="no source"),
        pytest.param({"id": 1, "builtin": "pass"}, "got --id and --builtin", id="two sources"),
        pytest.param({"program": "p"}, "got none", id="a program without anything"),
        pytest.param({"program": "p", "id": 1}, "does not go with --id", id="a program of an id"),
    ],
)
def test_a_source_is_refused_as_usage(given: dict[str, Any], says: str) -> None:
    with pytest.raises(click.UsageError, match=says), arguments.opened_source(NOTHING._replace(**given)):
        pass


def _missing(path: Path) -> None: ...


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(_missing, "No such file", id="a missing file"),
        pytest.param(Path.mkdir, "is a directory", id="a directory"),
        pytest.param(os.mkfifo, "not a regular file", id="a fifo, without waiting for its writer"),
        pytest.param(lambda path: path.symlink_to(path), "symbolic links", id="a link to itself"),
    ],
)
def test_an_object_that_cannot_be_sent_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], object], says: str
) -> None:
    path = tmp_path / "x.o"
    make(path)
    assert main.main(["attach", "a", "xdp:eth0", "--object", str(path)]) == 1
    told = capsys.readouterr()
    assert says in told.err
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(["lst"], "Did you mean 'list'?", id="a typo in a command"),
        pytest.param(["xyzzy"], "Commands: attach", id="no command at all like it"),
        pytest.param(["list", "--jso"], "--json", id="a typo in an option"),
        pytest.param(["attach", "a"], "Missing argument 'TARGET'", id="a missing argument"),
        pytest.param(["attach", "a", "xdp:e", "--id", "0"], "--id", id="an id out of range"),
        pytest.param(["replace", "a", "--id", "1", "--expect", "0"], "--expect", id="a generation of none"),
        pytest.param(
            ["list", "--timeout", "nan"], "not a number of seconds", id="a timeout that is no number"
        ),
        pytest.param(["list", "--timeout", "0"], "not a number of seconds", id="no time at all"),
        pytest.param(["show", "\udcff"], "not valid UTF-8", id="a name that is not UTF-8"),
        pytest.param(["attach", "a", "xdp:\udcff", "--id", "1"], "not valid UTF-8", id="a target likewise"),
    ],
)
def test_usage_is_exit_code_2_and_says_what(
    capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert main.main(words) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["attach", "replace", "detach", "list", "show", "foreign", "status", "events", "config"]
)
def test_every_command_explains_itself_with_an_example(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main.main([command, "-h"]) == 0
    told = capsys.readouterr().out
    assert f"  bpflinkctl {command}" in told
    assert "Global options:" in told
