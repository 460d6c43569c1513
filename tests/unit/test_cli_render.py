"""How results look: tables, cut values, ages, and what a stranger cannot do to a terminal."""

import os
import pty
import re
from contextlib import nullcontext, suppress
from typing import Any

import pytest

from bpflinkd.cli import blame, documents, follow, render, words
from bpflinkd.cli.read import _LIST_COLUMNS, _list_row
from bpflinkd.cli.render import Column, Output
from bpflinkd.client import Event, Recorded, Row

LONG = Row(
    name="a-name-that-is-much-longer-than-anybody-needs",
    target="cgroup:/kubepods.slice/kubepods-burstable.slice/pod42.slice egress",
    state="displaced",
    owner="user:4000000000",
    generation=12345,
    program="count_everything",
    tag="0123456789abcdef",
    state_since=1,
)


class Screen:
    """A terminal: the far end of a pty stands in for standard output."""

    def __init__(self, columns: int) -> None:
        self._reader, writer = pty.openpty()
        self._stream = os.fdopen(writer, "w", encoding="utf-8")
        os.set_blocking(self._reader, False)
        self._patch = pytest.MonkeyPatch()
        self._columns = str(columns)

    def __enter__(self) -> "Screen":
        # In the test, not in a fixture: pytest puts its own stream in place between the two.
        self._patch.setattr("sys.stdout", self._stream)
        self._patch.setenv("COLUMNS", self._columns)
        self._patch.setenv("TERM", "xterm-256color")
        self.text = ""
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.flush()
        raw = b""
        with suppress(BlockingIOError):
            while True:
                raw += os.read(self._reader, 1 << 16)
        self.text = raw.decode()
        self._patch.undo()
        self._stream.close()
        os.close(self._reader)


@pytest.fixture(autouse=True)
def _colour_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)


def _plain(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).split("\r\n")[:-1]


def test_a_table_on_a_terminal_fits_it_and_takes_a_line_a_row() -> None:
    with Screen(80) as screen:
        Output().table(_LIST_COLUMNS, [_list_row(LONG), _list_row(LONG._replace(name="b"))])
    lines = _plain(screen.text)
    assert len(lines) == 3
    assert all(len(line) <= 80 for line in lines)
    assert "displaced" in lines[1]
    assert re.search(r"cgroup\S*…\S*egress", lines[1]), "the attach type is what tells hooks apart"


def test_a_table_through_a_pipe_is_cut_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(_LIST_COLUMNS, [_list_row(LONG)])
    header, row = capsys.readouterr().out.splitlines()
    assert LONG.name in row
    assert LONG.target in row
    assert "\x1b" not in header + row
    assert header.index("TARGET") == row.index("cgroup:")


@pytest.mark.parametrize(
    ("variable", "no_color"),
    [pytest.param(None, True, id="by the option"), pytest.param("1", False, id="by NO_COLOR")],
)
def test_colour_can_be_refused(monkeypatch: pytest.MonkeyPatch, variable: str | None, no_color: bool) -> None:
    if variable:
        monkeypatch.setenv("NO_COLOR", variable)
    with Screen(80) as screen:
        Output(no_color=no_color).table(_LIST_COLUMNS, [_list_row(LONG)])
    assert "\x1b[31m" not in screen.text


def test_a_bad_state_is_red_on_a_terminal() -> None:
    with Screen(80) as screen:
        Output().table(_LIST_COLUMNS, [_list_row(LONG)])
    assert "\x1b[31mdisplaced" in screen.text


@pytest.mark.parametrize(
    "terminal", [pytest.param(True, id="on a terminal"), pytest.param(False, id="through a pipe")]
)
def test_a_name_that_a_stranger_chose_cannot_steer_the_terminal(
    terminal: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Screen(80) if terminal else None
    with screen or nullcontext():
        output = Output(no_color=True)
        output.table([Column("PROCESSES", cut="end")], [["\x1b]0;owned\x07 [red]x"]])
        output.fields([("Running", "\x1b[2J\r[bold]")])
    text = screen.text if screen else capsys.readouterr().out
    assert "\\x1b]0;owned\\x07 [red]x" in text
    assert "\\x1b[2J\\r[bold]" in text
    assert "\x1b]0;" not in text
    assert "\x1b[2J" not in text


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        pytest.param(0, "0s", id="just now"),
        pytest.param(59.9, "59s", id="seconds"),
        pytest.param(12 * 60 + 59, "12m", id="minutes"),
        pytest.param(3 * 3600, "3h", id="hours"),
        pytest.param(400 * 86400, "400d", id="days without end"),
        pytest.param(-50, "0s", id="a clock that went back"),
    ],
)
def test_an_age_is_told_in_its_largest_unit(seconds: float, told: str) -> None:
    now = 2_000_000_000.0
    assert words.age(int((now - seconds) * 1_000_000), now) == told


