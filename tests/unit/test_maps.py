"""Which maps go on being used, and what is said against it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpflinkd.core import maps
from bpflinkd.core.errors import BadOption, IncompatibleMaps
from bpflinkd.core.maps import AS_USUAL, MapChoice, MapShape, MapWishes

HASH, ARRAY, PERF, DEVMAP, RINGBUF = 1, 2, 4, 14, 27
LONG = "connections_by_port"
KEEP, FRESH = MapChoice.KEEP, MapChoice.FRESH


def shape(name: str = "m", kind: int = HASH, key: int = 4, value: int = 8, entries: int = 10) -> MapShape:
    return MapShape(name, kind, key, value, entries)


def wishes(*, fresh: bool = False, **choices: MapChoice) -> MapWishes:
    return MapWishes(fresh=fresh, choices=tuple(choices.items()))


def of_section(name: str, choice: MapChoice) -> MapWishes:
    return MapWishes(choices=((name, choice),))


@pytest.mark.parametrize(
    ("running", "new", "wanted", "kept"),
    [
        pytest.param(shape(), shape(), AS_USUAL, {"m": "m"}, id="the same is kept"),
        pytest.param(shape(), shape(entries=11), wishes(m=FRESH), {}, id="fresh may differ"),
        pytest.param(shape(), shape(entries=11), wishes(fresh=True), {}, id="all fresh may differ"),
        pytest.param(shape(), shape(), wishes(fresh=True, m=KEEP), {"m": "m"}, id="all fresh but one"),
        pytest.param(shape("a"), shape("b"), AS_USUAL, {}, id="of another name is a new one"),
        pytest.param(shape("x.bss"), shape("x.bss"), AS_USUAL, {}, id="variables begin anew"),
        pytest.param(
            shape("x.bss"), shape("x.bss"), of_section(".bss", KEEP), {"x.bss": "x.bss"}, id="or are kept"
        ),
        pytest.param(
            shape(".data.hot"), shape(".data.hot"), AS_USUAL, {}, id="a custom section is variables too"
        ),
        pytest.param(shape("x.rodata"), shape("x.rodata"), AS_USUAL, {}, id="constants are the new ones"),
        pytest.param(
            shape(LONG[:15]), shape(LONG), AS_USUAL, {LONG: LONG[:15]}, id="the kernel knows 15 characters"
        ),
        pytest.param(shape("conn"), shape("connections"), AS_USUAL, {}, id="a short name is whole"),
        pytest.param(
            shape(kind=PERF, entries=8), shape(kind=PERF, entries=0), AS_USUAL, {"m": "m"}, id="perf events"
        ),
        pytest.param(
            shape(kind=RINGBUF, entries=8192),
            shape(kind=RINGBUF, entries=5000),
            AS_USUAL,
            {"m": "m"},
            id="a ring buffer is rounded up",
        ),
        pytest.param(
            shape(kind=DEVMAP)._replace(flags=0x80),
            shape(kind=DEVMAP),
            AS_USUAL,
            {"m": "m"},
            id="a flag that the kernel adds",
        ),
    ],
)
def test_what_is_kept(running: MapShape, new: MapShape, wanted: MapWishes, kept: dict[str, str]) -> None:
    assert maps.carried([running], [new], wanted) == kept


@pytest.mark.parametrize(
    ("new", "says"),
    [
        pytest.param(shape(kind=ARRAY), "type hash, now array", id="type"),
        pytest.param(shape(kind=99), "type hash, now type 99", id="a type of a newer kernel"),
        pytest.param(shape(key=8), "key size 4, now 8", id="key"),
        pytest.param(shape(value=16), "value size 8, now 16", id="value"),
        pytest.param(shape(entries=20), "max_entries 10, now 20", id="entries"),
        pytest.param(shape()._replace(flags=1), "flags 0x0, now 0x1", id="flags"),
        pytest.param(shape(key=8, entries=1), "key size 4, now 8, max_entries 10, now 1", id="two of them"),
    ],
)
def test_what_does_not_fit(new: MapShape, says: str) -> None:
    with pytest.raises(IncompatibleMaps, match="--map m=fresh") as refusal:
        maps.carried([shape()], [new], AS_USUAL)
    assert f"map 'm': {says}. To begin" in str(refusal.value)


def test_all_that_does_not_fit_is_told_to_a_bound() -> None:
    before = [shape(f"m{n}") for n in range(30)]
    after = [shape(f"m{n}", key=8) for n in range(30)]
    with pytest.raises(IncompatibleMaps, match=r"'m19': .*; and 10 more"):
        maps.carried(before, after, AS_USUAL)
    with pytest.raises(IncompatibleMaps, match="no such map"):
        maps.carried([], [shape()], wishes(m=KEEP))


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        pytest.param(wishes(mm=KEEP), "did you mean 'm'", id="a typo"),
        pytest.param(wishes(other=FRESH), "it has: m, x.rodata", id="another map"),
        pytest.param(of_section(".rodata", KEEP), "constants", id="constants"),
        pytest.param(of_section("", FRESH), "no map ''", id="no name"),
    ],
)
def test_a_choice_that_cannot_be(wanted: MapWishes, says: str) -> None:
    with pytest.raises(BadOption, match=says):
        maps.carried([shape()], [shape(), shape("x.rodata")], wanted)


SHAPES = st.builds(
    MapShape,
    st.sampled_from(["a", "b", LONG, LONG[:15], "x.bss", "x.rodata"]),
    *[st.integers(0, 40)] * 4,
    st.integers(0, 0xFF),
)


@given(st.lists(SHAPES, max_size=6), st.lists(SHAPES, max_size=6), st.booleans())
def test_only_what_is_the_same_is_ever_kept(
    running: list[MapShape], new: list[MapShape], fresh: bool
) -> None:
    before, after = {s.name: s for s in running}, {s.name: s for s in new}
    try:
        kept = maps.carried(running, new, wishes(fresh=fresh))
    except IncompatibleMaps:
        assert not fresh
        return
    assert not (fresh and kept)
    for name, called in kept.items():
        assert not maps.differences(before[called], after[name])
        assert not maps.section(name)
