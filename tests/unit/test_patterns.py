"""Templates: what they match, and what the links are called that they make."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpflinkd.core import names, patterns, written
from bpflinkd.core.errors import BadTarget
from bpflinkd.core.patterns import CgroupPattern, Interface, InterfacePattern
from bpflinkd.core.targets import CgroupPlace, CgroupTarget, IfIndex, XdpMode, XdpTarget

WAN = Interface(
    ifindex=IfIndex(4), name="enp3s0", altnames=("wan0", "en-uplink"), mac="02:00:5e:10:00:01", driver="ixgbe"
)


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ({"name": "en*"}, True),
        ({"name": "EN*"}, False),
        ({"name": "eth?"}, False),
        ({"altname": "wan[0-9]"}, True),
        ({"altname": "lan*"}, False),
        ({"mac": "02:00:5E:10:00:01"}, True),
        ({"mac": "02:00:5e:*"}, True),
        ({"mac": "02:00:5e:10:00:02"}, False),
        ({"driver": "ixgbe"}, True),
        ({"driver": "ixgbe", "name": "eth*"}, False),
        ({"driver": "ixgbe", "altname": "wan*", "name": "en*"}, True),
    ],
)
def test_all_that_is_given_must_hold(pattern: dict[str, str], fits: bool) -> None:
    assert patterns.interface_pattern(**pattern).matches(WAN) is fits


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("/system.slice/*.service", "/system.slice/nginx.service", True),
        ("/system.slice/*.service", "/system.slice/nginx.service/inner.service", False),
        ("/system.slice/*.service", "/system.slice/nginx.scope", False),
        ("/pods/*/*", "/pods/a/b", True),
        ("/pods/*/*", "/pods/a", False),
        ("/pods/*/db", "/pods/a/db", True),
    ],
)
def test_each_part_of_a_path_matches_by_itself(pattern: str, path: str, fits: bool) -> None:
    assert patterns.cgroup_pattern(pattern).matches(path) is fits


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"mac": "not a mac"}, "is not a MAC address"),
        ({"name": "a/b*"}, "cannot match an interface"),
        ({"name": "*", "mode": "fast"}, "is not an XDP mode"),
    ],
)
def test_what_can_match_nothing_is_refused(words: dict[str, str], says: str) -> None:
    with pytest.raises(BadTarget, match=says):
        patterns.interface_pattern(**words)


def test_two_stars_are_refused() -> None:
    with pytest.raises(BadTarget, match=r"\*\* is not known"):
        patterns.cgroup_pattern("/kubepods/**")


def test_the_target_of_a_match() -> None:
    generic = patterns.interface_pattern("en*", mode="generic")
    assert patterns.target_on(generic, WAN) == XdpTarget(interface="enp3s0", mode=XdpMode.GENERIC)
    told, untold = patterns.cgroup_pattern("/a/*", "egress"), patterns.cgroup_pattern("/a/*")
    on = patterns.target_on(told, "/a/b")
    assert isinstance(on, CgroupTarget)
    assert (on.path, on.attach_type.name) == ("/a/b", "egress")
    assert patterns.target_on(untold, "/a/b") == CgroupPlace(path="/a/b")


@pytest.mark.parametrize(
    ("pattern", "match", "name"),
    [
        (InterfacePattern(name="en*"), WAN, "t@enp3s0"),
        (CgroupPattern(path="/system.slice/*.service"), "/system.slice/nginx.service", "t@nginx.service"),
        (CgroupPattern(path="/pods/*/*"), "/pods/a/b", "t@a:b"),
        (CgroupPattern(path="/*"), "/web.slice", "t@web.slice"),
    ],
)
def test_a_link_is_called_after_template_and_match(
    pattern: patterns.Pattern, match: Interface | str, name: str
) -> None:
    assert patterns.link_name("t", pattern, match) == name


_PART = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=120)


@given(st.lists(st.tuples(_PART, _PART), min_size=1, max_size=8, unique=True))
def test_any_cgroup_has_a_name_of_its_own_that_a_link_may_have(paths: list[tuple[str, str]]) -> None:
    pattern = CgroupPattern(path="/pods/*/*")
    longest = "a" + "." * (patterns.MAX_TEMPLATE - 1)
    for template in ("t", longest):
        called = [patterns.link_name(template, pattern, f"/pods/{one}/{two}") for one, two in paths]
        assert len(set(called)) == len(paths)
        for name in called:
            assert names.check(name) == name


@pytest.mark.parametrize("text", ["xdp:veth*", "xdp:en[op]?", "cgroup:/a/*.service egress", "cgroup:/a/*"])
def test_a_pattern_is_written_as_it_reads(text: str) -> None:
    assert str(written.target(text)) == text


def test_functions_by_pattern_are_one_link_not_many() -> None:
    assert str(written.target("kprobe-multi:tcp_*")) == "kprobe-multi:tcp_*"
    assert not isinstance(written.target("kprobe-multi:tcp_*"), InterfacePattern | CgroupPattern)
