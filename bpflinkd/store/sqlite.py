"""Records in SQLite: `<state-dir>/bpflinkd.sqlite`. Implements `core.ports.Store`.

A change is two small transactions around the kernel's: an intent that need only survive the end of
the process, so it is written but not synced, and the commit, which is synced. After a loss of
power the kernel's links are gone as well, and the intent with them means nothing.
"""

import contextlib
import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bpflinkd.core.errors import StorageFailed
from bpflinkd.core.ids import LinkId
from bpflinkd.core.model import Generation, Lifetime, Outcome, Record, Told
from bpflinkd.core.ports import Stored
from bpflinkd.store import forms, schema

FILE_NAME: Final = "bpflinkd.sqlite"
KEPT: Final = 16
"""Generations of a link that are kept, where nobody says otherwise."""
_ENDS_AT_BOOT: Final = (
    "SELECT name FROM link WHERE lifetime = ? OR (lifetime = ? AND json_extract(hold, '$.fallback') IS NULL)"
)
_INTEND: Final = (
    "INSERT OR REPLACE INTO generation (link, number, program, source, sha256, hook, since, actor,"
    " confinement, message, again, trial, together) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_GENERATIONS: Final = (
    "SELECT number, program, source, since, actor, confinement, message, again, outcome FROM generation"
)
_FORGET: Final = "DELETE FROM generation WHERE link = ? AND number <= ?"
_COMMIT: Final = (
    "UPDATE link SET generation = ?, hook = ?, link_id = ?, file = ?, template = ?, declared = ?"
    " WHERE name = ?"
)

log = logging.getLogger(__name__)


