"""The event log in SQLite: `<state-dir>/events/events.sqlite`, bounded by entries and by bytes.

It is worth less than the daemon: what goes wrong here is said once, and costs nothing but entries. Those
that cannot be written wait in memory for as long as they would be kept. A file that is broken, not ours or
of a newer release is set aside.

Schema 1:
    event    a row an entry; `details` is the rest of it as JSON
"""

import contextlib
import json
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from bpflinkd.core import chronicle
from bpflinkd.core.chronicle import Event, LogEntry, Query, Who
from bpflinkd.core.events import OfOneLink
from bpflinkd.core.ids import UnixMicros
from bpflinkd.core.model import ProgramInfo

FILE_NAME: Final = "events.sqlite"
ASIDE: Final = "events.aside.sqlite"
VERSION: Final = 1
APPLICATION_ID: Final = 0x62706C65  # "bple"
MOST_BYTES: Final = 32 << 20
"""That entries may take in the file; the oldest give way."""
_BATCH: Final = 500
"""Entries of one transaction."""
_LARGEST: Final = 2**63 - 1
"""SQLite's integers have a sign."""
_BROKEN: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_Result = TypeVar("_Result")

_SCHEMA: Final = """
CREATE TABLE event (
    number  INTEGER PRIMARY KEY,
    time    INTEGER NOT NULL,
    event   TEXT NOT NULL,
    kind    TEXT NOT NULL,
    name    TEXT NOT NULL,
    details TEXT NOT NULL
) STRICT;
CREATE INDEX event_by_name ON event(name, number);
"""
_WANTED: Final = """
SELECT number, time, event, kind, name, details FROM event
WHERE number > :after AND time >= :since
AND (:kinds IS NULL OR event IN (SELECT value FROM json_each(:kinds))
    OR kind IN (SELECT value FROM json_each(:kinds)))
AND (:links IS NULL OR name IN (SELECT key FROM json_each(:links)) AND time >=
    (SELECT value FROM json_each(:links) WHERE key = name))
"""
_COLUMNS: Final = ("number", "time", "event", "kind", "name")
_DETAILS: Final = tuple(field.name for field in fields(LogEntry) if field.name not in _COLUMNS)
_PARTS: Final = frozenset(("before", "after", "who"))
_DROP: Final = "DELETE FROM event WHERE number IN (SELECT number FROM event ORDER BY number LIMIT ?)"

log = logging.getLogger(__name__)


class _NotOurs(sqlite3.DatabaseError):
    """The file is a database, but none that we can use."""


