"""The store's file: one SQLite database in WAL mode, written by one instance, read by all.

Messages are kept per topic: what has been sealed in blocks, what came since as rows. A
message's *place* is when it was received, in µs since the epoch, moved up where that is
taken or time went back: no two have the same, and they rise in the order of the feed.

Source: sqlite.org, "Write-Ahead Logging" and "Database File Format" §1.3 (application id).
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FILE_NAME = "history.sqlite"
LOCK_NAME = "history.lock"
# Trades are public, but which pairs somebody keeps is not: the group may read, nobody else.
FILE_MODE = 0o640
DIRECTORY_MODE = 0o750

APPLICATION_ID = 0x48454447  # "HEDG"
VERSION = 1
_BUSY_S = 2.0
_WAL_BYTES_MAX = 64 * 1024 * 1024

_TABLES = """
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE topic (
    id INTEGER PRIMARY KEY, channel TEXT NOT NULL, product_id TEXT NOT NULL,
    UNIQUE (channel, product_id)
);
CREATE TABLE block (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL REFERENCES topic,
    first_place INTEGER NOT NULL, last_place INTEGER NOT NULL, count INTEGER NOT NULL,
    first_sequence INTEGER, last_sequence INTEGER, first_trade_id INTEGER, last_trade_id INTEGER,
    first_us INTEGER, last_us INTEGER, data BLOB NOT NULL
);
CREATE INDEX block_by_place ON block (topic, last_place, first_place, first_sequence);
CREATE INDEX block_by_sequence ON block (topic, last_sequence);
CREATE INDEX block_by_trade_id ON block (topic, last_trade_id);
CREATE INDEX block_by_time ON block (topic, last_us);
CREATE INDEX block_by_age ON block (last_place);
CREATE TABLE open (
    topic INTEGER NOT NULL REFERENCES topic, place INTEGER NOT NULL,
    sequence INTEGER, trade_id INTEGER, payload BLOB NOT NULL,
    PRIMARY KEY (topic, place)
) WITHOUT ROWID;
CREATE TABLE gap (
    topic INTEGER NOT NULL REFERENCES topic, place INTEGER NOT NULL,
    kind TEXT NOT NULL, first INTEGER, last INTEGER,
    PRIMARY KEY (topic, place)
) WITHOUT ROWID;
CREATE TABLE trade (
    topic INTEGER NOT NULL REFERENCES topic, trade_id INTEGER NOT NULL,
    time_us INTEGER, payload BLOB NOT NULL,
    PRIMARY KEY (topic, trade_id)
) WITHOUT ROWID;
"""


class StoreError(Exception):
    """The store cannot be used now: no space, locked, read-only, gone.

    Streaming goes on without it; writing is tried again.
    """


class CorruptStore(StoreError):
    """The file is not what we wrote: it has to be looked at by people, and is never repaired."""


class BadQuery(StoreError):
    """A query has a number that no store can hold; the store itself is well."""


def opened(error: sqlite3.Error) -> StoreError:
    """Return what an error of SQLite means for us."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # Python's own errors have none
    is_corrupt = code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
    return (CorruptStore if is_corrupt else StoreError)(str(error))


@contextmanager
def store_errors() -> Iterator[None]:
    """Raise errors of SQLite as what they mean for us."""
    try:
        yield
    except sqlite3.Error as error:
        raise opened(error) from None
    except OverflowError as error:  # SQLite's integers have 64 bits
        raise BadQuery(f"a number is out of range: {error}") from None
    except (TypeError, ValueError) as error:  # of a value that we did not write
        raise CorruptStore(f"a value is spoiled: {error}") from error


def connect_writer(directory: Path) -> sqlite3.Connection:
    """Open the store for writing; make it if there is none.

    Raises:
        StoreError: it cannot be opened, or is of another version.
    """
    _keep_private(directory)
    with store_errors():
        connection = sqlite3.connect(
            directory / FILE_NAME, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
    try:
        with store_errors():
            if not connection.execute("PRAGMA application_id").fetchone()[0]:
                _make(connection)
            _check_version(connection)  # before anything is changed: it may be somebody else's
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_MAX}")
    except StoreError:
        connection.close()
        raise
    return connection


def _keep_private(directory: Path) -> None:
    """Give the store's files ``FILE_MODE`` whatever the umask is; SQLite copies it to new ones.

    An existing database is not opened for that: closing it would end the locks of the readers
    in this process (sqlite.org "How To Corrupt" §2.2).
    """
    path = directory / FILE_NAME
    with suppress(OSError):  # the connection reports what is wrong with it
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE))
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):  # not there, or of another user
            path.with_name(path.name + suffix).chmod(FILE_MODE)


def connect_reader(directory: Path) -> sqlite3.Connection:
    """Open the store for reading.

    Raises:
        StoreError: there is none, it cannot be opened, or is of another version.
    """
    with store_errors():
        connection = sqlite3.connect(
            f"{(directory / FILE_NAME).absolute().as_uri()}?mode=ro",
            uri=True,
            timeout=_BUSY_S,
            isolation_level=None,
            check_same_thread=False,
        )
    try:
        with store_errors():
            _check_version(connection)
    except StoreError:
        connection.close()
        raise
    return connection


def _make(connection: sqlite3.Connection) -> None:
    """Make the tables, all or none of them; a file with other tables is not ours."""
    if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        raise CorruptStore("the file is a database of something else")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.executescript(
        f"BEGIN IMMEDIATE;{_TABLES}"
        f"PRAGMA application_id = {APPLICATION_ID};PRAGMA user_version = {VERSION};COMMIT;"
    )


def _check_version(connection: sqlite3.Connection) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if not application and not tables:
        raise StoreError("the store is empty: it is being made")
    if application != APPLICATION_ID:
        raise CorruptStore("the file is not a history of hedgehogd's")
    if version != VERSION:
        raise StoreError(f"the store is of version {version}, this hedgehogd's is {VERSION}")
