"""Pins that others took or replaced are put back; what they pinned instead is not destroyed."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bpflinkd.core import attach_types, ports
from bpflinkd.core.errors import StorageFailed
from bpflinkd.core.ids import LinkId
from bpflinkd.core.ports import PinTrouble, Promised
from bpflinkd.core.sources import StoredObject
from bpflinkd.core.targets import KprobeHook
from bpflinkd.kernel import dispatcher, libbpf, objects, standing
from bpflinkd.kernel.bpffs import PinDirectory
from bpflinkd.kernel.dispatched import DispatchedLink
from bpflinkd.kernel.link import HeldLink
from bpflinkd.kernel.program import HeldProgram
from bpflinkd.kernel.standing import Found
from bpflinkd.systemd import FdStore
from tests.lab import World
from tests.lab.compiled import program
from tests.lab.world import run

_FLOW_DISSECTOR = 17
"""`enum bpf_attach_type`."""
PINS = ("link", "program", "maps/counters")


@dataclass
class Pinned:
    """A link on a cgroup, pinned, and one that is a stranger's."""

    pins: PinDirectory
    home: Path
    link: HeldLink
    program: HeldProgram
    stranger_link: HeldLink
    stranger_program: HeldProgram

    def mend(self) -> tuple[PinTrouble, ...]:
        return self.pins.mend("edge", self.link, self.program)

    def good(self) -> dict[str, Found]:
        """What is pinned where, by the path in the link's directory."""
        return {str(path.relative_to(self.home)): found for path, found in pinned_in(self.home).items()}

    def aside(self) -> dict[str, Found]:
        """The same for what was moved aside."""
        place = self.pins.root / "_aside"
        return {str(path.relative_to(place)): found for path, found in pinned_in(place).items()}


def pinned_in(directory: Path) -> dict[Path, Found]:
    """Everything in a directory but directories."""
    found = {path: standing.look(path) for path in directory.rglob("*")}
    return {path: one for path, one in found.items() if one is not None and one.kind != "directory"}


def attached(world: World, name: str) -> tuple[HeldProgram, HeldLink]:
    """A program of the tests on a cgroup of its own."""
    attach_type = attach_types.by_name("egress")
    loaded = objects.load(program("count").read_bytes(), name, attach_type)
    cgroup = os.open(world.cgroup_dir(world.cgroup()), os.O_RDONLY)
    link = HeldLink(libbpf.link_create(loaded.fd, cgroup, attach_type.number))
    os.close(cgroup)
    return loaded, link


@pytest.fixture
def held(world: World) -> Iterator[Pinned]:
    pins = PinDirectory(world.bpffs / "pins", FdStore())
    loaded, link = attached(world, "egress_count")
    pins.stage_program("edge", loaded)
    pins.stage_link("edge", link)
    pins.promote("edge")
    stranger_program, stranger_link = attached(world, "egress_deny")
    yield Pinned(pins, world.bpffs / "pins" / "edge", link, loaded, stranger_link, stranger_program)
    for one in (loaded, link, stranger_program, stranger_link):
        one.close()


def test_what_is_as_it_should_be_is_left_alone(held: Pinned) -> None:
    before = {path: os.lstat(path).st_ino for path in pinned_in(held.home)}
    assert set(held.good()) == set(PINS)
    assert held.mend() == ()
    assert {path: os.lstat(path).st_ino for path in pinned_in(held.home)} == before


@pytest.mark.parametrize(
    ("damage", "gone"),
    [
        *(pytest.param(lambda home, pin=pin: (home / pin).unlink(), {pin}, id=f"rm {pin}") for pin in PINS),
        pytest.param(lambda home: (home / "link").rename(home / "x"), {"link"}, id="mv within"),
        pytest.param(lambda home: (home / "link").rename(home / "maps" / "x"), {"link"}, id="mv to maps"),
        pytest.param(lambda home: (home / "program").rename(home.parent / "x"), {"program"}, id="mv out"),
        pytest.param(lambda home: run("rm", "-r", home / "maps"), {"maps/counters"}, id="rm -r maps"),
        pytest.param(lambda home: run("rm", "-r", home), set(PINS), id="rm -r"),
        pytest.param(lambda home: run("rm", "-r", home.parent), set(PINS), id="rm -r of all links"),
        pytest.param(lambda home: home.rename(home.parent / "x"), set(PINS), id="mv of the directory"),
        pytest.param(lambda home: home.parent.rename(f"{home.parent}2"), set(PINS), id="mv of all links"),
    ],
)
def test_what_is_gone_is_put_back(held: Pinned, damage: Callable[[Path], object], gone: set[str]) -> None:
    before = held.good()
    damage(held.home)
    troubles = held.mend()
    assert {trouble.pin for trouble in troubles} == {str(held.home / pin) for pin in gone}
    assert {(t.replaced, t.by, t.aside, t.failure) for t in troubles} == {(False, "", "", "")}
    assert {pin: held.good()[pin] for pin in PINS} == before
    assert held.mend() == ()