class EventLog:
    """For one thread. Raises nothing."""

    def __init__(self, directory: Path, kept: int, most_bytes: int = MOST_BYTES) -> None:
        """Touches nothing yet.

        Args:
            kept: how many entries.
            most_bytes: that they may take.
        """
        self._directory = directory
        self._kept = kept
        self._most_bytes = most_bytes
        self._db: sqlite3.Connection | None = None
        self._rows = 0
        self._newest = 0
        self._unwritten: deque[LogEntry] = deque(maxlen=kept)
        self._failing = False
        """And that has been said."""

    @property
    def path(self) -> Path:
        """Of the database."""
        return self._directory / FILE_NAME

    def append(self, news: Iterable[tuple[UnixMicros, OfOneLink]]) -> int:
        """Keep what happened, each with its time; returns the number of the newest entry.

        After a start numbers go on at the microseconds since 1970: what was given out before is never given
        out again, even if it could not be written or the file was lost.
        """
        self._safely(self._opened, None)  # tells which numbers were given out
        for time, each in news:
            if not self._newest:
                self._newest = time
            self._newest += 1
            self._unwritten.append(chronicle.entry(each, self._newest, time))
        self._safely(self._write, None)
        return self._newest

    def read(self, query: Query) -> tuple[LogEntry, ...]:
        """The entries that are asked for, the oldest first: the newest of them, at most `limit`; with `after`
        the first ones."""
        found: list[LogEntry] = self._safely(lambda: self._select(query), [])
        found += [entry for entry in self._unwritten if query.wants(entry)]
        return tuple(found[-query.limit :] if query.after is None else found[: query.limit])

    def close(self) -> None:
        """Write what could not be written before, if that is possible by now."""
        self._safely(self._write, None)
        self._close()

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _safely(self, work: Callable[[], _Result], otherwise: _Result) -> _Result:
        """Whatever the disk does, say it once, until it works again."""
        for _ in range(2):  # the second time with a new file, where the old one was broken
            try:
                result = work()
            except (sqlite3.Error, OSError) as error:
                if not self._failing:
                    log.error(
                        "the event log %s fails: %s; all else goes on, the latest entries wait in memory",
                        self.path,
                        error,
                    )
                self._failing = True
                if not (_is_broken(error) and self._set_aside()):
                    return otherwise
            else:
                self._works()
                return result
        return otherwise

    def _works(self) -> None:
        if self._failing and not self._unwritten:
            log.info("the event log %s works again", self.path)
            self._failing = False

    # The file

    def _opened(self) -> sqlite3.Connection:
        if self._db is not None:
            return self._db
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.ExitStack() as undo:
            db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            undo.callback(db.close)
            # As for the records: nobody else uses it, and no index of the write-ahead log needs room.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            fresh = _check(db)
            db.execute("PRAGMA journal_mode = WAL")
            # A loss of power may cost the last entries; waiting for the disk each time costs more.
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA wal_autocheckpoint = 32")
            db.execute(f"PRAGMA journal_size_limit = {1 << 20}")
            if fresh:
                identity = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
                db.executescript(f"BEGIN; {_SCHEMA} {identity} COMMIT;")
                self.path.chmod(0o600)
            self._rows = db.execute("SELECT count(*) FROM event").fetchone()[0]
            newest = db.execute("SELECT max(number) FROM event").fetchone()[0]
            undo.pop_all()
        # Only a clock that was set back makes this the greater one.
        self._newest = max(self._newest, newest or 0)
        self._db = db
        return db

    def _set_aside(self) -> bool:
        """Keep what is broken for whoever wants to look at it. Whether a new one can be begun."""
        self._close()
        try:
            for end in ("", "-wal"):
                broken = self._directory / f"{FILE_NAME}{end}"
                aside = self._directory / f"{ASIDE}{end}"
                aside.unlink(missing_ok=True)
                if broken.exists():
                    broken.rename(aside)
        except OSError as error:
            log.error("it cannot be set aside: %s", error.strerror)
            return False
        log.warning("it is set aside as %s, and a new one begun", ASIDE)
        return True

    def _write(self) -> None:
        while self._unwritten:
            batch = list(islice(self._unwritten, _BATCH))
            db = self._opened()
            with _transaction(db):
                db.executemany("INSERT OR IGNORE INTO event VALUES (?, ?, ?, ?, ?, ?)", map(_row, batch))
                rows = self._pruned(db, self._rows + len(batch))
            self._rows = rows
            for _ in batch:
                self._unwritten.popleft()

    def _pruned(self, db: sqlite3.Connection, rows: int) -> int:
        """Make the oldest give way; returns how many are left."""
        if rows > self._kept:
            rows -= _drop(db, rows - self._kept)
        while rows and _size(db) > self._most_bytes:
            rows -= _drop(db, 1 + rows // 10)
        return rows

    def _select(self, query: Query) -> list[LogEntry]:
        if self._db is None and not self.path.exists():
            return []
        order = "DESC" if query.after is None else "ASC"
        chosen = {
            "after": min(query.after or 0, _LARGEST),
            "since": min(query.since, _LARGEST),
            "kinds": json.dumps(sorted(query.kinds)) if query.kinds else None,
            "links": json.dumps(dict(query.links)) if query.links is not None else None,
            "limit": query.limit,
        }
        rows = self._opened().execute(f"{_WANTED} ORDER BY number {order} LIMIT :limit", chosen)
        found = [_entry(*row) for row in rows]
        return found[::-1] if query.after is None else found


def _check(db: sqlite3.Connection) -> bool:
    """Whether it is empty. sqlite3.DatabaseError where it cannot be used."""
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if tables and application != APPLICATION_ID:
        raise _NotOurs("it is another program's database")
    if version > VERSION:
        raise _NotOurs(f"it is of a newer bpflinkd (schema {version}, this one knows {VERSION})")
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise _NotOurs(" ".join(verdict.split()))
    return not tables


def _is_broken(error: BaseException) -> bool:
    """Whether the file will not be better the next time."""
    if isinstance(error, _NotOurs):
        return True
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in _BROKEN


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    try:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _drop(db: sqlite3.Connection, number: int) -> int:
    """Forget so many of the oldest; returns how many it were."""
    return db.execute(_DROP, (number,)).rowcount


def _size(db: sqlite3.Connection) -> int:
    pages, free, size = (
        db.execute(f"PRAGMA {word}").fetchone()[0] for word in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _row(entry: LogEntry) -> tuple[int, int, str, str, str, str]:
    return entry.number, entry.time, entry.event, entry.kind, entry.name, json.dumps(_details(entry))


def _details(entry: LogEntry) -> dict[str, Any]:
    found: dict[str, Any] = {
        key: value for key in _DETAILS if (value := getattr(entry, key)) not in ("", None)
    }
    for key in _PARTS & set(found):
        found[key] = {field: getattr(found[key], field) for field in found[key].__slots__}
    return found


def _entry(number: int, time: int, event: str, kind: str, name: str, details: str) -> LogEntry:
    """Back. `_NotOurs` where somebody else wrote it."""
    try:
        rest: dict[str, Any] = json.loads(details)
        for key in {"before", "after"} & set(rest):
            rest[key] = ProgramInfo(**rest[key])
        if "who" in rest:
            rest["who"] = Who(**rest["who"])
        if "target" in rest:
            rest["target"] = tuple(rest["target"])
        return LogEntry(
            number=number, time=UnixMicros(time), event=Event(event), kind=kind, name=name, **rest
        )
    except (ValueError, TypeError) as error:
        raise _NotOurs(f"entry {number} cannot be read: {error}") from None
