"""What `bpflinkctl top` makes of two readings."""

import re
from typing import Any

import pytest

from bpflinkd.cli import top
from bpflinkd.cli.render import Output
from bpflinkd.client.values import LinkStatistics, Statistics


def link(name: str, runs: int | None = 0, time: int | None = 0, **more: Any) -> LinkStatistics:
    found: Any = {
        "name": name,
        "target": ("xdp", "eth0", "auto"),
        "state": "active",
        "generation": 2,
        "program": (7, "count", "0123456789abcdef", "xdp"),
        "counted": 7,
        "runs": runs,
        "time": time,
        **more,
    }
    return {key: value for key, value in found.items() if value is not None}  # type: ignore[return-value]


def reading(at: int, *links: LinkStatistics, reason: str = "") -> Statistics:
    return Statistics(at, not reason, reason, list(links))


BEFORE = reading(1_000_000, link("idle", 9), link("busy"), link("kprobe", missed=1, suppressed=1))
AFTER = reading(
    3_000_000,
    link("idle", 9),
    link("busy", 4_000_000, 200_000_000),
    link("kprobe", 2, 1_000, missed=2, suppressed=4),
)


def test_the_busiest_comes_first_with_its_rates() -> None:
    found = top.document(BEFORE, AFTER)
    assert found["seconds"] == 2
    assert [each["name"] for each in found["links"]] == ["busy", "kprobe", "idle"]
    assert top.row(found["links"][0])[5:] == ["2,000,000", "50", "10.00", "-", "4,000,000"]
    assert top.row(found["links"][1])[5:] == ["1", "500", "0.00", "2", "2"]
    assert top.row(found["links"][2])[5:] == ["0", "-", "0.00", "-", "9"]
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d  3 links, 2,000,001 runs/s, 10\.00% of a processor", top.headline(found)
    )
    assert [each["name"] for each in top.document(BEFORE, AFTER, ("idle",))["links"]] == ["idle"]


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        pytest.param(reading(1), reading(9, link("new", 5, 50)), ["-", "-", "-", "-", "5"], id="it came"),
        pytest.param(
            reading(1, link("x", 900, 900)),
            reading(9, link("x", 5, 50, counted=8)),
            ["-", "-", "-", "-", "5"],
            id="it was replaced",
        ),
        pytest.param(
            reading(1, link("x", 5, 50)),
            reading(9, link("x", 5, 50), reason="nobody asked"),
            ["-", "-", "-", "-", "5"],
            id="nothing is counted, which is not that nothing ran",
        ),
        pytest.param(
            reading(1, link("x")),
            reading(9, link("x", counted=None, runs=None, time=None)),
            ["-", "-", "-", "-", "-"],
            id="nothing is known",
        ),
    ],
)
def test_what_is_not_known_is_a_dash(before: Statistics, after: Statistics, shown: list[str]) -> None:
    found = top.document(before, after)
    assert top.row(found["links"][0])[5:] == shown
    assert found["links"][0]["runs_per_second"] is None


def test_the_headline_says_why_nothing_is_counted() -> None:
    told = top.headline(top.document(BEFORE, reading(2_000_000, link("a"), reason="nobody asked")))
    assert told.endswith("  1 link; nobody asked")


def test_a_terminal_shows_as_many_links_as_it_has_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "10")
    many = reading(5, *(link(f"l{number:02}") for number in range(30)))
    top._live(Output(no_color=True), lambda show: show(top.document(many, many)))
    lines = capsys.readouterr().out.splitlines()
    assert sum("xdp:eth0" in line for line in lines) == 6
    assert "and 24 more that are less busy" in lines[-1]
    assert all(len(line) <= 100 for line in lines)
