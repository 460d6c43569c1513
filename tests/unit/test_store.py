"""The real SQLite, in a directory of the test."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bpflinkd.core import attach_types
from bpflinkd.core.callers import Actor, Unit, User
from bpflinkd.core.errors import StorageFailed
from bpflinkd.core.ids import Micros, ProgId, UnixMicros
from bpflinkd.core.model import (
    Confinement,
    Hold,
    Lifetime,
    Origin,
    Outcome,
    Policy,
    Record,
    State,
    Told,
    Trial,
)
from bpflinkd.core.ports import Stored
from bpflinkd.core.sources import (
    Builtin,
    PinnedProgram,
    ProgramById,
    ProgramFd,
    Source,
    StoredObject,
    StoredSource,
)
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
from bpflinkd.store.schema import VERSION
from bpflinkd.store.sqlite import KEPT, SqliteStore
from tests.unit.fakes import LINK_ID, info, record

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
    store.commit(made, LINK_ID)


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
    assert reopened(store) == (Stored(record=made, intent=None, ending=False, link_id=LINK_ID),)


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
    store.commit(record(1), LINK_ID)
    store.intend(record(2), None)
    assert reopened(store) == (Stored(record=record(1), intent=record(2), ending=False, link_id=LINK_ID),)
    store.forget_intent("edge")
    assert reopened(store) == (Stored(record=record(1), intent=None, ending=False, link_id=LINK_ID),)


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


# Boots, and what is said of a link.

BOOT, NEXT_BOOT = "0c2e7f5a-boot", "9d1b0c3e-boot"


def test_ephemeral_links_end_with_the_boot_and_nothing_else_does(store: SqliteStore) -> None:
    assert store.begin_boot(BOOT) == frozenset()
    save(store, replace(record(), name="stays"))
    save(store, replace(record(), name="goes", lifetime=Lifetime.EPHEMERAL))
    assert len(reopened(store)) == 2
    assert store.begin_boot(BOOT) == frozenset()
    assert {item.latest.name for item in store.load()} == {"stays", "goes"}
    assert store.begin_boot(NEXT_BOOT) == {"goes"}
    (left,) = reopened(store)
    assert left.record is not None
    assert (left.record.name, left.record.hook) == ("stays", None)
    assert store.begin_boot(NEXT_BOOT) == frozenset()


def test_what_is_said_of_a_link_is_settled_without_a_generation(store: SqliteStore) -> None:
    save(store, record())
    origin = Origin(file="/etc/bpflinkd/links.d/a.toml", template="t", program="builtin pass")
    after = replace(
        record(), policy=Policy.YIELD, owner=User(uid=7), lifetime=Lifetime.EPHEMERAL, origin=origin
    )
    store.settle(after)
    (item,) = reopened(store)
    assert item.record == after


def test_who_and_why_and_how_are_kept(store: SqliteStore) -> None:
    by = Actor(uid=812, pid=4711, unit="tw-agent.service", exe="/usr/bin/tw-agent")
    made = replace(
        record().generation,
        by=by,
        message="adopted from bpf_link 7",
        confinement=Confinement(kernel_memory=True, maps=3, memory=4096),
    )
    hold = Hold(holder=":1.7", bus="ab", grace=Micros(5), fallback=Builtin(name="pass"))
    owner = Unit(name="tw-agent.service")
    before = replace(record(), owner=owner, generation=made, hold=hold, lifetime=Lifetime.OWNER)
    save(store, before)
    (item,) = reopened(store)
    assert item.record == before
    after = replace(before, hold=replace(hold, holder=":1.8"), owner=User(uid=5))
    store.settle(after)
    (item,) = reopened(store)
    assert item.record == after


def test_a_fallback_is_kept_as_long_as_the_link_may_need_it(store: SqliteStore) -> None:
    hold = Hold(holder=":1.7", bus="ab", grace=Micros(5), fallback=StoredObject(sha256=SHA, program="after"))
    made = replace(record(), hold=hold, lifetime=Lifetime.OWNER)
    store.intend(made, None, b"fallback")
    store.commit(made, LINK_ID)
    save(store, replace(made, generation=record(2, 2).generation))
    assert store.image(SHA) == b"fallback"
    store.remove(made.name)
    assert store.image(SHA) is None


def test_a_reboot_ends_what_lived_with_a_connection_unless_something_comes_after(
    store: SqliteStore,
) -> None:
    store.begin_boot(BOOT)
    hold = Hold(holder=":1.7", bus="ab", grace=Micros(5))
    save(store, replace(record(), name="goes", hold=hold, lifetime=Lifetime.OWNER))
    kept = replace(hold, fallback=Builtin(name="pass"))
    save(store, replace(record(), name="stays", hold=kept, lifetime=Lifetime.OWNER))
    assert store.begin_boot(NEXT_BOOT) == {"goes"}
    assert [item.latest.name for item in reopened(store)] == ["stays"]


def test_a_trial_belongs_to_its_generation(store: SqliteStore) -> None:
    """Also while it is an intent: a crash after the swap must not confirm it."""
    save(store, record())
    trial = Trial(
        boot="a boot",
        deadline=Micros(9),
        within=Micros(5),
        until=UnixMicros(7),
        back_to=1,
        conditions=("map:m[0] < 1",),
        baseline=(3,),
    )
    second = replace(record(2, 2), trial=trial)
    store.intend(second, None)
    (item,) = reopened(store)
    assert item.intent == second
    assert item.record == record()
    store.commit(second, LINK_ID, Outcome.REPLACED)
    (item,) = reopened(store)
    assert item.record == second
    assert [each.outcome for each in store.history("edge")] == [Outcome.REPLACED, None]
    store.settle(replace(second, trial=None))
    (item,) = reopened(store)
    assert item.record == replace(second, trial=None)


def test_an_adoption_is_explained(store: SqliteStore) -> None:
    save(store, replace(record(), hook=None))
    after = replace(record(), generation=replace(record().generation, message="no gap"))
    store.explain(after, LINK_ID)
    (item,) = reopened(store)
    assert item.record == after


def test_an_origin_comes_and_changes_with_a_generation(store: SqliteStore) -> None:
    first = replace(record(), origin=Origin(file="/a.toml", program="builtin pass"))
    save(store, first)
    second = replace(record(2, 2), origin=Origin(file="/a.toml", program="object ab x"))
    save(store, second)
    (item,) = reopened(store)
    assert item.record == second


def test_another_hook_is_noted(store: SqliteStore) -> None:
    save(store, record())
    after = replace(record(), hook=CgroupHook(CgroupId(9)))
    store.note_hook(after, LINK_ID)
    (item,) = store.load()
    assert item.record == after


@pytest.mark.parametrize(
    "told",
    [
        None,
        Told(State.SEVERED, UnixMicros(5), None),
        Told(State.TAMPERED, UnixMicros(5), info(66)),
    ],
)
def test_what_was_told_and_which_link_is_ours(store: SqliteStore, told: Told | None) -> None:
    save(store, record())
    store.note_told("edge", Told(State.FAILED, UnixMicros(1), None))
    store.note_told("edge", told)
    (item,) = store.load()
    assert (item.told, item.link_id) == (told, LINK_ID)
    store.begin_boot("first")
    store.begin_boot("another boot")
    (item,) = store.load()
    assert (item.told, item.link_id) == (None, None)


# Migration. A release that changes the schema adds a file to schemas/.

SCHEMAS = Path(__file__).parent / "schemas"


def test_every_released_schema_is_there() -> None:
    assert sorted(int(file.stem) for file in SCHEMAS.glob("*.sql")) == list(range(1, VERSION))


@pytest.mark.parametrize("version", range(1, VERSION))
def test_the_state_of_an_older_release_is_taken_over(tmp_path: Path, version: int) -> None:
    old = sqlite3.connect(tmp_path / "bpflinkd.sqlite")
    old.executescript((SCHEMAS / f"{version}.sql").read_text())
    old.close()
    store = SqliteStore(tmp_path)
    found = {item.latest.name: item for item in store.load()}
    assert list(found) == ["edge-filter", "web-count", "opens", "half", "going"]
    edge = found["edge-filter"].record
    assert edge is not None
    assert (edge.policy, edge.generation.number, edge.hook) == (Policy.RESTORE, 2, record().hook)
    assert edge.origin == Origin()
    assert (edge.owner, edge.generation.by) == (User(uid=0), Actor(uid=0))
    assert (edge.hold, edge.generation.confinement, edge.generation.message) == (None, None, "")
    source = edge.generation.source
    assert isinstance(source, StoredObject)
    assert store.image(source.sha256) == b"foo"
    assert isinstance(found["opens"].latest.generation.source, StoredSource)
    assert found["half"].record is None
    assert found["half"].intent is not None
    assert found["going"].ending
    assert store.begin_boot(BOOT) == frozenset()
    assert store.load()[0].latest.hook == record().hook, "the machine was not booted anew, only upgraded"
    save(store, replace(record(), name="new", origin=Origin(file="/a.toml")))
    store.close()
    assert len(SqliteStore(tmp_path).load()) == 6


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "bpflinkd.sqlite")
    old.executescript((SCHEMAS / "1.sql").read_text())
    old.execute("CREATE TABLE boot (in_the_way)")
    old.commit()
    before = list(old.iterdump())
    old.close()
    with pytest.raises(StorageFailed, match="cannot be opened"):
        SqliteStore(tmp_path)
    after = sqlite3.connect(tmp_path / "bpflinkd.sqlite")
    assert list(after.iterdump()) == before
    assert after.execute("PRAGMA user_version").fetchone() == (1,)


def test_a_link_is_renamed_with_all_its_generations(store: SqliteStore) -> None:
    save(store, record())
    save(store, record(2, 2))
    target = XdpTarget(interface="eth9")
    store.rename("edge", replace(record(2, 2), name="wan", target=target))
    (item,) = reopened(store)
    assert item.record == replace(record(2, 2), name="wan", target=target)
    assert item.was == "edge"
    assert [generation.number for generation in store.history("wan")] == [1, 2]
    assert store.history("edge") == ()
    store.forget_old_name("wan")
    assert store.load()[0].was == ""