def by_link(held: Pinned, path: Path) -> None:
    libbpf.obj_pin(held.stranger_link.fd, str(path))


def by_program(held: Pinned, path: Path) -> None:
    libbpf.obj_pin(held.stranger_program.fd, str(path))


def by_map(held: Pinned, path: Path) -> None:
    """The map of the same name that belongs to the stranger's program."""
    libbpf.obj_pin(held.stranger_program.map_fds["counters"], str(path))


@pytest.mark.parametrize("pin", PINS)
@pytest.mark.parametrize("put", [by_link, by_program, by_map], ids=["a link", "a program", "a map"])
@pytest.mark.parametrize("over", [False, True], ids=["unlink and pin", "rename over"])
def test_a_strangers_object_in_our_place_is_moved_aside(
    held: Pinned, pin: str, put: Callable[[Pinned, Path], None], over: bool
) -> None:
    before, path = held.good(), held.home / pin
    if over:
        put(held, held.home / "x")
        (held.home / "x").rename(path)
    else:
        path.unlink()
        put(held, path)
    stranger = standing.look(path)
    assert stranger is not None
    (trouble,) = held.mend()
    assert (trouble.pin, trouble.replaced, trouble.failure) == (str(path), True, "")
    assert f"id {stranger.id}" in trouble.by
    assert standing.look(Path(trouble.aside)) == stranger
    assert held.good() == before
    assert held.mend() == ()


def test_the_same_object_is_kept_once_however_often_it_comes(held: Pinned) -> None:
    for _ in range(3):
        (held.home / "link").unlink()
        by_link(held, held.home / "link")
        assert len(held.mend()) == 1
    assert held.aside() == {f"link-{held.stranger_link.id}": Found("link", held.stranger_link.id)}


def test_another_object_of_that_name_aside_is_not_overwritten(held: Pinned) -> None:
    aside = held.pins.root / "_aside"
    aside.mkdir()
    by_program(held, aside / f"link-{held.stranger_link.id}")
    (held.home / "link").unlink()
    by_link(held, held.home / "link")
    assert held.mend()[0].aside == str(aside / f"link-{held.stranger_link.id}-2")
    assert len(held.aside()) == 2


@pytest.mark.parametrize("pin", [*PINS, "maps", ""])
def test_a_directory_or_symbolic_link_in_our_place(held: Pinned, pin: str) -> None:
    before, path = held.good(), held.home / pin
    for kind in ("directory", "symlink", "to itself", "to ours", "object"):
        elsewhere = path.rename(held.pins.root / f"was_{kind.replace(' ', '_')}")
        match kind:
            case "directory":
                path.mkdir()
                by_program(held, path / "inside")
            case "symlink":
                path.symlink_to("/etc")
            case "to itself":
                path.symlink_to(path)
            case "to ours":
                path.symlink_to(elsewhere)
            case _:
                by_program(held, path)
        troubles = held.mend()
        assert troubles or (pin in {"", "maps"} and kind == "directory")
        assert not any(trouble.failure for trouble in troubles)
        now = held.good()
        assert {name: now.get(name) for name in PINS} == before, kind
        assert held.mend() == ()


def test_a_hard_link_to_ours_is_ours(held: Pinned) -> None:
    (held.home / "again").hardlink_to(held.home / "link")
    (held.home / "link").unlink()
    (held.home / "again").rename(held.home / "link")
    assert held.mend() == ()


def test_extra_pins_are_left_alone_until_the_link_is_removed(held: Pinned) -> None:
    by_program(held, held.home / "theirs")
    by_link(held, held.home / "maps" / "theirs")
    (held.home / "theirs_too" / "deep").mkdir(parents=True)
    (held.home / "sym").symlink_to("link")
    assert held.mend() == ()
    held.pins.remove("edge")
    assert not held.home.exists()
    assert {found.kind for found in held.aside().values()} == {"program", "link"}
    assert (held.pins.root / "_aside").is_dir()


def test_extra_maps_survive_a_new_program(held: Pinned, world: World) -> None:
    by_link(held, held.home / "maps" / "theirs")
    after, other = attached(world, "egress_count")
    held.pins.stage_program("edge", after)
    held.pins.promote("edge")
    assert list(held.aside().values()) == [Found("link", held.stranger_link.id)]
    assert held.pins.mend("edge", held.link, after) == ()
    assert set(held.good()) == set(PINS)
    after.close()
    other.close()


