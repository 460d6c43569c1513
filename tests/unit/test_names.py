import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpflinkd.core import names
from bpflinkd.core.errors import BadName


@pytest.mark.parametrize(
    ("plain", "encoded"),
    [
        pytest.param("edge", "edge", id="letters stay"),
        pytest.param("eth0.100", "eth0_2e100", id="a dot, which bpffs refuses"),
        pytest.param("edge-filter", "edge_2dfilter", id="a dash, which D-Bus paths refuse"),
        pytest.param("a_b", "a_5fb", id="the escape character itself"),
        pytest.param("0day", "_30day", id="a leading digit"),
        pytest.param("", "_", id="nothing"),
    ],
)
def test_encoding(plain: str, encoded: str) -> None:
    assert names.encode(plain) == encoded
    assert names.decode(encoded) == plain


@given(st.text())
def test_encoding_comes_back_and_is_safe(text: str) -> None:
    text = text.encode(errors="ignore").decode()
    encoded = names.encode(text)
    assert names.decode(encoded) == text
    assert re.fullmatch(r"[A-Za-z0-9_]+", encoded)


@given(st.text(), st.text())
def test_no_two_names_share_an_encoding(one: str, other: str) -> None:
    one, other = (text.encode(errors="ignore").decode() for text in (one, other))
    assert (names.encode(one) == names.encode(other)) == (one == other)


@given(st.text())
def test_what_is_accepted_fits_a_directory_entry(text: str) -> None:
    try:
        accepted = names.check(text)
    except BadName:
        return
    assert accepted == text
    assert len(names.encode(text)) <= 255
    assert text.isprintable()
    assert not {"/", "\n", "\0"} & set(text)


@pytest.mark.parametrize("name", ["edge", "eth0.100", "a@b:c+d-e_f", "0", "x" * 128])
def test_accepted(name: str) -> None:
    assert names.check(name) == name
