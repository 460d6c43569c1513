"""What is kept of the news, in which order, within which bounds, and what a broken file costs."""

import logging
import os
import sqlite3
import sys
import time
import typing
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from gi.repository import GLib

from bpflinkd.core import chronicle
from bpflinkd.core.callers import Actor
from bpflinkd.core.chronicle import Event, LogEntry, Query, Who
from bpflinkd.core.culprits import Culprit
from bpflinkd.core.events import (
    ChangeKind,
    ForeignChange,
    Healed,
    LinkAdded,
    LinkRemoved,
    OfOneLink,
)
from bpflinkd.core.ids import Micros, UnixMicros
from bpflinkd.core.model import State
from bpflinkd.dbus import happened
from bpflinkd.recording import Recording
from bpflinkd.store.event_log import ASIDE, FILE_NAME, EventLog
from tests.unit.fakes import NOW, info
from tests.unit.test_journal import NEWS, view

STRANGER = Culprit(
    pid=4711, thread=4712, uid=1000, comm="bpftool", executable="/usr/sbin/bpftool", cgroup="/a.service"
)
UPDATED = ForeignChange(
    view=view(State.TAMPERED),
    kind=ChangeKind.LINK_UPDATED,
    sentence="somebody put another program behind our link",
    by=None,
    source="sentinel",
    seen=NOW,
    before=info(12),
    after=info(66),
    who=STRANGER,
    delay=Micros(400),
)
EVERYTHING: list[OfOneLink] = [*(news for news, _ in NEWS.values()), UPDATED]


def healed(name: str, sentence: str = "s") -> Healed:
    return Healed(name=name, sentence=sentence)


def at(second: int) -> UnixMicros:
    return UnixMicros(second * 1_000_000)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    made = EventLog(tmp_path / "events", 100)
    yield made
    made.close()


def reopened(log: EventLog) -> EventLog:
    log.close()
    return EventLog(log.path.parent, 100)


def names(log: EventLog, **asked: typing.Any) -> list[str]:
    return [entry.name for entry in log.read(Query(**asked))]


# What is kept


def test_every_kind_of_news_is_read_as_it_was_written(log: EventLog) -> None:
    assert {type(news) for news in EVERYTHING} == set(typing.get_args(OfOneLink))
    log.append((at(second), news) for second, news in enumerate(EVERYTHING, 1))
    found = reopened(log).read(Query())
    first = found[0].number
    assert list(found) == [
        chronicle.entry(news, first + place, at(place + 1)) for place, news in enumerate(EVERYTHING)
    ]
    assert {entry.event for entry in found} == set(Event)


def test_a_foreign_change_is_kept_with_who_and_what_and_how_late(log: EventLog) -> None:
    log.append([(NOW, UPDATED)])
    (entry,) = log.read(Query())
    assert (entry.before, entry.after, entry.delay, entry.source) == (info(12), info(66), 400, "sentinel")
    assert entry.who == Who(
        uid=1000,
        pid=4711,
        thread=4712,
        comm="bpftool",
        executable="/usr/sbin/bpftool",
        unit="a.service",
        cgroup="/a.service",
    )
    assert str(entry.who) == "bpftool (pid 4711, uid 1000, /usr/sbin/bpftool, a.service)"


def test_what_others_chose_is_printable_and_short_and_travels() -> None:
    ugly = Culprit(
        pid=1,
        thread=1,
        uid=2**32 - 1,
        comm="\x1b]0;x\x07",
        executable="/" + os.fsdecode(b"\xff\n") * 4096,
        cgroup="/" + "é" * 4096,
    )
    change = replace(UPDATED, who=ugly, sentence="\x1b[2J" * 4096, delay=Micros(-5))
    entry = chronicle.entry(change, 2**63 - 1, NOW)
    assert entry.who is not None
    for text in (entry.sentence, entry.who.comm, entry.who.executable, entry.who.cgroup):
        assert text.isprintable()
        assert len(text) <= 1000
    (row,) = happened.events([entry]).unpack()[0]
    assert row["who"]["uid"] == 2**32 - 1
    details = happened.foreign_change(change).unpack()
    assert details["delay"] == 0, "a clock that went back"
    assert details["who"] == row["who"]
    assert details["sentence"].isprintable()


def test_what_is_not_known_is_left_out_on_the_bus() -> None:
    bare = chronicle.entry(healed("a"), 1, NOW)
    (row,) = happened.events([bare]).unpack()[0]
    assert set(row) == {"number", "time", "event", "name", "sentence"}
    change = replace(UPDATED, who=None, before=None, after=None, delay=None)
    assert not {"who", "before", "after", "delay"} & set(happened.foreign_change(change).unpack())
    who = happened.who(chronicle.of_actor(Actor(uid=7)))
    assert who.unpack() == {"uid": 7}