@pytest.mark.parametrize(
    ("text", "width", "where", "expected"),
    [
        pytest.param("short", 5, "end", "short", id="what fits stays"),
        pytest.param("abcdefgh", 5, "end", "abcd…", id="cut at the end"),
        pytest.param("abcdefgh", 5, "middle", "ab…gh", id="cut in the middle"),
        pytest.param("漢字漢字", 5, "end", "漢字…", id="wide characters take two cells"),
    ],
)
def test_a_long_value_is_cut_with_an_ellipsis(text: str, width: int, where: str, expected: str) -> None:
    assert render.shorten(text, width, where) == expected


def test_the_widest_column_that_may_be_cut_gives_way_first() -> None:
    assert render.fit([30, 10, 9], [True, True, False], 40) == [21, 10, 9]
    assert render.fit([30, 30, 9], [True, True, False], 10) == [6, 6, 9], "no column vanishes"


BY = {"program": [9, "drop", "feed", "xdp"], "mode": "generic", "processes": [[1, "evil"]]}


@pytest.mark.parametrize(
    ("event", "document", "sentence"),
    [
        pytest.param(
            Event("LinkAdded", "a", ["/p"]), {"event": "link_added", "object_path": "/p"}, "added", id="added"
        ),
        pytest.param(
            Event("LinkRemoved", "a", ["by uid 0"]),
            {"event": "link_removed", "reason": "by uid 0"},
            "removed: by uid 0",
            id="removed",
        ),
        pytest.param(
            Event("ProgramReplaced", "a", [2, [1, "x", "aa", "xdp"], [2, "y", "bb", "xdp"]]),
            {"generation": 2, "old": {"id": 1, "name": "x", "tag": "aa", "type": "xdp"}},
            "replaced: generation 2, x aa -> y bb",
            id="replaced",
        ),
        pytest.param(
            Event("StateChanged", "a", ["severed", "active", "why"]),
            {"state": "severed", "old_state": "active", "reason": "why"},
            "active -> severed: why",
            id="another state",
        ),
        pytest.param(
            Event("StateChanged", "a", ["waiting", "waiting", "why"]),
            {"state": "waiting"},
            "waiting: why",
            id="another reason for the same state",
        ),
        pytest.param(
            Event(
                "ForeignChange",
                "a",
                [
                    "program-attached",
                    {"sentence": "S", "target": ["xdp", "e", "auto"], "source": "sweep", "by": BY},
                ],
            ),
            {
                "kind": "program-attached",
                "target": {"xdp": "e", "mode": "auto"},
                "by": {
                    "program": {"id": 9, "name": "drop", "tag": "feed", "type": "xdp"},
                    "link_id": None,
                    "mode": "generic",
                    "processes": [{"pid": 1, "comm": "evil"}],
                },
            },
            "program-attached: S (noticed by sweep)",
            id="a foreign change",
        ),
        pytest.param(
            Event(
                "ForeignChange",
                "a",
                [
                    "link-updated",
                    {
                        "sentence": "S",
                        "target": ["xdp", "e", "auto"],
                        "source": "sentinel",
                        "by": {},
                        "before": [1, "x", "aa", "xdp"],
                        "who": {"uid": 0, "pid": 47, "comm": "tool", "executable": "/t", "unit": "u.service"},
                        "delay": 412,
                    },
                ],
            ),
            {
                "before": {"id": 1, "name": "x", "tag": "aa", "type": "xdp"},
                "after": None,
                "who": {
                    "uid": 0,
                    "user": "root",
                    "pid": 47,
                    "thread": None,
                    "comm": "tool",
                    "executable": "/t",
                    "unit": "u.service",
                    "container": None,
                    "cgroup": None,
                },
                "delay": 412,
            },
            "link-updated: S, by tool (pid 47, uid 0, /t, u.service) (noticed by sentinel after 0.4 ms)",
            id="a foreign change, and who made it",
        ),
        pytest.param(
            Event("NewerThanUs", "a", [1]),
            {"event": "newer_than_us", "arguments": [1]},
            "newer_than_us: [1]",
            id="a signal that we do not know",
        ),
    ],
)
def test_an_event_is_told(event: Event, document: dict[str, Any], sentence: str) -> None:
    told = documents.event(event, 5)
    assert told["time"] == 5
    assert told["name"] == "a"
    assert told.items() >= document.items()
    assert follow.describe(told)[0] == sentence


