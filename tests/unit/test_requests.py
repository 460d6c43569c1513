import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpflinkd.core import attach_types, requests
from bpflinkd.core.errors import BadTarget
from bpflinkd.core.targets import CgroupPlace, CgroupTarget, XdpMode


def test_targets_print_as_people_write_them() -> None:
    assert str(requests.xdp_target("eth0")) == "xdp:eth0"
    assert str(requests.cgroup_target("/w.slice", "egress")) == "cgroup:/w.slice egress"


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        pytest.param("/", "/", id="the root"),
        pytest.param("//a//b/", "/a/b", id="extra slashes"),
        pytest.param("/a.slice/b.service", "/a.slice/b.service", id="dots within"),
    ],
)
def test_cgroup_paths_are_cleaned(path: str, clean: str) -> None:
    assert requests.cgroup_target(path) == CgroupPlace(path=clean)


def test_long_and_short_names_of_attach_types() -> None:
    for attach_type in attach_types.CGROUP_ATTACH_TYPES:
        for word in (attach_type.name, attach_type.long_name, attach_type.name.upper()):
            target = requests.cgroup_target("/", word)
            assert isinstance(target, CgroupTarget)
            assert target.attach_type is attach_type


def test_attach_types_are_told_apart_by_every_name() -> None:
    everything = (attach_types.XDP, *attach_types.CGROUP_ATTACH_TYPES)
    for key in ("name", "number", "long_name"):
        assert len({getattr(a, key) for a in everything}) == len(everything)
    sections = [section for a in everything for section in a.sections]
    assert len(set(sections)) == len(sections)


@given(st.text())
def test_any_interface_is_taken_or_refused_by_name(name: str) -> None:
    try:
        target = requests.xdp_target(name)
    except BadTarget:
        return
    assert target.mode is XdpMode.AUTO
    assert 0 < len(name.encode()) < 16


@given(st.text())
def test_any_cgroup_path_is_taken_or_refused_by_name(path: str) -> None:
    try:
        target = requests.cgroup_target(path)
    except BadTarget:
        return
    assert target.path.startswith("/")
    assert ".." not in target.path.split("/")
