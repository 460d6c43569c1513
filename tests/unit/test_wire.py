"""What comes from the bus is parsed or refused by name, whatever it is."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpflinkd.core import requests
from bpflinkd.core.callers import Owner, Unit, User
from bpflinkd.core.errors import BadOption, BadProgram, BadTarget, BpflinkdError
from bpflinkd.core.ids import Micros, ProgId
from bpflinkd.core.maps import AS_USUAL, MapChoice, MapWishes
from bpflinkd.core.model import Lifetime, Policy
from bpflinkd.core.requests import HeldBy
from bpflinkd.core.sources import Builtin, ObjectFile, PinnedProgram, ProgramById, ProgramFd, SourceFile
from bpflinkd.core.targets import (
    CgroupPlace,
    CgroupTarget,
    KprobeMultiTarget,
    KprobeTarget,
    XdpMode,
    XdpTarget,
)
from bpflinkd.dbus import parse
from bpflinkd.dbus.parse import ReplaceOptions

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
    assert parse.wanted_target(given_words) == parsed


def test_cgroup_with_attach_type() -> None:
    parsed = parse.wanted_target({"cgroup": "/w", "attach_type": "cgroup_inet_egress"})
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
    assert parse.wanted_program(given_words, lambda index: 100 + index) == parsed


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
        parse.wanted_program(words, lambda index: index)


def attach_options(words: dict[str, Any]) -> parse.AttachOptions:
    return parse.attach_options(words, lambda index: 100 + index, "bus-id")


def test_options_of_attach() -> None:
    plain = attach_options({})
    assert (plain.policy, plain.lifetime, plain.wait) == (Policy.ALERT, Lifetime.PINNED, False)
    assert (plain.owner, plain.force, plain.held) == (None, False, None)
    chosen = attach_options({"policy": "yield", "lifetime": "ephemeral", "wait": True, "owner": {"uid": 7}})
    assert (chosen.policy, chosen.lifetime, chosen.wait) == (Policy.YIELD, Lifetime.EPHEMERAL, True)
    assert chosen.owner == User(uid=7)
    with pytest.raises(BadOption, match="pinned, ephemeral, owner"):
        attach_options({"lifetime": "for ever"})


def test_a_link_lives_with_the_connection_that_asks() -> None:
    assert attach_options({"lifetime": "owner"}).held == HeldBy(bus="bus-id")
    after = attach_options({"lifetime": "owner", "grace": 5, "fallback": {"object": 1, "name": "f"}})
    fallback = ObjectFile(fd=101, program="f")
    assert after.held == HeldBy(bus="bus-id", grace=Micros(5), fallback=fallback)
    wrong: dict[str, Any]
    for wrong in ({"grace": -1}, {"grace": 10**15}, {"fallback": {}}, {"fallback": "pass"}):
        with pytest.raises((BadOption, BadProgram)):
            attach_options({"lifetime": "owner", **wrong})


def test_options_of_replace_and_detach() -> None:
    assert parse.replace_options({"expect": 7}) == ReplaceOptions(7, False, "", AS_USUAL, None, ())
    assert parse.replace_options({"force": True}) == ReplaceOptions(None, True, "", AS_USUAL, None, ())
    given = {"message": "why", "maps": {"m": "fresh"}, "fresh_maps": True, "confirm_within": 5_000_000}
    wishes = MapWishes(fresh=True, choices=(("m", MapChoice.FRESH),))
    assert parse.replace_options(given) == ReplaceOptions(None, False, "why", wishes, Micros(5_000_000), ())
    assert parse.detach_options({"force": True})
    assert not parse.detach_options({})
    for wrong in ({"expect": True}, {"expect": "7"}, {"other": 1}, {"force": 1}):
        with pytest.raises(BadOption):
            parse.replace_options(wrong)


@pytest.mark.parametrize(
    ("words", "owner"),
    [
        pytest.param({"uid": 812}, User(uid=812), id="a user"),
        pytest.param({"unit": "tw-agent.service"}, Unit(name="tw-agent.service"), id="a unit"),
        pytest.param({"unit": "a@b\\x2d.service"}, Unit(name="a@b\\x2d.service"), id="an escaped unit"),
    ],
)
def test_owners(words: dict[str, Any], owner: Owner) -> None:
    assert parse.transfer_to(words) == (owner, False)
    assert parse.transfer_to({**words, "force": True}) == (owner, True)
    assert requests.owner(str(owner)) == owner


@pytest.mark.parametrize(
    "words",
    [
        pytest.param({}, id="nobody"),
        pytest.param({"uid": 1, "unit": "a.service"}, id="two at once"),
        pytest.param({"uid": True}, id="no number"),
        pytest.param({"uid": -1}, id="below zero"),
        pytest.param({"uid": 2**32 - 1}, id="the uid that is nobody's"),
        pytest.param({"unit": "a.slice"}, id="a slice, in which no process is"),
        pytest.param({"unit": "../a.service"}, id="a path"),
        pytest.param({"unit": "a\n.service"}, id="a newline"),
        pytest.param({"unit": "a" * 300 + ".service"}, id="too long"),
        pytest.param({"uid": 1, "force": 1}, id="a force that is no boolean"),
    ],
)
def test_owners_that_are_refused(words: dict[str, Any]) -> None:
    with pytest.raises(BadOption):
        parse.transfer_to(words)


def test_what_is_adopted() -> None:
    assert parse.adopt_options(7, {})[:2] == (None, None)
    assert parse.adopt_options(0, {"pin": "/sys/fs/bpf/x"}).pin == "/sys/fs/bpf/x"
    assert parse.adopt_options(0, {"xdp": "eth0"}).interface == "eth0"
    for number, words in ((0, {}), (7, {"pin": "/x"}), (0, {"pin": "/x", "xdp": "eth0"})):
        with pytest.raises(BadOption, match="exactly one of"):
            parse.adopt_options(number, words)
    with pytest.raises(BadTarget):
        parse.adopt_options(0, {"xdp": "a/b"})


@given(DICTS)
def test_any_dictionary_is_parsed_or_refused_by_name(words: dict[str, Any]) -> None:
    for read in (
        parse.wanted_target,
        lambda given_words: parse.wanted_program(given_words, lambda index: index),
        attach_options,
        parse.replace_options,
        parse.detach_options,
        parse.transfer_to,
        lambda given_words: parse.adopt_options(0, given_words),
    ):
        try:
            read(words)
        except BpflinkdError as error:
            assert len(str(error)) < 2000
            assert isinstance(error, BadTarget | BadProgram | BadOption)
