"""What one user may ask for, counted by clocks that the tests move."""

import xml.etree.ElementTree as ET
from importlib import resources

import pytest
from gi.repository import GLib
from hypothesis import given
from hypothesis import strategies as st

from bpflinkd.core.callers import Caller
from bpflinkd.core.errors import LimitExceeded
from bpflinkd.core.limits import COSTS, RATE, Rate, Rates, Shares, TokenBucket
from bpflinkd.dbus.limits import MAX_CHANGES, Limits
from bpflinkd.dbus.wrapper import MAX_VALUES, unpacked

STEPS = st.lists(st.tuples(st.floats(-5, 60), st.floats(0.5, 50)), max_size=60)
"""Seconds that pass, the clock may go back too; and what is asked for then."""


@given(STEPS, st.floats(0.1, 1000), st.floats(1, 1000))
def test_never_more_than_the_burst_and_the_rate_since(
    steps: list[tuple[float, float]], points: float, burst: float
) -> None:
    bucket, now, latest, taken = TokenBucket(Rate(points=points, burst=burst), 0.0), 0.0, 0.0, 0.0
    for passed, cost in steps:
        now += passed
        latest = max(latest, now)
        if not bucket.take(cost, now):
            taken += cost
        assert taken <= burst + points * latest + 1e-6 * (1 + taken)


@given(STEPS, st.floats(0.1, 1000), st.floats(50, 1000))
def test_when_it_says_to_come_again_it_gives(
    steps: list[tuple[float, float]], points: float, burst: float
) -> None:
    bucket, now = TokenBucket(Rate(points=points, burst=burst), 0.0), 0.0
    for passed, cost in steps:
        now += abs(passed)
        if seconds := bucket.take(cost, now):
            now += seconds + 1e-6
            assert bucket.take(cost, now) == 0


@given(st.floats(0.5, 50), st.floats(0, 1e6))
def test_a_refusal_costs_nothing(cost: float, passed: float) -> None:
    bucket = TokenBucket(Rate(points=1e-9, burst=cost), passed)
    assert bucket.take(cost * 1.1, passed) > 0
    assert bucket.take(cost, passed) == 0


def test_no_call_costs_more_than_a_full_bucket() -> None:
    assert max(COSTS.values()) <= RATE.burst


def test_every_method_of_the_contract_has_its_cost() -> None:
    text = resources.files("bpflinkd.dbus").joinpath("interface.xml").read_text()
    assert {method.get("name") for method in ET.fromstring(text).iter("method")} == set(COSTS)


def test_users_do_not_pay_for_each_other() -> None:
    rates = Rates(Rate(points=1, burst=40))
    rates.take(1000, "GetManagedObjects", 0.0)
    with pytest.raises(LimitExceeded, match=r"uid 1000 .* GetManagedObjects can be called again in 40\.0 s"):
        rates.take(1000, "GetManagedObjects", 0.0)
    rates.take(1001, "GetManagedObjects", 0.0)
    rates.take(1000, "GetManagedObjects", 40.0)


def test_only_so_many_users_are_remembered() -> None:
    """Whose bucket was used longest ago is given up, and begins with a full one."""
    rates = Rates(Rate(points=1e-9, burst=2), most=2)
    for uid in (1, 2, 1, 3):
        rates.take(uid, "Get", 0.0)
    rates.take(3, "Get", 0.0)
    for uid in (1, 3):
        with pytest.raises(LimitExceeded):
            rates.take(uid, "Get", 0.0)
    rates.take(2, "Get", 0.0)
    rates.take(2, "Get", 0.0)


def test_root_is_not_counted() -> None:
    limits = Limits(clock=lambda: 0.0)
    for _ in range(1000):
        limits.admit(Caller(uid=0), "GetManagedObjects")
    with pytest.raises(LimitExceeded):
        for _ in range(1000):
            limits.admit(Caller(uid=1), "GetManagedObjects")


def test_changes_under_way_are_a_share() -> None:
    limits = Limits()
    ends = [limits.begin(Caller(uid=5)) for _ in range(MAX_CHANGES)]
    with pytest.raises(LimitExceeded, match="uid 5 waits for the answers to 8 calls"):
        limits.begin(Caller(uid=5))
    limits.begin(Caller(uid=6))
    ends[0]()
    limits.begin(Caller(uid=5))


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans())))
def test_shares_count_what_has_not_ended(steps: list[tuple[int, bool]]) -> None:
    shares, open_ones = Shares(), dict.fromkeys(range(4), 0)
    for uid, begins in steps:
        if begins and open_ones[uid] < 3:
            shares.begin(uid, 3)
            open_ones[uid] += 1
        elif begins:
            with pytest.raises(LimitExceeded):
                shares.begin(uid, 3)
        elif open_ones[uid]:
            shares.end(uid)
            open_ones[uid] -= 1


@pytest.mark.parametrize(
    ("signature", "value", "fits"),
    [
        pytest.param("(ay)", (b"x" * (MAX_VALUES - 1),), True, id="as many as may be"),
        pytest.param("(ay)", (b"x" * MAX_VALUES,), False, id="one more"),
        pytest.param("(v)", (GLib.Variant("ay", b"x" * MAX_VALUES),), False, id="in a variant"),
        pytest.param("(aas)", ([["x"] * 100] * 10,), False, id="in all the arrays together"),
        pytest.param(
            "(a{sv})", ({str(n): GLib.Variant("y", 1) for n in range(300)},), False, id="dictionary"
        ),
        pytest.param("(s)", ("x" * 60_000,), True, id="a long string is one value"),
    ],
)
def test_arguments_of_many_values(signature: str, value: tuple[object, ...], fits: bool) -> None:
    body = GLib.Variant(signature, value)
    if fits:
        assert unpacked(body) == body.unpack()
    else:
        with pytest.raises(LimitExceeded, match="1000 values"):
            unpacked(body)
