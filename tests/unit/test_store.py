"""The real SQLite, in a directory of the test."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bpflinkd.core import attach_types
from bpflinkd.core.errors import StorageFailed
from bpflinkd.core.model import (
    Builtin,
    PinnedProgram,
    ProgId,
    ProgramById,
    ProgramFd,
    Record,
    Source,
    StoredObject,
)
from bpflinkd.core.ports import Stored
from bpflinkd.core.targets import (
    CgroupHook,
    CgroupId,
    CgroupTarget,
    Hook,
    KprobeHook,
    KprobeMultiHook,
    KprobeMultiTarget,
    KprobeTarget,
    Target,
    XdpMode,
    XdpTarget,
)
from bpflinkd.store.sqlite import KEPT, SqliteStore
from tests.unit.fakes import record

SHA = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(tmp_path)
    yield opened
    opened.close()


def reopened(store: SqliteStore) -> tuple[Stored, ...]:
    """What another process would read."""
    store.close()
    again = SqliteStore(store.path.parent)
    store.__dict__.update(again.__dict__)
    return store.load()


def save(store: SqliteStore, made: Record, image: bytes | None = None) -> None:
    store.intend(made, image)
    store.commit(made)


def with_source(made: Record, source: Source) -> Record:
    return replace(made, generation=replace(made.generation, source=source))


@pytest.mark.parametrize(
    "target",
    [
        XdpTarget(interface="eth0", mode=XdpMode.GENERIC),
        *(CgroupTarget(path="/a b", attach_type=a) for a in attach_types.CGROUP_ATTACH_TYPES),
        KprobeTarget(symbol="f.isra.0", offset=16, cookie=2**64 - 1),
        KprobeTarget(symbol="f", at_return=True),
        KprobeMultiTarget(pattern="tcp_[a-c]*", at_return=True, cookie=7),
    ],
    ids=str,
)
def test_targets_come_back(store: SqliteStore, target: Target) -> None:
    hooks: dict[type, Hook] = {
        CgroupTarget: CgroupHook(CgroupId(2**63)),
        KprobeTarget: KprobeHook("dummy", 2**63),
        KprobeMultiTarget: KprobeMultiHook(3),
    }
    hook = hooks.get(type(target))
    made = replace(record(), target=target, hook=hook)
    save(store, made)
    assert reopened(store) == (Stored(record=made, intent=None, ending=False),)


@pytest.mark.parametrize(
    "source",
    [
        StoredObject(sha256=SHA, program="a"),
        PinnedProgram(path="/sys/fs/bpf/x"),
        ProgramById(id=ProgId(3)),
        ProgramFd(),
        Builtin(name="pass"),
    ],
    ids=str,
)
def test_sources_come_back(store: SqliteStore, source: Source) -> None:
    made = with_source(record(), source)
    save(store, made, b"elf")
    assert reopened(store)[0].record == made
    assert store.image(SHA) == (b"elf" if isinstance(source, StoredObject) else None)


def test_an_intent_is_told_from_a_record(store: SqliteStore) -> None:
    store.intend(record(1), None)
    assert reopened(store) == (Stored(record=None, intent=record(1), ending=False),)
    store.commit(record(1))
    store.intend(record(2), None)
    assert reopened(store) == (Stored(record=record(1), intent=record(2), ending=False),)
    store.forget_intent("edge")
    assert reopened(store) == (Stored(record=record(1), intent=None, ending=False),)


def test_a_program_loaded_again_is_amended(store: SqliteStore) -> None:
    save(store, record(1))
    again = record(1, prog_id=99)
    store.amend(again)
    assert reopened(store)[0].record == again


def test_a_forgotten_first_intent_frees_the_name(store: SqliteStore) -> None:
    store.intend(with_source(record(1), StoredObject(sha256=SHA, program="a")), b"elf")
    store.forget_intent("edge")
    assert store.load() == ()
    assert store.image(SHA) is None
    save(store, record(1))


def test_an_ending_link_is_told_and_its_name_can_be_used_again(store: SqliteStore) -> None:
    save(store, record(1))
    store.mark_ending("edge")
    assert reopened(store)[0].ending
    save(store, record(1))
    assert not reopened(store)[0].ending


def test_history_is_bounded_and_objects_go_with_it(store: SqliteStore) -> None:
    save(store, with_source(record(1), StoredObject(sha256=SHA, program="a")), b"elf")
    for number in range(2, KEPT + 1):
        save(store, record(number))
    assert store.image(SHA) == b"elf"
    save(store, record(KEPT + 1))
    assert [g.number for g in store.history("edge")] == list(range(2, KEPT + 2))
    assert store.image(SHA) is None


def test_an_object_is_kept_while_any_link_needs_it(store: SqliteStore) -> None:
    source = StoredObject(sha256=SHA, program="a")
    save(store, with_source(record(1), source), b"elf")
    save(store, replace(with_source(record(1), source), name="other"), b"elf")
    store.remove("edge")
    assert store.image(SHA) == b"elf"
    store.remove("other")
    assert store.image(SHA) is None


def test_only_one_may_use_it(store: SqliteStore) -> None:
    with pytest.raises(StorageFailed, match="another bpflinkd uses"):
        SqliteStore(store.path.parent)


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    import sqlite3  # noqa: PLC0415

    with sqlite3.connect(tmp_path / "bpflinkd.sqlite") as db:
        db.execute("CREATE TABLE mine (x)")
    before = (tmp_path / "bpflinkd.sqlite").read_bytes()
    with pytest.raises(StorageFailed, match="another program's"):
        SqliteStore(tmp_path)
    assert (tmp_path / "bpflinkd.sqlite").read_bytes() == before


def test_the_file_is_private(store: SqliteStore) -> None:
    assert store.path.stat().st_mode & 0o777 == 0o600
