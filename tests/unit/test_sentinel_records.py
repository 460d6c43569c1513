"""What the sentinel's program writes, decoded: bytes that strangers chose a part of."""

import struct

import pytest

from bpflinkd.core.culprits import Culprit
from bpflinkd.core.events import Operation, SlotHook, Touch
from bpflinkd.core.ids import LinkId, Micros, ProgId
from bpflinkd.core.model import ProgramInfo
from bpflinkd.core.targets import CgroupHook, CgroupId, IfIndex, XdpHook
from bpflinkd.kernel.sentinel_records import (
    CONFIG_SIZE,
    Config,
    Followed,
    config_of,
    hook_of,
    key_of,
    touch_of,
)

NETNS = 4026531840
BEFORE = struct.pack("=II8s16s", 7, 6, bytes(range(8)), b"old")
NOTHING = bytes(32)


def record(
    *,
    key: bytes = struct.pack("=IIQ", 1, NETNS, 3),
    operation: int = 0,
    before: bytes = NOTHING,
    comm: bytes = b"ip",
    executable: bytes = b"",
    cgroup: bytes = b"",
    whole: tuple[int, int] = (1, 1),
    flags: tuple[int, int] = (0, 0),
) -> bytes:
    """As `struct record` in programs/sentinel.bpf.c is laid out."""
    numbers = struct.pack("=QIIIBB2xIII", 5_000_999, operation, 1, 9, *flags, 100, 101, 1000)
    lengths = struct.pack("=HBB", len(executable), *whole)
    return b"".join(
        (key, numbers, lengths, before, NOTHING, comm.ljust(16, b"\0"), executable, cgroup),
    )


def culprit(**fields: bytes | tuple[int, int]) -> Culprit:
    touch = touch_of(record(**fields), NETNS)  # type: ignore[arg-type]
    assert touch is not None
    return touch.by


def test_every_field() -> None:
    raw = record(before=BEFORE, executable=b"ip\0sbin\0usr\0", cgroup=b"ssh.service\0system.slice\0")
    assert touch_of(raw, NETNS) == Touch(
        operation=Operation.XDP_INSTALL,
        hook=XdpHook(IfIndex(3)),
        attach_type=1,
        link_id=LinkId(9),
        before=ProgramInfo(id=ProgId(7), name="old", tag="0001020304050607", type=6),
        after=None,
        dying=False,
        by=Culprit(
            pid=100,
            thread=101,
            uid=1000,
            comm="ip",
            executable="/usr/sbin/ip",
            cgroup="/system.slice/ssh.service",
        ),
        at=Micros(5000),
    )


def test_a_thread_of_the_kernel_is_shown_as_ps_does() -> None:
    assert culprit(comm=b"kworker/0:1", flags=(0, 1)).comm == "[kworker/0:1]"
    assert culprit(comm=b"kworker/0:1", flags=(1, 0)).comm == "kworker/0:1"


def test_a_hook_of_another_network_namespace_is_none_of_ours() -> None:
    assert touch_of(record(key=struct.pack("=IIQ", 1, NETNS + 1, 3)), NETNS) is None


@pytest.mark.parametrize(
    "hook",
    [
        pytest.param(XdpHook(IfIndex(3)), id="interface"),
        pytest.param(CgroupHook(CgroupId(1 << 40)), id="cgroup"),
        pytest.param(SlotHook(17), id="slot"),
    ],
)
def test_a_hook_comes_back_from_its_key(hook: Followed) -> None:
    assert hook_of(key_of(hook, NETNS), NETNS) == hook
    assert (hook_of(key_of(hook, NETNS), NETNS + 1) is None) == isinstance(hook, XdpHook)


@pytest.mark.parametrize(
    ("raw", "whole", "path"),
    [
        pytest.param(b"ip\0sbin\0", 1, "/sbin/ip", id="whole"),
        pytest.param(b"ip\0sbin\0", 0, ".../sbin/ip", id="cut short"),
        pytest.param(b"memfd:x\0", 0, ".../memfd:x", id="in no directory"),
        pytest.param(b"", 0, "", id="not known"),
        pytest.param(
            b"a\nb\x1b[31m\xff\xe2\x80\xae\0", 1, "/a?b?[31m\N{REPLACEMENT CHARACTER}?", id="hostile"
        ),
        pytest.param(b"..\0..\0", 1, "/../..", id="dots stay as they are"),
    ],
)
def test_a_path(raw: bytes, whole: int, path: str) -> None:
    assert culprit(executable=raw, whole=(whole, 1)).executable == path


def test_the_root_cgroup_is_not_an_unknown_one() -> None:
    assert culprit(whole=(0, 1)).cgroup == "/"
    assert culprit(whole=(0, 0)).cgroup == ""


def test_no_unit_is_read_from_a_path_that_is_cut_short() -> None:
    assert culprit(cgroup=b"x\0ssh.service\0", whole=(1, 1)).unit == "ssh.service"
    assert culprit(cgroup=b"x\0ssh.service\0", whole=(1, 0)).unit == ""


def test_a_name_is_printable() -> None:
    assert culprit(comm=b"ev\x1b[2Jil\0rest").comm == "ev?[2Jil"


def test_a_configuration_comes_back_from_its_bytes() -> None:
    config = Config(build=1 << 63, layout=2, operations=0x7F, tgid=10, tick=10_000_000, started=1 << 40)
    assert len(config.pack()) == CONFIG_SIZE
    assert config_of(config.pack()) == config
