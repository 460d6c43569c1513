"""Who has the kernel count runs, and until when. The kernel is a FAKE that writes down what it is told."""

from dataclasses import replace
from typing import Any

import pytest

from bpflinkd.core.access import Access, Unsanctioned
from bpflinkd.core.callers import Action, Caller, User
from bpflinkd.core.errors import BadOption
from bpflinkd.core.executor import Held
from bpflinkd.core.ids import Micros, UnixMicros
from bpflinkd.core.links import Entry, Links
from bpflinkd.core.model import Health, Misses, State
from bpflinkd.core.runs import RunCounts
from bpflinkd.core.statistics import Statistics
from bpflinkd.dbus import parse
from bpflinkd.dbus.statistics import told
from tests.unit.fakes import FakeLink, FakeProgram, record

ROOT, NOBODY = Caller(uid=0), Caller(uid=1000)
COUNTS = RunCounts(program=1, runs=20, nanoseconds=500)


class Kernel:
    """Counts nothing; says whether it was told to."""

    def __init__(self) -> None:
        self.counts = False
        self.answers: RunCounts | None = COUNTS

    def have_runs_counted(self, *, wanted: bool) -> None:
        self.counts = wanted

    def runs_not_counted(self) -> str:
        return "" if self.counts else "nobody asked"

    def run_counts(self, _link: Any, _program: Any) -> RunCounts | None:
        return self.answers


def statistics(kernel: Kernel, link: Any = None, *, owner: int = 0) -> Statistics:
    links = Links()
    held = Held(link=link or FakeLink(), program=FakeProgram())
    health = Health(state=State.ACTIVE, reason="", since=UnixMicros(5))
    mine = replace(record(3), owner=User(uid=owner))
    links.add(Entry(record=mine, health=health, held=held))
    return Statistics(links, Access(), kernel, lambda: Micros(77))  # type: ignore[arg-type]


def test_the_kernel_counts_until_the_last_who_asked_is_gone() -> None:
    kernel = Kernel()
    made = statistics(kernel)
    assert made.read().reason == "nobody asked"
    assert made.ask(ROOT, ":1.1").counting
    made.ask(ROOT, ":1.1")
    made.begin("count-runs")
    made.end(":1.9")
    made.end(":1.1")
    assert kernel.counts
    made.end("count-runs")
    assert not kernel.counts


@pytest.mark.parametrize(
    ("caller", "owner", "allowed"),
    [
        pytest.param(ROOT, 5, True, id="root"),
        pytest.param(NOBODY, 0, False, id="a user who owns no link"),
        pytest.param(NOBODY, 1000, True, id="a user who owns one"),
        pytest.param(NOBODY.sanctioned(Action.VIEW), 0, True, id="whom polkit allows it"),
    ],
)
def test_counting_is_for_administrators_and_owners(caller: Caller, owner: int, allowed: bool) -> None:
    kernel = Kernel()
    made = statistics(kernel, owner=owner)
    if not allowed:
        with pytest.raises(Unsanctioned, match="uid 1000 may not have the kernel count runs"):
            made.ask(caller, ":1.1")
    else:
        made.ask(caller, ":1.1")
    assert kernel.counts == allowed


def test_a_reading_as_it_travels() -> None:
    about, (row,) = told(statistics(Kernel()).read()).unpack()
    assert about == {"at": 77, "counting": False, "reason": "nobody asked"}
    assert row == {
        "name": "edge",
        "target": ("xdp", "eth0", "auto"),
        "state": "active",
        "generation": 3,
        "program": (1, "prog1", "0" * 16, "xdp"),
        "counted": 1,
        "runs": 20,
        "time": 500,
    }


def test_misses_of_a_kprobe_are_told_apart_and_counted_together() -> None:
    kernel = Kernel()
    link = FakeLink()
    link.misses = lambda: Misses(empty=2, suppressed=3)  # type: ignore[assignment]
    reading = statistics(kernel, link).read()
    assert reading.links[0].counts == COUNTS._replace(missed=5)
    _, (row,) = told(reading).unpack()
    assert (row["missed"], row["suppressed"]) == (2, 3)


def test_what_cannot_be_told_is_left_out() -> None:
    kernel = Kernel()
    kernel.answers = None
    _, (row,) = told(statistics(kernel).read()).unpack()
    assert not {"counted", "runs", "time", "missed", "suppressed"} & set(row)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        pytest.param({"keep": 999_999}, "between 1000000 and 7200000000", id="less than a second"),
        pytest.param({"keep": 2**63}, "not 9223372036854775808", id="far too long"),
        pytest.param({"keep": -5}, "between", id="negative"),
        pytest.param({"keep": True}, "type int", id="a boolean"),
        pytest.param({"keep": "10"}, "type int", id="a text"),
        pytest.param({"links": []}, "known options: keep", id="unknown"),
    ],
)
def test_a_bad_option_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(BadOption, match=says):
        parse.statistics_options(given)