# What is asked for


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        pytest.param({}, "abcabc", id="everything"),
        pytest.param({"limit": 2}, "bc", id="the newest, the oldest of them first"),
        pytest.param({"since": at(4)}, "abc", id="since a time"),
        pytest.param({"links": {"a": at(0), "c": at(0)}}, "acac", id="some links"),
        pytest.param({"links": {"a": at(0), "c": at(5)}}, "aac", id="each since a time of its own"),
        pytest.param({"links": {}}, "", id="no links"),
        pytest.param({"kinds": frozenset({"healed"})}, "abcabc", id="an event"),
        pytest.param({"kinds": frozenset({"link-updated"})}, "", id="a kind that there is not"),
        pytest.param({"since": UnixMicros(2**64 - 1)}, "", id="the end of time"),
        pytest.param({"after": 2**64 - 1}, "", id="after every number"),
        pytest.param({"links": {"'); DROP TABLE event; --": at(0)}}, "", id="a name that is SQL"),
    ],
)
@pytest.mark.parametrize("written", [pytest.param(True, id="from disk"), pytest.param(False, id="memory")])
def test_a_query(tmp_path: Path, written: bool, asked: dict[str, typing.Any], found: str) -> None:
    place = tmp_path / "events"
    if not written:
        place.write_text("a file, where there should be a directory")
    log = EventLog(place, 100)
    log.append((at(second), healed(name)) for second, name in enumerate("abcabc", 1))
    assert log.path.exists() is written
    assert "".join(names(log, **asked)) == found


def test_pages_follow_one_another_without_gap_or_repetition(log: EventLog) -> None:
    log.append((NOW, healed(str(number))) for number in range(25))
    after, seen = 0, []
    while page := log.read(Query(after=after, limit=10)):
        seen += [entry.name for entry in page]
        after = page[-1].number
    assert seen == [str(number) for number in range(25)]


def test_kinds_of_foreign_change_are_told_apart(log: EventLog) -> None:
    log.append([(NOW, UPDATED), (NOW, replace(UPDATED, kind=ChangeKind.PIN_REMOVED)), (NOW, healed("a"))])
    assert len(log.read(Query(kinds=frozenset({"foreign_change"})))) == 2
    (one,) = log.read(Query(kinds=frozenset({"pin-removed"})))
    assert one.kind == "pin-removed"


# Numbers


@pytest.mark.parametrize("lost", [pytest.param(False, id="goes on"), pytest.param(True, id="file lost")])
def test_a_number_is_never_given_out_twice(log: EventLog, lost: bool) -> None:
    first = log.append((at(10), healed("a")) for _ in range(5))
    again = reopened(log)
    if lost:
        log.path.unlink()
    assert again.append([(at(11), healed("b"))]) > first


def test_a_clock_that_was_set_back_does_not_put_new_entries_before_old_ones(log: EventLog) -> None:
    newest = log.append([(at(1_000_000), healed("old"))])
    again = reopened(log)
    assert again.append([(at(10), healed("new"))]) == newest + 1
    assert names(again) == ["old", "new"]


# Bounds


def test_the_oldest_give_way_to_the_newest(log: EventLog) -> None:
    log.append((NOW, healed(str(number))) for number in range(1234))
    assert names(log) == [str(number) for number in range(1134, 1234)]
    again = reopened(log)
    again.append((NOW, healed(str(number))) for number in range(1234, 1240))
    assert names(again) == [str(number) for number in range(1140, 1240)]


def test_fewer_are_kept_than_before(log: EventLog) -> None:
    log.append((NOW, healed(str(number))) for number in range(100))
    log.close()
    fewer = EventLog(log.path.parent, 10)
    fewer.append([(NOW, healed("100"))])
    assert names(fewer) == [str(number) for number in range(91, 101)]


def test_the_file_stays_within_its_bytes(tmp_path: Path) -> None:
    log = EventLog(tmp_path, 100_000, most_bytes=200_000)
    for _ in range(10):
        log.append((NOW, healed("x", "y" * 1000)) for _ in range(100))
    kept = log.read(Query())
    assert 100 < len(kept) < 250
    log.close()
    # One batch is written before the oldest give way.
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 500_000


# What goes wrong


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(8192))


def torn(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(4096))


