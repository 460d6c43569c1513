"""Reading ring buffers: each record once, in order, a part at a time. Programs run by BPF_PROG_TEST_RUN."""

import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bpflinkd.kernel import libbpf
from bpflinkd.kernel.ring import Ring
from tests.lab import World
from tests.lab.compiled import program as object_of
from tests.lab.world import run

Write = Callable[[int], None]


def written(world: World, name: str) -> tuple[int, Write]:
    """A ring buffer's fd, and what writes so many numbers to it."""
    home = world.bpffs / name
    run("bpftool", "prog", "loadall", object_of("ring"), home, "pinmaps", home.with_name(f"{name}_maps"))
    packet = world.dir / "packet"
    packet.write_bytes(bytes(64))

    def write(count: int) -> None:
        run("bpftool", "prog", "run", "pinned", home / "write", "data_in", packet, "repeat", str(count))

    return libbpf.obj_get(str(home.with_name(f"{name}_maps") / "records")), write


@pytest.fixture
def first(world: World) -> Iterator[tuple[int, Write]]:
    made = written(world, "first")
    yield made
    os.close(made[0])


@pytest.fixture
def second(world: World) -> Iterator[tuple[int, Write]]:
    made = written(world, "second")
    yield made
    os.close(made[0])


def numbers(records: list[bytes]) -> list[int]:
    return [int.from_bytes(record, "little") for record in records]


def readable(ring: Ring) -> bool:
    return bool(select.select([ring.fd], [], [], 0)[0])


def test_a_part_at_a_time_and_none_twice(first: tuple[int, Write]) -> None:
    fd, write = first
    ring = Ring([fd])
    assert (ring.read(10), readable(ring)) == ([], False)
    write(1000)
    assert readable(ring)
    assert ring.read(0) == []
    parts = [numbers(ring.read(most)) for most in (1, 1, 300, 600)]
    assert readable(ring)
    parts.append(numbers(ring.read(600)))
    assert [len(part) for part in parts] == [1, 1, 300, 600, 98]
    assert [n for part in parts for n in part] == list(range(1000))
    assert (ring.read(10), readable(ring)) == ([], False)
    ring.close()


def test_what_one_reader_left_the_next_finds(first: tuple[int, Write]) -> None:
    fd, write = first
    write(10)
    ring = Ring([fd])
    assert numbers(ring.read(4)) == [0, 1, 2, 3]
    ring.close()
    ring = Ring([fd])
    write(2)
    assert numbers(ring.read(100)) == list(range(4, 12))
    ring.close()


def test_more_than_fits_leaves_room_again_when_read(first: tuple[int, Write]) -> None:
    fd, write = first
    ring = Ring([fd])
    write(10_000)
    found = numbers(ring.read(10_000))
    assert found == list(range(len(found)))
    assert 0 < len(found) < 10_000
    write(1)
    assert numbers(ring.read(10)) == [10_000]
    ring.close()


def test_two_are_read_in_their_order(first: tuple[int, Write], second: tuple[int, Write]) -> None:
    second[1](3)
    first[1](2)
    ring = Ring([first[0], second[0]])
    assert numbers(ring.read(100)) == [0, 1, 0, 1, 2]
    second[1](1)
    assert readable(ring)
    assert numbers(ring.read(100)) == [3]
    ring.close()


def test_what_is_no_ring_buffer_is_refused(world: World, first: tuple[int, Write]) -> None:
    place = Path(world.bpffs / "array")
    run(*f"bpftool map create {place} type array key 4 value 8 entries 1 name a".split())
    fd = libbpf.obj_get(str(place))
    for fds in ([fd], [first[0], fd]):
        with pytest.raises(OSError, match="ring_buffer__"):
            Ring(fds)
    os.close(fd)
