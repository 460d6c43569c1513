"""The database: its tables, and how it comes to have them.

Schema 5:
    link        a row a link; `generation` is the current number, 0 while the first is not completed;
                `file`, `template` and `declared` are its origin, empty where a caller made it; `was`
                is its name before, until its pins have followed; `hold` is the connection that it lives
                with, `fallback` the sha256 of what comes after that, where it is a file; `link_id` is the
                kernel's number of our bpf_link, `told` what was last told of a state that is not `active`
    generation  the last of each link, as many as are kept; a number above the link's is the intent; `again`
                is the generation that it brought back, `outcome` how it ended; `together` is 1 for an intent
                that comes to pass with others or not at all; `trial` until when it may be confirmed
    object      ELF objects and C sources by sha256, as long as a generation refers to them
    boot        one row: the boot of the kernel in which all this was last used
Schema 4 did not know trials, outcomes and rollbacks.
Schema 3 did not know the kernel's number of a bpf_link, nor what was told.
Schema 2 knew owners and who made a generation as uids only.
Schema 1 had no origin, no name before and no boot.
"""

import contextlib
import logging
import os
import sqlite3
from pathlib import Path
from typing import Final

from bpflinkd.core.errors import StorageFailed

VERSION: Final = 5
APPLICATION_ID: Final = 0x62706C64  # "bpld"

_GENERATION: Final = """
CREATE TABLE generation (
    link        TEXT NOT NULL REFERENCES link(name) ON DELETE CASCADE,
    number      INTEGER NOT NULL,
    program     TEXT NOT NULL,
    source      TEXT NOT NULL,
    sha256      TEXT,
    hook        TEXT,
    since       INTEGER NOT NULL,
    actor       TEXT NOT NULL,
    confinement TEXT,
    message     TEXT NOT NULL DEFAULT '',
    again       INTEGER NOT NULL DEFAULT 0,
    outcome     TEXT,
    together    INTEGER NOT NULL DEFAULT 0,
    trial       TEXT,
    UNIQUE (link, number)
) STRICT;
CREATE INDEX generation_by_object ON generation(sha256) WHERE sha256 IS NOT NULL;
"""
"""Rows lie in the order in which they were made: those of a thousand links that are swapped together are in a
few pages. By link and number they would be in as many pages as there are links, of which each is written
four times."""
_SCHEMA: Final = f"""
CREATE TABLE link (
    name       TEXT PRIMARY KEY,
    target     TEXT NOT NULL,
    owner      TEXT NOT NULL,
    policy     TEXT NOT NULL,
    lifetime   TEXT NOT NULL,
    created    INTEGER NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0,
    hook       TEXT,
    ending     INTEGER NOT NULL DEFAULT 0,
    file       TEXT NOT NULL DEFAULT '',
    template   TEXT NOT NULL DEFAULT '',
    declared   TEXT NOT NULL DEFAULT '',
    was        TEXT NOT NULL DEFAULT '',
    hold       TEXT,
    fallback   TEXT,
    link_id    INTEGER,
    told       TEXT
) STRICT, WITHOUT ROWID;
{_GENERATION}
CREATE TABLE object (
    sha256 TEXT PRIMARY KEY,
    data   BLOB NOT NULL
) STRICT;
CREATE TABLE boot (id TEXT NOT NULL) STRICT;
"""
_MIGRATIONS: Final = {
    1: """
ALTER TABLE link ADD COLUMN file TEXT NOT NULL DEFAULT '';
ALTER TABLE link ADD COLUMN template TEXT NOT NULL DEFAULT '';
ALTER TABLE link ADD COLUMN declared TEXT NOT NULL DEFAULT '';
ALTER TABLE link ADD COLUMN was TEXT NOT NULL DEFAULT '';
CREATE TABLE boot (id TEXT NOT NULL) STRICT;
""",
    2: """
ALTER TABLE link ADD COLUMN owner TEXT NOT NULL DEFAULT '';
UPDATE link SET owner = 'user:' || owner_uid;
ALTER TABLE link DROP COLUMN owner_uid;
ALTER TABLE link ADD COLUMN hold TEXT;
ALTER TABLE link ADD COLUMN fallback TEXT;
ALTER TABLE generation ADD COLUMN actor TEXT NOT NULL DEFAULT '';
UPDATE generation SET actor = json_object('uid', by_uid);
ALTER TABLE generation DROP COLUMN by_uid;
ALTER TABLE generation ADD COLUMN confinement TEXT;
ALTER TABLE generation ADD COLUMN message TEXT NOT NULL DEFAULT '';
""",
    3: """
ALTER TABLE link ADD COLUMN link_id INTEGER;
ALTER TABLE link ADD COLUMN told TEXT;
""",
    4: """
DROP INDEX generation_by_object;
ALTER TABLE generation RENAME TO generation_4;
"""
    + _GENERATION
    + """
INSERT INTO generation (link, number, program, source, sha256, hook, since, actor, confinement, message)
SELECT link, number, program, source, sha256, hook, since, actor, confinement, message FROM generation_4
ORDER BY since;
DROP TABLE generation_4;
""",
}
"""From each released schema to the next."""