class SqliteStore:
    """The one process that uses the state directory; used from one thread at a time."""

    def __init__(self, directory: Path, kept: int = KEPT) -> None:
        """Open or create the database.

        Args:
            kept: how many generations of a link are kept, the present one among them.

        Raises:
            StorageFailed: the directory is in use or not writable, or the database is damaged, not
                ours, or of a newer release. Nothing is changed then.
        """
        self.path = directory / FILE_NAME
        self.kept = kept
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageFailed(
                f"another bpflinkd uses the state directory {directory}; stop it, or name another "
                "with --state-dir"
            ) from None
        except OSError as error:
            raise StorageFailed(f"the state directory {directory} cannot be used: {error.strerror}") from None
        try:
            self._db = schema.opened(self.path)
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Close the database and let another daemon have it."""
        self._db.close()
        os.close(self._lock)

    # Reading

    def load(self) -> tuple[Stored, ...]:
        rows = self._read(
            "SELECT l.name, l.target, l.owner, l.policy, l.lifetime, l.created, l.hook, l.ending,"
            " l.generation, g.number, g.program, g.source, g.since, g.actor, g.hook,"
            " l.file, l.template, l.declared, l.was, g.confinement, g.message, l.hold, l.link_id, l.told,"
            " g.again, g.outcome, g.trial, g.together"
            " FROM link l JOIN generation g ON g.link = l.name AND g.number >= l.generation"
            " ORDER BY l.created, l.name, g.number"
        )
        found: dict[str, Stored] = {}
        for row in rows:
            name, current, number = row[0], row[8], row[9]
            intended = number > current
            record = forms.record(row, hook=row[14] if intended else row[6])
            before = found.get(name)
            found[name] = Stored(
                record=before.record if intended and before else None if intended else record,
                intent=record if intended else None,
                ending=bool(row[7]),
                was=row[18],
                link_id=row[22],
                told=forms.told_of(row[23]),
                together=intended and bool(row[27]),
            )
        return tuple(found.values())

    def image(self, sha256: str) -> bytes | None:
        rows = self._read("SELECT data FROM object WHERE sha256 = ?", sha256)
        return rows[0][0] if rows else None

    def history(self, name: str) -> tuple[Generation, ...]:
        rows = self._read(f"{_GENERATIONS} WHERE link = ? ORDER BY number", name)
        return tuple(forms.generation(*row) for row in rows)

    def generation(self, name: str, number: int) -> Generation | None:
        rows = self._read(f"{_GENERATIONS} WHERE link = ? AND number = ?", name, number)
        return forms.generation(*rows[0]) if rows else None

    # Writing

    def begin_boot(self, boot: str) -> frozenset[str]:
        """Forget what a reboot ended: links that it ends, and on which hooks links were.

        Args:
            boot: /proc/sys/kernel/random/boot_id.

        Returns:
            Names of the links that ended; they are no more even where that could not be written.
        """
        before = self._read("SELECT id FROM boot")
        if before == [(boot,)]:
            return frozenset()
        # A state without a boot is new, or of an older release, in whose time nothing was ephemeral.
        # Those that lived with a connection end as well, unless something is to run after it.
        rows = self._read(_ENDS_AT_BOOT, Lifetime.EPHEMERAL, Lifetime.OWNER)
        ended = frozenset(name for (name,) in rows)
        try:
            with self._transaction(durable=True) as db:
                if before:
                    db.executemany("DELETE FROM link WHERE name = ?", rows)
                    db.execute("UPDATE link SET hook = NULL, link_id = NULL, told = NULL")
                    self._drop_unused_objects(db)
                db.execute("DELETE FROM boot")
                db.execute("INSERT INTO boot VALUES (?)", (boot,))
        except StorageFailed as error:
            log.error("that the machine was booted anew is not recorded: %s", error)
        return ended

    def intend(self, record: Record, image: bytes | None, fallback: bytes | None = None) -> None:
        generation = record.generation
        sha256 = forms.file_of(generation.source)
        with self._transaction(durable=False) as db:
            if generation.number == 1:
                # What could not be removed, or forgotten, when there was no room.
                db.execute("DELETE FROM link WHERE name = ? AND (ending OR generation = 0)", (record.name,))
                db.execute(
                    "INSERT INTO link (name, target, owner, policy, lifetime, created,"
                    " file, template, declared, hold, fallback) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        record.name,
                        forms.target_text(record.target),
                        str(record.owner),
                        record.policy,
                        record.lifetime,
                        record.created,
                        *forms.origin_columns(record.origin),
                        *forms.hold_columns(record.hold),
                    ),
                )
            kept = ((sha256, image), (forms.hold_columns(record.hold)[1], fallback))
            for digest, data in kept:
                if digest is not None and data is not None:
                    db.execute("INSERT OR IGNORE INTO object VALUES (?, ?)", (digest, data))
            db.execute(_INTEND, (*forms.generation_columns(record), 0))

    def intend_together(self, records: Sequence[Record], images: Mapping[str, bytes]) -> None:
        with self._transaction(durable=False) as db:
            db.executemany("INSERT OR IGNORE INTO object VALUES (?, ?)", images.items())
            db.executemany(_INTEND, ((*forms.generation_columns(record), 1) for record in records))

    def forget_intent(self, name: str) -> None:
        self.forget_intents((name,))

    def forget_intents(self, names: Sequence[str]) -> None:
        with self._transaction(durable=False) as db:
            db.executemany(
                "DELETE FROM generation WHERE link = ?1 AND number >"
                " (SELECT generation FROM link WHERE name = ?1)",
                ((name,) for name in names),
            )
            db.executemany("DELETE FROM link WHERE name = ? AND generation = 0", ((name,) for name in names))
            self._drop_unused_objects(db)

    def commit(self, record: Record, link_id: LinkId | None, left: Outcome | None = None) -> None:
        self.commit_together(((record, link_id, left),))

    def commit_together(self, records: Sequence[tuple[Record, LinkId | None, Outcome | None]]) -> None:
        with self._transaction(durable=True) as db:
            db.executemany(_COMMIT, (forms.commit_columns(record, link_id) for record, link_id, _ in records))
            db.executemany(
                "UPDATE generation SET outcome = ? WHERE link = ? AND number = ?",
                (
                    (left, record.name, record.generation.number - 1)
                    for record, _, left in records
                    if left is not None
                ),
            )
            numbers = ((record.name, record.generation.number - self.kept) for record, *_ in records)
            too_old = [(name, number) for name, number in numbers if number > 0]
            if too_old:
                db.executemany(_FORGET, too_old)
                self._drop_unused_objects(db)

    def settle(self, record: Record) -> None:
        with self._transaction(durable=True) as db:
            db.execute(
                "UPDATE link SET owner = ?, policy = ?, lifetime = ?, file = ?, template = ?,"
                " declared = ?, hold = ?, fallback = ? WHERE name = ?",
                (
                    str(record.owner),
                    record.policy,
                    record.lifetime,
                    *forms.origin_columns(record.origin),
                    *forms.hold_columns(record.hold),
                    record.name,
                ),
            )
            db.execute(
                "UPDATE generation SET trial = ? WHERE link = ? AND number = ?",
                (forms.trial_text(record.trial), record.name, record.generation.number),
            )

    def explain(self, record: Record, link_id: LinkId) -> None:
        with self._transaction(durable=True) as db:
            self._set_hook(db, record, link_id)
            db.execute(
                "UPDATE generation SET message = ? WHERE link = ? AND number = ?",
                (record.generation.message, record.name, record.generation.number),
            )

    def rename(self, name: str, record: Record) -> None:
        with self._transaction(durable=True) as db:
            db.execute("PRAGMA defer_foreign_keys = ON")
            db.execute(
                "UPDATE link SET name = ?, target = ?, was = ? WHERE name = ?",
                (record.name, forms.target_text(record.target), name, name),
            )
            db.execute("UPDATE generation SET link = ? WHERE link = ?", (record.name, name))

    def forget_old_name(self, name: str) -> None:
        with self._transaction(durable=False) as db:
            db.execute("UPDATE link SET was = '' WHERE name = ?", (name,))

    def note_hook(self, record: Record, link_id: LinkId) -> None:
        with self._transaction(durable=False) as db:
            self._set_hook(db, record, link_id)

    @staticmethod
    def _set_hook(db: sqlite3.Connection, record: Record, link_id: LinkId) -> None:
        db.execute(
            "UPDATE link SET hook = ?, link_id = ? WHERE name = ?",
            (forms.hook_text(record.hook), link_id, record.name),
        )

    def note_told(self, name: str, told: Told | None) -> None:
        with self._transaction(durable=False) as db:
            db.execute("UPDATE link SET told = ? WHERE name = ?", (forms.told_text(told), name))

    def amend(self, record: Record) -> None:
        with self._transaction(durable=False) as db:
            db.execute(
                "UPDATE generation SET program = ? WHERE link = ? AND number = ?",
                (forms.program_text(record.generation.program), record.name, record.generation.number),
            )

    def mark_ending(self, name: str) -> None:
        with self._transaction(durable=True) as db:
            db.execute("UPDATE link SET ending = 1 WHERE name = ?", (name,))

    def remove(self, name: str) -> None:
        with self._transaction(durable=False) as db:
            db.execute("DELETE FROM link WHERE name = ?", (name,))
            self._drop_unused_objects(db)

    @staticmethod
    def _drop_unused_objects(db: sqlite3.Connection) -> None:
        db.execute(
            "DELETE FROM object WHERE NOT EXISTS"
            " (SELECT 1 FROM generation WHERE generation.sha256 = object.sha256)"
            " AND NOT EXISTS (SELECT 1 FROM link WHERE link.fallback = object.sha256)"
        )

    def _read(self, statement: str, *arguments: object) -> list[Any]:
        try:
            return self._db.execute(statement, arguments).fetchall()
        except sqlite3.Error as error:
            raise StorageFailed(f"the state in {self.path} cannot be read: {error}") from None

    @contextlib.contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """All or nothing; on the disk when it returns, if `durable`."""
        db = self._db
        try:
            db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise StorageFailed(
                f"the state in {self.path} cannot be written: {error}; nothing was changed"
            ) from None
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
