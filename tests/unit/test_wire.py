"""What comes from the bus is parsed or refused by name, whatever it is."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpflinkd.core.errors import BadOption, BadProgram, BadTarget, BpflinkdError
from bpflinkd.core.ids import ProgId
from bpflinkd.core.model import Lifetime, Policy
from bpflinkd.core.sources import Builtin, ObjectFile, PinnedProgram, ProgramById, ProgramFd, SourceFile
from bpflinkd.core.targets import (
    CgroupPlace,
    CgroupTarget,
    KprobeMultiTarget,
    KprobeTarget,
    XdpMode,
    XdpTarget,
)
from bpflinkd.dbus import wire

# What GLib.Variant.unpack() can make of a value in an a{sv}.
VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
TARGET_KEYS = ["xdp", "mode", "cgroup", "attach_type", "kprobe", "offset", "cookie", "kretprobe-multi"]
PROGRAM_KEYS = ["object", "source", "name", "pin", "id", "builtin"]
KEYS = st.sampled_from([*TARGET_KEYS, *PROGRAM_KEYS, "policy", "wait"]) | st.text(max_size=5)
DICTS = st.dictionaries(KEYS, VALUES, max_size=4)


@pytest.mark.parametrize(
    ("given_words", "parsed"),
    [
        pytest.param({"xdp": "eth0"}, XdpTarget(interface="eth0"), id="an interface"),
        pytest.param(
            {"xdp": "eth0", "mode": "native"},
            XdpTarget(interface="eth0", mode=XdpMode.NATIVE),
            id="with a mode",
        ),
        pytest.param({"cgroup": "/w"}, CgroupPlace(path="/w"), id="a cgroup"),
        pytest.param({"kprobe": "f"}, KprobeTarget(symbol="f"), id="a function"),
        pytest.param(
            {"kprobe": "f", "offset": 4, "cookie": 2**64 - 1},
            KprobeTarget(symbol="f", offset=4, cookie=2**64 - 1),
            id="with offset and cookie",
        ),
        pytest.param({"kretprobe": "f"}, KprobeTarget(symbol="f", at_return=True), id="at return"),
        pytest.param({"kprobe-multi": "f*"}, KprobeMultiTarget(pattern="f*"), id="functions"),
        pytest.param(
            {"kretprobe-multi": "f*", "cookie": 1},
            KprobeMultiTarget(pattern="f*", at_return=True, cookie=1),
            id="functions at return",
        ),
    ],
)
def test_targets(given_words: dict[str, Any], parsed: object) -> None:
    assert wire.wanted_target(given_words) == parsed


def test_cgroup_with_attach_type() -> None:
    parsed = wire.wanted_target({"cgroup": "/w", "attach_type": "cgroup_inet_egress"})
    assert isinstance(parsed, CgroupTarget)
    assert parsed.attach_type.name == "egress"


@pytest.mark.parametrize(
    ("given_words", "parsed"),
    [
        pytest.param({"object": 0}, ObjectFile(fd=100), id="an object"),
        pytest.param({"object": 1, "name": "f"}, ObjectFile(fd=101, program="f"), id="one of it"),
        pytest.param({"source": 1, "name": "f"}, SourceFile(fd=101, program="f"), id="C source"),
        pytest.param({"pin": "/p"}, PinnedProgram(path="/p"), id="a pin"),
        pytest.param({"id": 7}, ProgramById(id=ProgId(7)), id="an id"),
        pytest.param({"fd": 0}, ProgramFd(fd=100), id="a descriptor"),
        pytest.param({"builtin": "pass"}, Builtin(name="pass"), id="a built-in"),
    ],
)
def test_programs(given_words: dict[str, Any], parsed: object) -> None:
    assert wire.wanted_program(given_words, lambda index: 100 + index) == parsed


@pytest.mark.parametrize(
    "words",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"id": 0}, id="id 0"),
        pytest.param({"id": 2**32}, id="an id that is no u32"),
        pytest.param({"pin": "/p", "id": 1}, id="two at once"),
        pytest.param({"pin": "/p", "name": "f"}, id="a name for a pin"),
        pytest.param({"object": "path"}, id="a path as object"),
    ],
)
def test_programs_that_are_refused(words: dict[str, Any]) -> None:
    with pytest.raises(BadProgram, match="exactly one of"):
        wire.wanted_program(words, lambda index: index)


def test_options() -> None:
    assert wire.attach_options({}) == (Policy.ALERT, Lifetime.PINNED, False)
    words: dict[str, Any] = {"policy": "yield", "lifetime": "ephemeral", "wait": True}
    assert wire.attach_options(words) == (Policy.YIELD, Lifetime.EPHEMERAL, True)
    with pytest.raises(BadOption, match="pinned, ephemeral"):
        wire.attach_options({"lifetime": "owner"})
    assert wire.replace_options({"expect": 7}) == 7
    for wrong in ({"expect": True}, {"expect": "7"}, {"other": 1}):
        with pytest.raises(BadOption):
            wire.replace_options(wrong)


@given(DICTS)
def test_any_dictionary_is_parsed_or_refused_by_name(words: dict[str, Any]) -> None:
    for parse in (
        wire.wanted_target,
        lambda given_words: wire.wanted_program(given_words, lambda index: index),
        wire.attach_options,
        wire.replace_options,
        wire.no_options,
    ):
        try:
            parse(words)
        except BpflinkdError as error:
            assert len(str(error)) < 2000
            assert isinstance(error, BadTarget | BadProgram | BadOption)
