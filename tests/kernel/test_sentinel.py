"""The sentinel against strangers: each change is told once, with what it changed and who made it.

Everything happens in a network namespace that this process is in meanwhile. What we do ourselves is what the
daemon does; strangers are other processes.
"""

import contextlib
import ctypes
import os
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpflinkd.core.events import Operation, SlotHook, Touch
from bpflinkd.core.targets import CgroupHook, CgroupId, IfIndex, XdpHook
from bpflinkd.kernel import info, libbpf, sentinel, sentinel_parts
from tests.lab import World
from tests.lab.compiled import program as object_of
from tests.lab.world import run, until

EGRESS = 1
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
REPO = Path(__file__).parents[2]


def _enter(netns: str) -> None:
    with Path(netns).open() as there:
        if _libc.setns(there.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {netns}")


@pytest.fixture(scope="module")
def here() -> Iterator[World]:
    """A world whose namespace we are in, with programs of strangers pinned."""
    if os.geteuid() != 0:
        pytest.skip("needs root: CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN")
    with World() as made, Path("/proc/self/ns/net").open() as before:
        _enter(f"/run/netns/{made.netns}")
        try:
            run("bpftool", "prog", "loadall", object_of("pairs"), made.bpffs / "pairs")
            yield made
        finally:
            assert _libc.setns(before.fileno(), _CLONE_NEWNET) == 0


@contextlib.contextmanager
def running(world: World) -> Iterator[sentinel.Running]:
    """A sentinel as a daemon has it, made or taken back."""
    opened = sentinel.open(world.bpffs)
    if not isinstance(opened, sentinel.Running):
        assert not kernel_takes_tracing_programs(), opened.lacks
        pytest.skip("the kernel refuses tracing programs (bpftool feature probe)")
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def clean(here: World) -> Iterator[None]:
    """No sentinel is left."""
    yield
    sentinel_parts.unpin(here.bpffs / "_sentinel")


@pytest.fixture
def watch(here: World, clean: None) -> Iterator[sentinel.Running]:
    """A sentinel that runs and follows nothing yet."""
    with running(here) as opened:
        yield opened


def kernel_takes_tracing_programs() -> bool:
    """bpftool's word, not ours."""
    return "program_type tracing is available" in run("bpftool", "feature", "probe", "kernel")


class Xdp:
    """The hook of an interface, and programs for it."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.ifindex = socket.if_nametoindex(name)
        self.hook = XdpHook(IfIndex(self.ifindex))
        self.old, self.new = (world.bpffs / "pairs" / name for name in ("xdp_old", "xdp_new"))


@pytest.fixture
def xdp(here: World) -> Iterator[Xdp]:
    """That of a new interface."""
    run("ip", "link", "add", "d0", "up", "type", "dummy")
    yield Xdp(here, "d0")
    if "d0" in {name for _, name in socket.if_nameindex()}:
        run("ip", "link", "del", "d0")


@pytest.fixture
def pin(here: World) -> Iterator[Path]:
    """Where a stranger pins a link."""
    place = here.bpffs / "link"
    yield place
    place.unlink(missing_ok=True)


class Cgroup:
    """The hook of a new cgroup."""

    def __init__(self, world: World) -> None:
        self.dir = world.cgroup_dir(world.cgroup())
        self.hook = CgroupHook(CgroupId(self.dir.stat().st_ino))
        self.old, self.new = (world.bpffs / "pairs" / name for name in ("egress_old", "egress_new"))


def path_of(command: str) -> str:
    """Where a command's file is; guests run tests in a chroot, so that more comes before it."""
    return os.path.realpath(shutil.which(command) or command)


def id_of(pin: Path) -> int:
    fd = libbpf.obj_get(str(pin))
    try:
        return info.program_info(fd).id
    finally:
        os.close(fd)


def stranger(*words: object, cgroup: Path | None = None) -> str:
    """Run another process that does it."""
    where = ["in", str(cgroup)] if cgroup else []
    return run(sys.executable, "-m", "tests.lab.stranger", *where, *map(str, words), cwd=REPO).strip()


def one(watch: sentinel.Running) -> Touch:
    """The one change that was told."""
    (touch,) = watch.read(100)
    assert watch.read(100) == []
    return touch


def facts(touch: Touch) -> tuple[Operation, int, int | None, int | None]:
    """What was done: operation, link id, ids of the programs before and after."""
    before, after = (each.id if each else None for each in (touch.before, touch.after))
    return touch.operation, touch.link_id, before, after


def test_where_it_cannot_run_it_says_why(here: World) -> None:
    opened = sentinel.open(here.bpffs)
    try:
        if kernel_takes_tracing_programs():
            assert (opened.sees, opened.lacks) == (frozenset(Operation), "")
            return
        assert "EPERM" in opened.lacks
        assert "CAP_PERFMON" in opened.lacks
        assert (opened.sees, opened.fd) == (frozenset(), -1)
        assert not (here.bpffs / "_sentinel").exists()
        opened.follow(SlotHook(1))
        opened.unfollow(SlotHook(1))
        assert (opened.followed(), opened.read(10), opened.lost()) == (frozenset(), [], 0)
    finally:
        opened.close()
        sentinel_parts.unpin(here.bpffs / "_sentinel")


def test_in_another_pid_namespace_it_does_not_begin(here: World) -> None:
    told = run(
        *("unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c"),
        "import sys, pathlib; from bpflinkd.kernel import sentinel; "
        "print(sentinel.open(pathlib.Path(sys.argv[1])).lacks)",
        here.bpffs,
        cwd=REPO,
    )
    assert "not in the first pid namespace" in told
    assert not (here.bpffs / "_sentinel").exists()


def test_without_btf_it_does_not_begin(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentinel, "_BTF", here.dir / "vmlinux")
    assert "CONFIG_DEBUG_INFO_BTF" in sentinel.open(here.bpffs).lacks


def test_switched_off_it_leaves_nothing(here: World) -> None:
    sentinel.open(here.bpffs).close()
    opened = sentinel.off(here.bpffs)
    assert "switched off" in opened.lacks
    assert not (here.bpffs / "_sentinel").exists()


def test_netlink_attach_and_off(watch: sentinel.Running, here: World, xdp: Xdp) -> None:
    watch.follow(xdp.hook)
    run("ip", "link", "set", xdp.name, "xdpgeneric", "pinned", xdp.old)
    touch = one(watch)
    assert facts(touch) == (Operation.XDP_INSTALL, 0, None, id_of(xdp.old))
    assert touch.after is not None
    assert (touch.after.name, touch.after.type) == ("xdp_old", 6)
    assert (touch.hook, touch.dying, touch.by.comm) == (xdp.hook, False, "ip")
    assert touch.by.executable.endswith(path_of("ip"))
    run("ip", "link", "set", xdp.name, "xdpgeneric", "off")
    assert facts(one(watch)) == (Operation.XDP_INSTALL, 0, id_of(xdp.old), None)


def test_xdp_loader_load_and_unload(watch: sentinel.Running, here: World, xdp: Xdp) -> None:
    watch.follow(xdp.hook)
    run("xdp-loader", "load", "-m", "skb", xdp.name, object_of("single"))
    loaded = one(watch)
    assert (loaded.operation, loaded.link_id, loaded.before) == (Operation.XDP_INSTALL, 0, None)
    assert loaded.after is not None
    assert loaded.by.executable.endswith(path_of("xdp-loader"))
    run("xdp-loader", "unload", xdp.name, "--all")
    unloaded = one(watch)
    assert (unloaded.before, unloaded.after) == (loaded.after, None)


def test_xdp_link_create_update_detach(watch: sentinel.Running, here: World, xdp: Xdp, pin: Path) -> None:
    watch.follow(xdp.hook)
    link = int(stranger("create_xdp", xdp.old, xdp.ifindex, pin))
    assert facts(one(watch)) == (Operation.XDP_INSTALL, 0, None, id_of(xdp.old))
    stranger("update", pin, xdp.new, xdp.old)
    assert facts(one(watch)) == (Operation.XDP_INSTALL, link, id_of(xdp.old), id_of(xdp.new))
    run("bpftool", "link", "detach", "id", str(link))
    assert facts(one(watch)) == (Operation.XDP_INSTALL, link, id_of(xdp.new), None)
    pin.unlink()
    assert watch.read(100) == []


def test_interface_deleted(watch: sentinel.Running, here: World, xdp: Xdp, pin: Path) -> None:
    link = int(stranger("create_xdp", xdp.old, xdp.ifindex, pin))
    watch.follow(xdp.hook)
    run("ip", "link", "del", "d0")
    touch = one(watch)
    assert facts(touch) == (Operation.XDP_INSTALL, link, id_of(xdp.old), None)
    assert touch.dying


def test_cgroup_attach_and_detach_without_a_link(watch: sentinel.Running, here: World) -> None:
    cgroup = Cgroup(here)
    watch.follow(cgroup.hook)
    run("bpftool", "cgroup", "attach", cgroup.dir, "egress", "pinned", cgroup.old, "multi")
    touch = one(watch)
    assert facts(touch) == (Operation.CGROUP_ATTACH, 0, None, id_of(cgroup.old))
    assert (touch.hook, touch.attach_type, touch.by.comm) == (cgroup.hook, EGRESS, "bpftool")
    run("bpftool", "cgroup", "detach", cgroup.dir, "egress", "pinned", cgroup.old)
    touch = one(watch)
    assert facts(touch) == (Operation.CGROUP_DETACH, 0, id_of(cgroup.old), None)
    assert touch.attach_type == EGRESS


def test_cgroup_link_create_update_detach(watch: sentinel.Running, here: World, pin: Path) -> None:
    cgroup = Cgroup(here)
    watch.follow(cgroup.hook)
    link = int(stranger("create_cgroup", cgroup.old, cgroup.dir, EGRESS, pin))
    assert facts(one(watch)) == (Operation.CGROUP_ATTACH, 0, None, id_of(cgroup.old))
    stranger("update", pin, cgroup.new, cgroup.old)
    touch = one(watch)
    assert facts(touch) == (Operation.CGROUP_REPLACE, link, id_of(cgroup.old), id_of(cgroup.new))
    assert touch.attach_type == EGRESS
    run("bpftool", "link", "detach", "id", str(link))
    assert facts(one(watch)) == (Operation.CGROUP_DETACH, link, id_of(cgroup.new), None)
    pin.unlink()
    assert watch.read(100) == []


def test_cgroup_removed(watch: sentinel.Running, here: World) -> None:
    cgroup = Cgroup(here)
    watch.follow(cgroup.hook)
    cgroup.dir.rmdir()
    # By a worker of the kernel, when it comes to it.
    until(lambda: bool(select.select([watch.fd], [], [], 0)[0]), "the cgroup is released")
    touch = one(watch)
    assert (touch.operation, touch.hook, touch.after) == (Operation.CGROUP_RELEASE, cgroup.hook, None)
    assert touch.by.executable == ""


def test_slot_filled_and_emptied(watch: sentinel.Running, here: World, xdp: Xdp) -> None:
    pin = here.bpffs / "slot"
    run(*f"bpftool map create {pin} type prog_array key 4 value 4 entries 1 name slot".split())
    fd = libbpf.obj_get(str(pin))
    try:
        hook = SlotHook(info.map_info(fd).id)
        watch.follow(hook)
        run("bpftool", "map", "update", "pinned", pin, "key", *"0000", "value", "pinned", xdp.new)
        touch = one(watch)
        assert facts(touch) == (Operation.SLOT_UPDATE, 0, None, id_of(xdp.new))
        assert touch.hook == hook
        run("bpftool", "map", "delete", "pinned", pin, "key", *"0000")
        assert facts(one(watch)) == (Operation.SLOT_DELETE, 0, None, None)
    finally:
        os.close(fd)
        pin.unlink()


def test_the_culprit_is_known_when_it_is_gone(watch: sentinel.Running, here: World, pin: Path) -> None:
    cgroup, home = Cgroup(here), Cgroup(here)
    inner = home.dir / "named\twith a tab"
    inner.mkdir()
    watch.follow(cgroup.hook)
    stranger("create_cgroup", cgroup.old, cgroup.dir, EGRESS, pin, cgroup=inner)
    by = one(watch).by
    assert by.cgroup == f"/{home.dir.name}/named?with a tab"
    assert by.executable.endswith(path_of(sys.executable))
    assert (by.uid, by.pid, by.pid != os.getpid()) == (0, by.thread, True)
    inner.rmdir()


def test_a_path_that_is_too_long_is_told_as_cut(watch: sentinel.Running, here: World, pin: Path) -> None:
    """What is missing is its beginning, so that no unit can be read from what the culprit named itself."""
    cgroup, home = Cgroup(here), Cgroup(here)
    inner = home.dir
    for _ in range(6):
        inner /= f"ssh.service{'x' * 200}"
        inner.mkdir()
    (inner / "ssh.service").mkdir()
    watch.follow(cgroup.hook)
    stranger("create_cgroup", cgroup.old, cgroup.dir, EGRESS, pin, cgroup=inner / "ssh.service")
    by = one(watch).by
    assert by.cgroup.startswith(".../ssh.servicexxx")
    assert by.cgroup.endswith("/ssh.service")
    assert by.unit == ""


def test_what_we_do_and_what_fails_and_what_is_not_followed_is_not_told(
    watch: sentinel.Running, here: World, xdp: Xdp, pin: Path
) -> None:
    cgroup = Cgroup(here)
    watch.follow(cgroup.hook)
    # Ours.
    program, other = (libbpf.obj_get(str(each)) for each in (cgroup.old, cgroup.new))
    directory = os.open(cgroup.dir, os.O_RDONLY)
    link = libbpf.link_create(program, directory, EGRESS)
    libbpf.link_update(link, other, old_prog_fd=program)
    libbpf.obj_pin(link, str(pin))
    # A stranger's that fails, and one on a hook that is followed no longer or not yet.
    stranger("fail_to_update", pin, cgroup.old)
    run("ip", "link", "set", xdp.name, "xdpgeneric", "pinned", xdp.old)
    run("ip", "link", "set", xdp.name, "xdpgeneric", "off")
    assert watch.followed() == {cgroup.hook}
    watch.unfollow(cgroup.hook)
    watch.unfollow(cgroup.hook)
    stranger("update", pin, cgroup.old, cgroup.new)
    assert (watch.read(100), watch.lost(), watch.followed()) == ([], 0, frozenset())
    libbpf.link_detach(link)
    for fd in (link, directory, program, other):
        os.close(fd)
    pin.unlink()
    assert watch.read(100) == []


def test_the_same_ifindex_elsewhere_is_another_hook(watch: sentinel.Running, here: World) -> None:
    with World() as other:
        ifindex = 4000
        for world in (here, other):
            world.ip("link", "add", "same", "index", str(ifindex), "type", "dummy")
        watch.follow(XdpHook(IfIndex(ifindex)))
        pin = here.bpffs / "pairs" / "xdp_old"
        run(*other.inside("ip", "link", "set", "same", "xdpgeneric", "pinned", pin))
        assert watch.read(100) == []
        run(*here.inside("ip", "link", "set", "same", "xdpgeneric", "pinned", pin))
        assert one(watch).hook == XdpHook(IfIndex(ifindex))
        here.ip("link", "del", "same")


def test_ten_thousand_changes_are_all_told_in_order(watch: sentinel.Running, here: World, pin: Path) -> None:
    cgroup = Cgroup(here)
    stranger("create_cgroup", cgroup.old, cgroup.dir, EGRESS, pin)
    watch.follow(cgroup.hook)
    stranger("swap_often", pin, cgroup.old, cgroup.new, 10_000)
    ids, told = (id_of(cgroup.old), id_of(cgroup.new)), []
    while touches := watch.read(700):
        assert len(touches) <= 700
        told += touches
    assert [touch.after and touch.after.id for touch in told] == [ids[(n + 1) % 2] for n in range(10_000)]
    assert [touch.at for touch in told] == sorted(touch.at for touch in told)
    assert (watch.lost(), watch.events) == (0, 10_000)


def test_what_finds_no_room_is_counted(watch: sentinel.Running, here: World, pin: Path) -> None:
    cgroup = Cgroup(here)
    stranger("create_cgroup", cgroup.old, cgroup.dir, EGRESS, pin)
    watch.follow(cgroup.hook)
    stranger("swap_often", pin, cgroup.old, cgroup.new, 30_000)
    told = 0
    while touches := watch.read(1000):
        told += len(touches)
    lost = watch.lost()
    assert told + lost == 30_000
    assert lost > 0
    assert watch.lost() == 0
    stranger("update", pin, cgroup.new, cgroup.old)
    one(watch)


DAEMON = """
import sys, time
from pathlib import Path
from bpflinkd.core.targets import *
from bpflinkd.kernel import sentinel
opened = sentinel.open(Path(sys.argv[1]))
opened.follow(CgroupHook(CgroupId(int(sys.argv[2]))))
print("ready", flush=True)
time.sleep(600)
"""


def pins(world: World) -> dict[str, int]:
    """What the sentinel is made of, by inode numbers."""
    return {pin.name: pin.stat().st_ino for pin in (world.bpffs / "_sentinel").iterdir()}


@pytest.fixture
def swapped(here: World) -> Iterator[tuple[Cgroup, Path]]:
    """A stranger's link on a cgroup of its own, that can be swapped."""
    cgroup, pin = Cgroup(here), here.bpffs / "swapped"
    stranger("create_cgroup", cgroup.old, cgroup.dir, EGRESS, pin)
    yield cgroup, pin
    pin.unlink()


def test_changes_after_a_kill_9_are_told_to_the_next(
    watch: sentinel.Running, here: World, swapped: tuple[Cgroup, Path]
) -> None:
    made, (cgroup, pin) = pins(here), swapped
    words = [sys.executable, "-c", DAEMON, str(here.bpffs), str(cgroup.hook.cgroup_id)]
    with subprocess.Popen(words, cwd=REPO, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "ready\n"
        daemon.kill()
    stranger("update", pin, cgroup.new, cgroup.old)
    with running(here) as again:
        assert pins(here) == made
        assert again.followed() == {cgroup.hook}
        assert one(again).operation == Operation.CGROUP_REPLACE


def test_after_a_close_the_same_process_is_a_stranger(
    here: World, clean: None, swapped: tuple[Cgroup, Path]
) -> None:
    cgroup, pin = swapped
    with running(here) as first:
        first.follow(cgroup.hook)
    libbpf_update(pin, cgroup.new, cgroup.old)
    with running(here) as again:
        touch = one(again)
        assert (touch.operation, touch.by.pid) == (Operation.CGROUP_REPLACE, os.getpid())
        libbpf_update(pin, cgroup.old, cgroup.new)
        assert again.read(100) == []


def libbpf_update(pin: Path, new: Path, old: Path) -> None:
    """What `stranger("update", ...)` does, by this process."""
    fds = [libbpf.obj_get(str(each)) for each in (pin, new, old)]
    libbpf.link_update(fds[0], fds[1], old_prog_fd=fds[2])
    for fd in fds:
        os.close(fd)


def test_another_daemon_of_our_process_id_does_not_pass_for_us(
    watch: sentinel.Running, swapped: tuple[Cgroup, Path]
) -> None:
    """Process ids are given out again: one that was started at another time is not the daemon."""
    cgroup, pin = swapped
    watch.follow(cgroup.hook)
    parts = watch._parts
    parts.configure(parts.config()._replace(started=parts.config().started - 1))
    libbpf_update(pin, cgroup.new, cgroup.old)
    assert one(watch).by.pid == os.getpid()


def test_one_of_another_build_is_replaced_and_what_it_recorded_told(
    here: World, clean: None, swapped: tuple[Cgroup, Path]
) -> None:
    cgroup, pin = swapped
    with running(here) as first:
        first.follow(cgroup.hook)
        made = pins(here)
        first._parts.configure(first._parts.config()._replace(build=1))
        stranger("swap_often", pin, cgroup.old, cgroup.new, 100)
        first._parts.carry_lost(5)
    with running(here) as again:
        assert set(pins(here)) == set(made)
        assert not set(pins(here).values()) & set(made.values())
        assert again.lost() == 5
        again.follow(cgroup.hook)
        stranger("update", pin, cgroup.new, cgroup.old)
        assert len(again.read(1000)) == 101


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda home: (home / "config").unlink(), id="cut short when it was made"),
        pytest.param(lambda home: (home / "xdp-install").unlink(), id="a link is gone"),
        pytest.param(lambda home: (home / "hooks").rename(home / "lost"), id="maps exchanged"),
    ],
)
def test_one_that_is_not_whole_is_made_anew(here: World, clean: None, harm: Callable[[Path], None]) -> None:
    with running(here):
        made = pins(here)
    harm(here.bpffs / "_sentinel")
    with running(here) as again:
        assert set(pins(here)) == set(made)
        assert again.sees == frozenset(Operation)