@pytest.mark.parametrize("name", ["next_link", "next_program", "next_slot", "next_maps"])
def test_a_stranger_under_a_staged_name_is_in_nobodys_way(held: Pinned, world: World, name: str) -> None:
    """A start would take it for ours."""
    by_link(held, held.home / name)
    assert held.mend() == ()
    assert set(held.good()) == set(PINS)
    assert list(held.aside().values()) == [Found("link", held.stranger_link.id)]


@pytest.mark.parametrize("name", ["next_link", "next_program", "next_maps"])
def test_a_stranger_under_a_staged_name_does_not_stop_a_change(held: Pinned, world: World, name: str) -> None:
    by_link(held, held.home / name)
    after, link = attached(world, "egress_count")
    held.pins.stage_program("edge", after)
    held.pins.stage_link("edge", link)
    held.pins.promote("edge")
    assert held.pins.mend("edge", link, after) == ()
    assert set(held.good()) == set(PINS)
    after.close()
    link.close()


def test_a_hard_link_of_ours_under_a_staged_name(held: Pinned) -> None:
    (held.home / "next_link").hardlink_to(held.home / "link")
    assert held.mend() == ()
    assert set(held.good()) == set(PINS)


def test_a_change_whose_pins_did_not_move_is_finished(held: Pinned, world: World) -> None:
    after, link = attached(world, "egress_count")
    held.pins.stage_program("edge", after)
    assert held.pins.mend("edge", held.link, after) == ()
    assert held.good()["program"] == Found("program", after.info.id)
    assert set(held.good()) == set(PINS)
    assert held.aside() == {}
    after.close()
    link.close()


def test_directories_in_the_way_of_a_change_do_not_stop_it(held: Pinned, world: World) -> None:
    for pin in ("link", "program"):
        (held.home / pin).unlink()
        (held.home / pin).mkdir()
    (held.home / "maps").rename(held.home / "x")
    by_link(held, held.home / "maps")
    after, link = attached(world, "egress_count")
    held.pins.stage_program("edge", after)
    held.pins.stage_link("edge", link)
    held.pins.promote("edge")
    assert held.pins.mend("edge", link, after) == ()
    after.close()
    link.close()


def test_a_map_that_only_its_pin_kept_is_put_back(world: World) -> None:
    """The program does not use it."""
    pins = PinDirectory(world.bpffs / "pins", FdStore())
    loaded, link = attached(world, "egress_deny")
    assert loaded.maps == ("counters",)
    pins.stage_program("edge", loaded)
    pins.promote("edge")
    counters = world.bpffs / "pins" / "edge" / "maps" / "counters"
    before = standing.look(counters)
    counters.unlink()
    time.sleep(0.2)  # the kernel frees maps later
    assert [trouble.failure for trouble in pins.mend("edge", None, loaded)] == [""]
    assert standing.look(counters) == before
    loaded.close()
    link.close()


def test_the_slot_of_a_kprobe(held: Pinned, world: World) -> None:
    """Its pin is what keeps a kprobe's program when the daemon ends."""
    made = dispatcher.load(attach_types.KPROBE, KprobeHook())
    # A link on a network namespace stands in for one on a probe: not every host has kprobes.
    flow = world.bpffs / "flow"
    run("bpftool", "prog", "load", program("flow"), flow, "type", "flow_dissector")
    namespace, flow_fd = os.open(f"/run/netns/{world.netns}", os.O_RDONLY), libbpf.obj_get(str(flow))
    link_fd = libbpf.link_create(flow_fd, namespace, _FLOW_DISSECTOR)
    link = DispatchedLink(link_fd, made.slot, made.misses, KprobeHook())
    held.pins.stage_link("probe", link)
    held.pins.promote("probe")
    home = held.pins.root / "probe"
    ours = Found("map", link.slot_hook.map_id)
    assert pinned_in(home) == {home / "slot": ours, home / "link": Found("link", link.id)}
    (home / "slot").unlink()
    assert [trouble.replaced for trouble in held.pins.mend("probe", link, None)] == [False]
    (home / "slot").unlink()
    by_map(held, home / "slot")
    assert [trouble.replaced for trouble in held.pins.mend("probe", link, None)] == [True]
    assert standing.look(home / "slot") == ours
    held.pins.remove("probe")
    assert not home.exists()
    for fd in (made.fd, namespace, flow_fd):
        os.close(fd)
    link.close()


def test_a_link_that_waits_has_a_program_and_no_link(held: Pinned) -> None:
    (held.home / "link").unlink()
    assert held.pins.mend("edge", None, held.program) == ()
    assert held.pins.mend("edge", None, None) == ()


