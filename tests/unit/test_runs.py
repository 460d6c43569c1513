"""What follows from two readings of run counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpflinkd.core.runs import Rate, RunCounts, rate, rates

BEFORE = RunCounts(program=7, runs=100, nanoseconds=1_000_000_000, missed=4)
NUMBERS = st.integers(0, 2**64 - 1)
COUNTS = st.builds(RunCounts, st.integers(1, 3), NUMBERS, NUMBERS, NUMBERS)


@pytest.mark.parametrize(
    ("after", "seconds", "expected"),
    [
        pytest.param(RunCounts(7, 300, 2_000_000_000, 10), 2.0, Rate(100.0, 5e6, 0.5, 3.0), id="it ran"),
        pytest.param(BEFORE, 2.0, Rate(0.0, None, 0.0, 0.0), id="it did not run: no time a run"),
        pytest.param(BEFORE._replace(runs=101), 1.0, Rate(1.0, 0.0, 0.0, 0.0), id="a run too short to time"),
        pytest.param(RunCounts(8, 300, 2_000_000_000, 4), 1.0, None, id="replaced: another program"),
        pytest.param(RunCounts(8, 3, 30, 4), 1.0, None, id="replaced: fewer runs of another program"),
        pytest.param(BEFORE._replace(runs=99), 1.0, None, id="fewer runs of the same: the count wrapped"),
        pytest.param(BEFORE._replace(nanoseconds=5), 1.0, None, id="less time: the count wrapped"),
        pytest.param(BEFORE._replace(missed=0), 1.0, None, id="fewer misses: another bpf_link"),
        pytest.param(None, 1.0, None, id="no counts any more"),
        pytest.param(RunCounts(7, 300, 2_000_000_000, 4), 0.0, None, id="no time went by"),
        pytest.param(RunCounts(7, 300, 2_000_000_000, 4), -1.0, None, id="the clock went back"),
    ],
)
def test_a_rate_is_told_where_there_is_one(
    after: RunCounts | None, seconds: float, expected: Rate | None
) -> None:
    assert rate(BEFORE, after, seconds) == expected


def test_a_link_that_came_has_no_rate_yet_and_one_that_went_is_left_out() -> None:
    found = rates({"a": BEFORE, "gone": BEFORE}, {"a": BEFORE, "new": BEFORE}, 1.0)
    assert found == {"a": Rate(0.0, None, 0.0, 0.0), "new": None}


@given(COUNTS, COUNTS, st.floats(-10, 1e9))
def test_no_rate_is_ever_negative(before: RunCounts, after: RunCounts, seconds: float) -> None:
    found = rate(before, after, seconds)
    assert found is None or all(value is None or value >= 0 for value in found)