ENTRY: Recorded = {"number": 7, "time": 5, "name": "a", "target": ("xdp", "e", "auto"), "generation": 2}
WHO = {"uid": 0, "pid": 9, "container": "ab" * 32, "unit": "x.service", "comm": "loader"}


@pytest.mark.parametrize(
    ("entry", "document", "sentence"),
    [
        pytest.param(
            {"event": "link_added", "after": [1, "x", "aa", "xdp"], "who": {"uid": 0, "pid": 9}},
            {"after": {"id": 1, "name": "x", "tag": "aa", "type": "xdp"}, "before": None},
            "added, by pid 9, uid 0",
            id="added",
        ),
        pytest.param(
            {"event": "link_removed", "sentence": "by uid 0"},
            {"reason": "by uid 0", "who": None},
            "removed: by uid 0",
            id="removed",
        ),
        pytest.param(
            {
                "event": "program_replaced",
                "before": [1, "x", "aa", "xdp"],
                "after": [2, "y", "bb", "xdp"],
                "sentence": "m",
            },
            {"new": {"id": 2, "name": "y", "tag": "bb", "type": "xdp"}, "message": "m"},
            "replaced: generation 2, x aa -> y bb: m",
            id="replaced",
        ),
        pytest.param(
            {"event": "state_changed", "state": "severed", "old_state": "active", "sentence": "why"},
            {"state": "severed", "old_state": "active", "reason": "why"},
            "active -> severed: why",
            id="another state",
        ),
        pytest.param(
            {"event": "foreign_change", "kind": "pin-removed", "sentence": "S", "source": "i", "who": WHO},
            {"kind": "pin-removed", "target": {"xdp": "e", "mode": "auto"}, "delay": None},
            "pin-removed: S, by loader (pid 9, uid 0, container abababababab) (noticed by i)",
            id="a foreign change",
        ),
        pytest.param(
            {"event": "link_amended", "sentence": "belongs to user:1"},
            {"sentence": "belongs to user:1"},
            "link amended: belongs to user:1",
            id="another owner",
        ),
        pytest.param(
            {"event": "owner_overridden", "sentence": "S", "who": {"uid": 0}},
            {"sentence": "S"},
            "owner overridden: S, by uid 0",
            id="overridden",
        ),
        pytest.param({"event": "healed", "sentence": "S"}, {"sentence": "S"}, "healed: S", id="healed"),
        pytest.param({"event": "newer"}, {"event": "newer"}, "newer: ", id="an event that we do not know"),
    ],
)
def test_an_entry_of_the_log_is_told_as_the_event_was(
    entry: Recorded, document: dict[str, Any], sentence: str
) -> None:
    told = documents.recorded({**ENTRY, **entry})
    assert told.items() >= document.items()
    assert (told["number"], told["time"], told["name"]) == (7, 5, "a")
    assert follow.describe(told)[0] == sentence


def test_who_did_it_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    who = {"uid": 0, "comm": "\x1b]0;owned\x07", "executable": "/\x1b[2J\n"}
    entry: Recorded = {
        **ENTRY,
        "event": "foreign_change",
        "kind": "k",
        "sentence": "S",
        "source": "s",
        "who": who,
    }
    Output().table(blame._COLUMNS, [blame._row(documents.recorded(entry))])
    Output().line(follow.describe(documents.recorded(entry)))
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert told.count("\n") == 3