def of_another(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (x)")
    db.close()


def newer(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()


def unreadable(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("UPDATE event SET details = '[]'")
    db.commit()
    db.close()


@pytest.mark.parametrize("spoil", [garbage, torn, of_another, newer, unreadable], ids=lambda f: f.__name__)
def test_a_broken_file_is_set_aside_with_a_sentence(
    log: EventLog, caplog: pytest.LogCaptureFixture, spoil: typing.Callable[[Path], None]
) -> None:
    log.append((NOW, healed("old")) for _ in range(50))
    log.close()
    spoil(log.path)
    before = log.path.read_bytes()
    again = EventLog(log.path.parent, 100)
    again.read(Query())
    again.append([(NOW, healed("new"))])
    assert names(again) == ["new"]
    again.close()
    assert (log.path.parent / ASIDE).read_bytes() == before
    said = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    assert len(said) == 2
    assert FILE_NAME in said[0]
    assert said[1] == f"it is set aside as {ASIDE}, and a new one begun"
    assert names(EventLog(log.path.parent, 100)) == ["new"]


def test_what_cannot_be_written_waits_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    place = tmp_path / "events"
    place.write_text("a file, where there should be a directory")
    log = EventLog(place, 20)
    for number in range(30):
        log.append([(NOW, healed(str(number)))])
    assert names(log) == [str(number) for number in range(10, 30)], "memory has the same bound"
    place.unlink()
    log.append([(NOW, healed("30"))])
    log.close()
    assert names(EventLog(place, 20)) == [str(number) for number in range(11, 31)]
    said = [record.getMessage() for record in caplog.records]
    assert [line.partition(" ")[0] for line in said] == ["the", "the"]
    assert "all else goes on" in said[0]
    assert "works again" in said[1]


def test_the_file_is_for_root_alone(log: EventLog) -> None:
    log.append([(NOW, healed("a"))])
    assert log.path.stat().st_mode & 0o777 == 0o600
    assert log.path.parent.stat().st_mode & 0o777 == 0o700


# Beside the main loop


class Loop:
    """A main loop with a beat, and the log of a daemon beside it."""

    def __init__(self, place: Path, kept: int) -> None:
        self.main = GLib.MainLoop()
        self.told: list[int] = []

        def clock() -> UnixMicros:
            return UnixMicros(time.time_ns() // 1000)

        self.recording = Recording(place, kept, clock, self.told.append)

    def read(self, query: Query) -> tuple[LogEntry, ...]:
        answers: list[tuple[LogEntry, ...]] = []

        def done(found: tuple[LogEntry, ...], error: BaseException | None) -> None:
            assert error is None
            answers.append(found)
            self.main.quit()

        self.recording.read(query, lambda found: found, done)
        self.main.run()
        return answers[0]


def p99(loop: Loop, burst: typing.Callable[[], None]) -> float:
    """How late a beat of a millisecond is at worst, but for one in a hundred, while something goes on."""
    late: list[float] = []
    due = time.monotonic() + 0.001

    def beat() -> bool:
        nonlocal due
        late.append(time.monotonic() - due)
        burst()
        due = time.monotonic() + 0.001
        if len(late) == 1000:
            loop.main.quit()
        return len(late) < 1000

    GLib.timeout_add(1, beat)
    loop.main.run()
    return sorted(late)[990]


def test_ten_thousand_events_in_a_second_hold_up_nobody_and_none_is_lost(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(0.0005)  # as the daemon does
    loop = Loop(tmp_path, 10_000)
    numbers = iter(range(10_000))

    def burst() -> None:
        for _ in range(10):
            loop.recording.add(replace(UPDATED, sentence=str(next(numbers))))

    idle = p99(loop, lambda: None)
    assert p99(loop, burst) < max(0.020, 2 * idle), "unless this machine is late by itself"
    seen: list[str] = []
    after = 0
    while page := loop.read(Query(after=after)):
        seen += [entry.sentence for entry in page]
        after = page[-1].number
    assert seen == [str(number) for number in range(10_000)]
    assert loop.told
    assert loop.told == sorted(set(loop.told))
    loop.recording.close()


def test_links_that_are_taken_back_at_a_start_are_no_news(tmp_path: Path) -> None:
    loop = Loop(tmp_path, 100)
    old, new = view(), view()
    fresh = replace(new.record, name="fresh", created=UnixMicros(time.time_ns() // 1000))
    loop.recording.add(LinkAdded(view=old), starting=True)
    loop.recording.add(LinkAdded(view=replace(new, record=fresh)), starting=True)
    loop.recording.add(LinkAdded(view=old))
    loop.recording.add(LinkRemoved(view=old, reason="r"), starting=True)
    told = [(entry.name, entry.event.value) for entry in loop.read(Query())]
    assert told == [("fresh", "link_added"), ("edge-filter", "link_added"), ("edge-filter", "link_removed")]
    loop.recording.close()
