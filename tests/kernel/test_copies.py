"""Copies of live maps: every entry of each type that can be copied, and the live one is left as it was."""

import random
import struct
from collections.abc import Iterator

import pytest

from bpflinkd.core import attach_types
from bpflinkd.core.errors import LimitExceeded
from bpflinkd.kernel import copies, libbpf_maps, objects
from bpflinkd.kernel.libbpf_objects import possible_cpus
from bpflinkd.kernel.program import HeldProgram
from tests.lab.compiled import program

LO = 1
COUNTS = {"hash": 70_000, "array": 1000, "percpu_hash": 500, "percpu_array": 1000, "lru_hash": 300}
COUNTS |= {"lru_percpu": 300, "lpm_trie": 400}


def loaded() -> HeldProgram:
    return objects.load(program("kinds").read_bytes(), "kinds", attach_types.XDP)


def entries(held: HeldProgram) -> dict[str, dict[bytes, bytes]]:
    """All that its maps hold, key by key."""
    found: dict[str, dict[bytes, bytes]] = {}
    for (name, _), content in copies.read(held.fd).items():
        of_map = found.setdefault(name, {})
        for keys, values, count in content.chunks:
            size, wide = len(keys) // count, len(values) // count
            for at in range(count):
                of_map[keys[at * size :][:size]] = values[at * wide :][:wide]
    return found


@pytest.fixture
def live() -> Iterator[HeldProgram]:
    """A program whose maps hold much, nobody else's."""
    generator = random.Random(32)
    held = loaded()
    for name, count in COUNTS.items():
        wide = 8 * possible_cpus() if "percpu" in name else 4
        for number in range(count):
            key = struct.pack("=I", number)
            if name == "lpm_trie":
                key = struct.pack("=I", 32) + struct.pack(">I", number << 8)
            # The kernel keeps four bytes for each processor, and zeros the rest of eight.
            value = b"".join(generator.randbytes(4) + bytes(4) for _ in range(wide // 8))
            libbpf_maps.map_put(held.map_fds[name], key, value or generator.randbytes(4))
    for name in ("devmap", "devmap_hash"):
        for number in (0, 7):
            libbpf_maps.map_put(held.map_fds[name], struct.pack("=I", number), struct.pack("=I", LO))
    yield held
    held.close()


def test_every_entry_is_copied_and_the_live_ones_stay(live: HeldProgram) -> None:
    before = entries(live)
    assert {name: len(found) for name, found in before.items()} == {
        **COUNTS,
        "devmap": 2,
        "devmap_hash": 2,
        "prog_array": 0,
    }
    copy = loaded()
    filled, kept = copies.fill(copy.fd, copies.read(live.fd), "new", sections=False)
    assert set(filled) == {*COUNTS, "devmap", "devmap_hash"}
    assert [(each.whose, each.name) for each in kept] == [("new", "prog_array")]
    assert "cannot be copied" in kept[0].why
    assert entries(copy) == before == entries(live)
    copy.close()


def test_what_is_too_much_is_refused(live: HeldProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "MOST_BYTES", 100_000)
    with pytest.raises(LimitExceeded, match="too much to be copied"):
        copies.read(live.fd)