def test_no_bpffs_is_there_any_more(held: Pinned, world: World) -> None:
    run("umount", "--lazy", world.bpffs)
    with pytest.raises(StorageFailed, match="is not on a bpffs"):
        held.mend()
    run("mount", "-t", "bpf", "bpf", world.bpffs)
    assert len(held.mend()) == len(PINS)
    assert set(held.good()) == set(PINS)


def test_what_cannot_be_put_back_says_why(held: Pinned, world: World) -> None:
    (held.home / "link").unlink()
    (held.home / "program").unlink()
    run("mount", "-o", "remount,ro", world.bpffs)
    troubles = held.mend()
    assert {trouble.failure for trouble in troubles} == {"Read-only file system"}
    run("mount", "-o", "remount,rw", world.bpffs)
    assert [trouble.failure for trouble in held.mend()] == ["", ""]


def test_a_mount_over_our_directory(held: Pinned) -> None:
    run("mount", "-t", "tmpfs", "tmpfs", held.home)
    assert all(trouble.failure for trouble in held.mend())
    run("umount", held.home)
    assert held.mend() == ()


def test_the_lock_goes_with_the_directory(held: Pinned) -> None:
    run("rm", "-r", held.pins.root)
    held.mend()
    with pytest.raises(StorageFailed, match="another bpflinkd uses"):
        PinDirectory(held.pins.root, FdStore())


def test_nothing_is_left_open(held: Pinned) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = opened()
    for damage in (held.home / "link", held.home / "maps" / "counters"):
        damage.unlink()
        by_link(held, damage)
        held.mend()
    held.mend()
    assert opened() == before
    held.pins.remove("edge")
    assert opened() == before


@dataclass
class Start:
    """A daemon that starts anew opens what is pinned."""

    held: Pinned
    link_id: LinkId | None = None
    """As the records have it."""

    def open(self) -> ports.Pinned:
        os.close(self.held.pins._lock)
        self.held.pins = PinDirectory(self.held.pins.root, FdStore())
        source = StoredObject(sha256="0" * 64, program="egress_count")
        found = self.held.pins.open(
            "edge", source, Promised(frozenset({self.held.program.info.id}), self.link_id)
        )
        for one in (found.link, found.program, found.staged_link, found.staged_program):
            if one is not None:
                one.close()
        return found


@pytest.mark.parametrize(
    ("pin", "put"),
    [
        pytest.param("link", by_program, id="a program for the link"),
        pytest.param("program", by_program, id="another program"),
        pytest.param("program", by_link, id="a link for the program"),
        pytest.param("maps/counters", by_program, id="a program for a map"),
        pytest.param("maps/counters", by_map, id="another map"),
    ],
)
def test_a_start_puts_aside_what_cannot_be_ours(
    held: Pinned, pin: str, put: Callable[[Pinned, Path], None]
) -> None:
    before = held.good()
    (held.home / pin).unlink()
    put(held, held.home / pin)
    found = Start(held).open()
    assert (found.link is None) == (pin == "link")
    assert (found.program is None) == (pin == "program")
    assert len(held.aside()) == 1
    if found.program is not None:
        assert found.program.maps == ("counters",)
    now = held.good()
    assert now == {name: one for name, one in before.items() if name != pin or pin == "maps/counters"}


def test_a_start_puts_aside_a_link_that_is_not_the_recorded_one(held: Pinned) -> None:
    ours, stranger = held.link.id, held.stranger_link.id
    (held.home / "link").unlink()
    by_link(held, held.home / "link")
    assert Start(held, ours).open().link is None
    assert list(held.aside().values()) == [Found("link", stranger)]


@pytest.mark.parametrize("known", [True, False])
def test_a_start_takes_a_link_of_ours_whichever_is_recorded(held: Pinned, known: bool) -> None:
    """It runs what was promised: that it is another one could not be recorded."""
    found = Start(held, LinkId(held.stranger_link.id) if known else None).open()
    assert found.link is not None
    assert held.aside() == {}


def test_a_start_puts_back_maps_that_the_program_uses(held: Pinned) -> None:
    before = held.good()
    run("rm", "-r", held.home / "maps")
    assert Start(held).open().program is not None
    assert held.good() == before


def test_a_start_takes_the_program_that_runs_for_a_strangers_as_before(held: Pinned) -> None:
    """Somebody swapped the program behind our link: the pin is ours, what runs is not."""
    libbpf.link_update(held.link.fd, held.stranger_program.fd, old_prog_fd=held.program.fd)
    found = Start(held).open()
    assert found.program is not None
    assert held.aside() == {}
