"""Conditions that judge a trial, as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpflinkd.core import judging
from bpflinkd.core.errors import BadOption
from bpflinkd.core.judging import Condition, InterfaceCounter, MapCounter


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        pytest.param("map:drops[3]<10/s", Condition(MapCounter("drops", 3), "<", 10, True), id="a rate"),
        pytest.param("map:drops > 0", Condition(MapCounter("drops", 0), ">", 0, False), id="the first entry"),
        pytest.param(
            " interface:rx_dropped  <= 2.5 /s ",
            Condition(InterfaceCounter("rx_dropped"), "<=", 2.5, True),
            id="an interface",
        ),
    ],
)
def test_a_condition(text: str, condition: Condition) -> None:
    assert judging.parse(text) == condition
    assert judging.parse(str(condition)) == condition


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "write it as", id="empty"),
        pytest.param("drops < 1", "write it as", id="no kind"),
        pytest.param("map:drops = 1", "write it as", id="no such operator"),
        pytest.param("map:drops < -1", "write it as", id="negative"),
        pytest.param("map:drops < 1/min", "write it as", id="another unit"),
        pytest.param("map:drops[4294967296] < 1", "larger than", id="an index that cannot be"),
        pytest.param("interface:drops < 1", "rx_dropped", id="no such statistic"),
        pytest.param("map:" + "x" * 100 + " < 1", "write it as", id="a long name"),
    ],
)
def test_what_is_no_condition(text: str, says: str) -> None:
    with pytest.raises(BadOption, match=says):
        judging.parse(text)


def test_there_may_not_be_too_many() -> None:
    with pytest.raises(BadOption, match="16 conditions at most"):
        judging.parse_all(["map:m < 1"] * 17)


@pytest.mark.parametrize(
    ("text", "grown", "seconds", "holds"),
    [
        pytest.param("map:m < 10/s", 19, 2, True, id="below the rate"),
        pytest.param("map:m < 10/s", 20, 2, False, id="at the rate"),
        pytest.param("map:m <= 10/s", 20, 2, True, id="at the rate that is allowed"),
        pytest.param("map:m < 10", 10, 100, False, id="a growth, however long it took"),
        pytest.param("map:m > 0", 0, 60, False, id="nothing came"),
        pytest.param("map:m >= 1", 1, 60, True, id="something came"),
        pytest.param("map:m < 1", -5, 1, True, id="it was set back"),
    ],
)
def test_what_holds(text: str, grown: int, seconds: int, holds: bool) -> None:
    broken = judging.parse(text).broken(grown, seconds * 1_000_000)
    assert (not broken) == holds
    assert holds or text in broken.replace("[0]", "")


@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    try:
        condition = judging.parse(text)
    except BadOption:
        return
    assert judging.parse(str(condition)) == condition
