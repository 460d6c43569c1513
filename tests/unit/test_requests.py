from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpflinkd.core import attach_types, requests
from bpflinkd.core.errors import BadTarget
from bpflinkd.core.targets import CgroupPlace, CgroupTarget, KprobeTarget, XdpMode


def test_targets_print_as_people_write_them() -> None:
    assert str(requests.xdp_target("eth0")) == "xdp:eth0"
    assert str(requests.cgroup_target("/w.slice", "egress")) == "cgroup:/w.slice egress"
    assert str(requests.kprobe_target("tcp_connect")) == "kprobe:tcp_connect"
    assert str(requests.kprobe_target("tcp_connect", offset=16)) == "kprobe:tcp_connect+0x10"
    assert str(requests.kprobe_target("tcp_connect", at_return=True)) == "kretprobe:tcp_connect"
    assert str(requests.kprobe_multi_target("tcp_*")) == "kprobe-multi:tcp_*"
    assert str(requests.kprobe_multi_target("tcp_*", at_return=True)) == "kretprobe-multi:tcp_*"


@pytest.mark.parametrize("symbol", ["f", "foo.isra.0", "__x64_sys_bpf", "a$b", "x" * 511])
def test_functions_that_a_kernel_can_have(symbol: str) -> None:
    assert requests.kprobe_target(symbol) == KprobeTarget(symbol=symbol)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param({"symbol": ""}, id="nothing"),
        pytest.param({"symbol": "a b"}, id="a blank"),
        pytest.param({"symbol": "a\n"}, id="a newline"),
        pytest.param({"symbol": "1a"}, id="a digit first"),
        pytest.param({"symbol": "f\u00fc"}, id="a letter that is not ASCII"),
        pytest.param({"symbol": "x" * 512}, id="too long"),
        pytest.param({"symbol": "f", "offset": -1}, id="a negative offset"),
        pytest.param({"symbol": "f", "offset": 1, "at_return": True}, id="an offset at return"),
        pytest.param({"symbol": "f", "cookie": 2**64}, id="a cookie that is no u64"),
    ],
)
def test_kprobes_that_are_refused(words: dict[str, Any]) -> None:
    with pytest.raises(BadTarget):
        requests.kprobe_target(**words)


@pytest.mark.parametrize("pattern", ["", "a b", "a/b", "x" * 600, "(a|b)"])
def test_patterns_that_are_refused(pattern: str) -> None:
    with pytest.raises(BadTarget):
        requests.kprobe_multi_target(pattern)


@pytest.mark.parametrize(
    ("section", "told"),
    [
        pytest.param("kprobe/tcp_connect", attach_types.KPROBE, id="a function in the section"),
        pytest.param("?kretprobe", attach_types.KPROBE, id="not loaded of its own accord"),
        pytest.param("kprobe.multi/tcp_*", attach_types.KPROBE_MULTI, id="many"),
        pytest.param("uprobe//bin/sh", None, id="elsewhere"),
        pytest.param("xdp/devmap", None, id="an XDP of another kind"),
    ],
)
def test_sections(section: str, told: attach_types.AttachType | None) -> None:
    assert attach_types.by_section(section) is told


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
    everything = (attach_types.XDP, attach_types.KPROBE_MULTI, *attach_types.CGROUP_ATTACH_TYPES)
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
    assert 0 < len(name.encode()) < 128


@given(st.text())
def test_any_cgroup_path_is_taken_or_refused_by_name(path: str) -> None:
    try:
        target = requests.cgroup_target(path)
    except BadTarget:
        return
    assert target.path.startswith("/")
    assert ".." not in target.path.split("/")
