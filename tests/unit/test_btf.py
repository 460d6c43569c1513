"""Constants of an object, by the BTF that clang writes, and by damaged BTF."""

import functools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bpflinkd.core.errors import BadOption, BadProgram
from bpflinkd.kernel import btf, libbpf_objects
from bpflinkd.kernel.btf import Constant
from tests.lab.compiled import program


@functools.cache
def raw() -> bytes:
    handle = libbpf_objects.object_open(program("policy").read_bytes(), "test")
    try:
        return libbpf_objects.object_btf(handle)
    finally:
        libbpf_objects.object_close(handle)


def test_the_constants_of_an_object() -> None:
    found = btf.constants(raw())
    assert {name: (each.kind, each.size) for name, each in found.items()} == {
        "otherwise": ("unsigned", 4),
        "enabled": ("bool", 1),
        "offset": ("signed", 1),
        "label": ("text", 8),
        "ports": ("an array", 4),
    }
    assert {each.section for each in found.values()} == {".rodata"}
    assert len({each.offset for each in found.values()}) == len(found)


@pytest.mark.parametrize(
    ("kind", "size", "text", "value"),
    [
        pytest.param("unsigned", 4, "42", b"\x2a\0\0\0", id="a number"),
        pytest.param("unsigned", 2, "0xffff", b"\xff\xff", id="hexadecimal"),
        pytest.param("signed", 1, "-128", b"\x80", id="negative"),
        pytest.param("unsigned", 8, str(2**64 - 1), b"\xff" * 8, id="the largest"),
        pytest.param("bool", 1, "true", b"\1", id="a bool"),
        pytest.param("bool", 1, "0", b"\0", id="a bool as a number"),
        pytest.param("text", 4, "web", b"web\0", id="text"),
        pytest.param("text", 4, "", b"\0\0\0\0", id="empty text"),
    ],
)
def test_a_value(kind: str, size: int, text: str, value: bytes) -> None:
    assert btf.encode("c", Constant(".rodata", 0, size, kind), text) == value


@pytest.mark.parametrize(
    ("kind", "size", "text", "says"),
    [
        pytest.param("unsigned", 1, "256", "0 to 255", id="too large"),
        pytest.param("unsigned", 1, "-1", "0 to 255", id="negative"),
        pytest.param("signed", 2, "32768", "-32768 to 32767", id="too large for a signed one"),
        pytest.param("unsigned", 4, "", "is a number", id="empty"),
        pytest.param("unsigned", 4, "9" * 5000, "from 0", id="very long"),
        pytest.param("bool", 1, "yes", "true or false", id="no bool"),
        pytest.param("text", 4, "long", "3 bytes", id="no room for the end"),
        pytest.param("a struct", 4, "1", "is a struct", id="a struct"),
    ],
)
def test_a_value_that_does_not_fit(kind: str, size: int, text: str, says: str) -> None:
    with pytest.raises(BadOption, match=says):
        btf.encode("c", Constant(".rodata", 0, size, kind), text)


@given(st.sampled_from(["signed", "unsigned"]), st.sampled_from([1, 2, 4, 8]), st.integers(-(2**70), 2**70))
def test_a_number_is_what_it_was_or_refused(kind: str, size: int, number: int) -> None:
    constant = Constant(".rodata", 0, size, kind)
    try:
        value = btf.encode("c", constant, str(number))
    except BadOption:
        return
    assert int.from_bytes(value, "little", signed=kind == "signed") == number
    assert len(value) == size


@given(st.binary(max_size=200))
@example(b"")
def test_what_is_no_btf(data: bytes) -> None:
    with pytest.raises(BadProgram, match="BTF is damaged"):
        btf.constants(data)


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
def test_damaged_btf_is_refused_or_read(at: int, change: bytes) -> None:
    whole = raw()
    at %= len(whole)
    damaged = whole[:at] + change + whole[at + len(change) :]
    try:
        found = btf.constants(damaged)
    except BadProgram:
        return
    assert all(isinstance(each, Constant) for each in found.values())


def test_a_constant_that_is_not_there() -> None:
    known = btf.constants(raw())
    with pytest.raises(BadOption, match="did you mean 'enabled'"):
        btf.find(known, "enabld")
    with pytest.raises(BadOption, match="it has: otherwise"):
        btf.find(known, "zzz")
    with pytest.raises(BadOption, match="'const volatile'"):
        btf.find({}, "zzz")