log = logging.getLogger(__name__)


def opened(path: Path) -> sqlite3.Connection:
    """Open the database, bring it to our schema, or create it.

    Raises:
        StorageFailed: it is damaged, not ours, of a newer release, or cannot be opened. Nothing is
            changed then.
    """
    damaged = (
        f"the state in {path} cannot be read ({{}}); nothing was touched. Move the file away "
        "to start with no links: those that are attached stay so, and 'bpflinkctl foreign' lists them"
    )
    fresh = not path.exists()
    with contextlib.ExitStack() as undo:
        try:
            db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            undo.callback(db.close)
            # Nobody else uses it: without this SQLite locks and unlocks the file twelve times a change.
            # Before the first read, or it makes a file for the log's index: a full disk has no room for it.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            tables, version = _check(db, path, damaged)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA foreign_keys = ON")
            # A log that is short is soon written over instead of extended, and then a sync need not wait
            # for the file system to record a new length. A swap of a thousand links writes 400 pages.
            db.execute("PRAGMA wal_autocheckpoint = 1000")
            if not tables:
                _make(db, f"{_SCHEMA} PRAGMA application_id = {APPLICATION_ID};")
            elif version < VERSION:
                _make(db, "".join(_MIGRATIONS[old] for old in range(version, VERSION)))
                log.info("the state in %s was of schema %s and is of %s now", path, version, VERSION)
            if fresh:
                os.chmod(path, 0o600)
        except sqlite3.OperationalError as error:
            in_use = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY
            hint = "; another program has it open, 'fuser' tells which: end that" if in_use else ""
            raise StorageFailed(f"the state in {path} cannot be opened: {error}{hint}") from None
        except sqlite3.DatabaseError as error:
            raise StorageFailed(damaged.format(error)) from None
        undo.pop_all()
        return db


def _check(db: sqlite3.Connection, path: Path, damaged: str) -> tuple[int, int]:
    """How many tables there are, and of which schema; or a refusal."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    application = db.execute("PRAGMA application_id").fetchone()[0]
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and application != APPLICATION_ID:
        raise StorageFailed(damaged.format("it is another program's database"))
    if version > VERSION:
        raise StorageFailed(
            f"the state in {path} is of a newer bpflinkd (schema {version}, this one knows {VERSION}); "
            "run that release, or newer"
        )
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise StorageFailed(damaged.format(" ".join(verdict.split())))
    return tables, version


def _make(db: sqlite3.Connection, statements: str) -> None:
    """Bring the database to our schema: wholly or not at all."""
    db.executescript(f"BEGIN; {statements} PRAGMA user_version = {VERSION}; COMMIT;")
