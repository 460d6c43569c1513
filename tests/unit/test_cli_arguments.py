"""What the command line accepts, and what it calls a mistake in usage."""

import time
from typing import Any

import click
import pytest

from bpflinkd.cli import arguments, main
from bpflinkd.cli.arguments import SourceOptions
from bpflinkd.cli.kinds import EVENTS, FOREIGN, Duration, Moment
from bpflinkd.client import (
    Builtin,
    CgroupTarget,
    CSource,
    KprobeTarget,
    Object,
    Pinned,
    Program,
    ProgramFd,
    ProgramId,
    Target,
    XdpTarget,
)
from bpflinkd.core.chronicle import Event
from bpflinkd.core.events import ChangeKind

NOW = 1_700_000_000.0

NOTHING = SourceOptions(None, None, None, None, None, None, None, ())


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
        pytest.param({"object": "a.o"}, Object("a.o"), id="an object"),
        pytest.param({"object": "a.o", "program": "p"}, Object("a.o", "p"), id="a program in an object"),
        pytest.param({"source": "a.c", "program": "f"}, CSource("a.c", "f"), id="a function in C"),
        pytest.param({"pinned": "/sys/fs/bpf/x"}, Pinned("/sys/fs/bpf/x"), id="a pin"),
        pytest.param({"id": 7}, ProgramId(7), id="a kernel id"),
        pytest.param({"fd": 0}, ProgramFd(0), id="a descriptor, the lowest"),
        pytest.param({"builtin": "pass"}, Builtin("pass"), id="a built-in"),
    ],
)
def test_a_source_is_understood(given: dict[str, Any], expected: Program) -> None:
    found = arguments.program(NOTHING._replace(**given))
    assert (type(found), found) == (type(expected), expected)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        pytest.param("pass", Builtin("pass"), id="a built-in"),
        pytest.param("./pass", Object("./pass"), id="a file of the same name"),
        pytest.param("filter.o", Object("filter.o"), id="a file"),
    ],
)
def test_a_fallback_is_a_builtin_or_a_file(word: str, expected: Program) -> None:
    found = arguments.fallback(word)
    assert (type(found), found) == (type(expected), expected)


@pytest.mark.parametrize(
    ("word", "seconds"),
    [
        pytest.param("10s", 10.0, id="seconds"),
        pytest.param("500ms", 0.5, id="milliseconds"),
        pytest.param("2 min", 120.0, id="a blank between"),
        pytest.param("1h", 3600.0, id="hours"),
        pytest.param("1.5", 1.5, id="no unit is seconds"),
        pytest.param("0", 0.0, id="none at all"),
    ],
)
def test_a_time_is_understood(word: str, seconds: float) -> None:
    assert Duration().convert(word, None, None) == seconds


@pytest.mark.parametrize("word", ["", "s", "ten", "-1s", "nan", "inf", "25h", "10 parsecs", "10ss"])
def test_a_time_is_refused_as_usage(word: str) -> None:
    with pytest.raises(click.UsageError, match="is not a time such as"):
        Duration().convert(word, None, None)


def test_a_cookie_is_for_kprobes() -> None:
    assert arguments.target("kretprobe-multi:f*", cookie=9) == KprobeTarget("f*", 0, True, True, 9)
    with pytest.raises(click.UsageError, match="a cookie is for kprobe"):
        arguments.target("xdp:eth0", cookie=9)


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
    with pytest.raises(click.UsageError, match=says):
        arguments.program(NOTHING._replace(**given))


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
        pytest.param(
            ["attach", "a", "xdp:e", "--id", "1", "--grace", "1s"], "--lifetime owner", id="grace for what"
        ),
        pytest.param(
            ["attach", "a", "xdp:e", "--id", "1", "--ephemeral", "--lifetime", "owner"],
            "contradict",
            id="two lifetimes",
        ),
        pytest.param(
            ["attach", "a", "xdp:e", "--id", "1", "--owner", "unit:"],
            "not an owner",
            id="a unit without a name",
        ),
        pytest.param(["transfer", "a", "usr:x"], "not an owner", id="a typo in an owner"),
        pytest.param(["transfer", "a", "no.service"], "unit:no.service", id="a unit not called one"),
        pytest.param(["adopt", "a"], "exactly one of --link-id", id="nothing to adopt"),
        pytest.param(["adopt", "a", "--link-id", "1", "--xdp", "e"], "exactly one of", id="two to adopt"),
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
    "command",
    [
        "attach",
        "replace",
        "detach",
        "list",
        "show",
        "foreign",
        "status",
        "events",
        "blame",
        "top",
        "config",
        "claim",
        "transfer",
        "adopt",
    ],
)
def test_every_command_explains_itself_with_an_example(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main.main([command, "-h"]) == 0
    told = capsys.readouterr().out
    assert f"  bpflinkctl {command}" in told
    assert "Global options:" in told


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        pytest.param("90s", NOW - 90, id="seconds"),
        pytest.param("10m", NOW - 600, id="minutes"),
        pytest.param("10min", NOW - 600, id="minutes, as elsewhere"),
        pytest.param("1.5h", NOW - 5400, id="hours and a half"),
        pytest.param("1d", NOW - 86_400, id="a day"),
        pytest.param("2w", NOW - 14 * 86_400, id="weeks"),
        pytest.param("9999w", 0, id="before 1970"),
        pytest.param("boot", NOW - 1000, id="the boot"),
        pytest.param("2023-11-14", 1_699_920_000, id="a date"),
        pytest.param("2023-11-14 10:00", 1_699_956_000, id="a time"),
        pytest.param("2023-11-14T10:00:30", 1_699_956_030, id="as ISO 8601 writes it"),
        pytest.param("2023-11-14T10:00+02:00", 1_699_948_800, id="with a time zone"),
    ],
)
def test_a_moment_is_understood(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr(time, "time", lambda: NOW)
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: 1000.0}.__getitem__)
    try:
        assert Moment().convert(text, None, None) == seconds * 1_000_000
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "text", ["", "1", "1x", "m", "-1h", "nanh", "infd", "tomorrow", "2023-13-01", "9" * 400 + "d"]
)
def test_what_is_no_moment_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a time such as 10m"):
        Moment().convert(text, None, None)


def test_kinds_of_events_are_those_of_the_core() -> None:
    assert list(EVENTS) == [str(event) for event in Event]
    assert list(FOREIGN) == [str(kind) for kind in ChangeKind]
