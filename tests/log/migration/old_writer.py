"""Write a store of the former version, with the same bytes as the former writer.

The format does not change any more, and the limits are those of the last version. Messages of one
topic are rows at first; then a block of them replaces the rows. A second writer of a store leaves
out the messages that the first one wrote: its instance received some of them too.
"""

import json
import os
import sqlite3
import zlib
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

from hedgehogd.domain.channel import FULL, LEVEL3, MATCHES, TICKER, Topic
from hedgehogd.domain.instant import time_of
from hedgehogd.log.migration.old_block import _priming
from hedgehogd.log.migration.old_store import APPLICATION_ID, FILE_NAME, MISSING, VERSION

BLOCK_BYTES = 64 * 1024
BLOCK_AGE_US = 10_000_000
OVERLAP_US = 60_000_000
_WAL_BYTES_MAX = 64 * 1024 * 1024
_BY_SEQUENCE = {FULL.topic_channel, LEVEL3.topic_channel}
_NUMBERED = _BY_SEQUENCE | {MATCHES.topic_channel, TICKER.topic_channel}
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


class Entry(NamedTuple):
    """A message; its receive time is in µs since the epoch."""

    topic: Topic
    received_us: int
    payload: bytes
    sequence: int | None = None
    trade_id: int | None = None


class Gap(NamedTuple):
    """A gap of kind ``MISSING``, or ``BOOK_START``; its place is at least ``at_us``."""

    topic: Topic
    kind: str
    first: int | None = None
    last: int | None = None
    at_us: int = 0


class _Rows:
    """The messages of a topic that are in no block yet, and its last numbers."""

    def __init__(self, number, topic):
        self.number, self.topic = number, topic
        self.rows = []
        self.last_place = 0
        self.last_sequence = self.last_trade_id = None

    def add(self, place, sequence, trade_id, payload):
        self.rows.append((place, sequence, trade_id, payload))
        self.last_place = place
        self.last_sequence = self.last_sequence if sequence is None else sequence
        self.last_trade_id = self.last_trade_id if trade_id is None else trade_id

    @property
    def bytes(self):
        return sum(len(payload) for *_, payload in self.rows)


class OldWriter:
    """A store, open for writing."""

    def __init__(self, directory, settings=None):
        self._connection = _connect(directory / FILE_NAME)
        self.last_place = 0
        self._topics = {}
        self._load()
        self._late = set(self._topics)  # topics in which messages of the writer before may repeat
        with self._transaction():
            self._set(settings or {})

    def close(self):
        self._connection.close()

    def write(self, entries, now_us):
        """Write messages and gaps in one transaction."""
        new = {}
        with self._transaction():
            for entry in entries:
                if isinstance(entry, Gap):
                    self._write_gap(entry)
                else:
                    self._write_message(entry, new)
            for state in self._topics.values():
                if state.rows and now_us - state.rows[0][0] >= BLOCK_AGE_US:
                    self._seal(state, new)
            for number, rows in new.items():
                self._connection.executemany(
                    "INSERT INTO open VALUES (?, ?, ?, ?, ?)", [(number, *row) for row in rows]
                )
            self._set({"written_to": str(now_us)})

    def keep_trades(self, product_id, trades):
        """Write backfilled trades, each once."""
        with self._transaction():
            number = self._state(MATCHES.topic(product_id)).number
            for trade in trades:
                payload = json.dumps(trade, separators=(",", ":"), ensure_ascii=False).encode()
                row = (number, trade["trade_id"], time_of(payload), payload)
                self._connection.execute("INSERT OR IGNORE INTO trade VALUES (?, ?, ?, ?)", row)

    def _write_message(self, entry, new):
        state = self._state(entry.topic)
        if entry.topic in self._late and self._is_repeat(state, entry):
            return
        number = entry.sequence
        if state.rows and number is not None and number < (state.last_sequence or 0):
            self._seal(state, new)  # numbers begin again
        self._find_gap(state, entry)
        row = (self._next_place(entry.received_us), entry.sequence, entry.trade_id, entry.payload)
        state.add(*row)
        new.setdefault(state.number, []).append(row)
        if state.bytes >= BLOCK_BYTES:
            self._seal(state, new)

    def _is_repeat(self, state, entry):
        last, number = state.last_sequence, entry.sequence
        if entry.topic.channel not in _NUMBERED or number is None or last is None:
            is_repeat = entry.received_us <= state.last_place
        else:
            is_late = entry.received_us <= state.last_place + OVERLAP_US
            is_repeat = number == last or (number < last and is_late)
        if not is_repeat:
            self._late.discard(entry.topic)
        return is_repeat

    def _find_gap(self, state, entry):
        if entry.topic.channel == MATCHES.topic_channel:
            last, number = state.last_trade_id, entry.trade_id
        elif entry.topic.channel in _BY_SEQUENCE:
            last, number = state.last_sequence, entry.sequence
        else:
            return
        if last is not None and number is not None and number > last + 1:
            self._write_gap(Gap(entry.topic, MISSING, last + 1, number - 1, entry.received_us))

    def _write_gap(self, gap):
        place = self._next_place(gap.at_us)
        number = self._state(gap.topic).number
        if gap.kind != MISSING:
            self._late.discard(gap.topic)  # a new book repeats nothing
        row = (number, place, gap.kind, gap.first, gap.last)
        self._connection.execute("INSERT INTO gap VALUES (?, ?, ?, ?, ?)", row)

    def _next_place(self, at_us):
        self.last_place = max(self.last_place + 1, at_us)
        return self.last_place

    def _seal(self, state, new):
        """Replace the rows of a topic by a block."""
        if len(new.pop(state.number, ())) < len(state.rows):
            self._connection.execute("DELETE FROM open WHERE topic = ?", (state.number,))
        places, sequences, trade_ids, payloads = zip(*state.rows, strict=True)
        self._connection.execute(
            "INSERT INTO block VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(state.number, places[0], places[-1], len(places)),
                *(*_ends(sequences), *_ends(trade_ids)),
                *(time_of(payloads[0]), time_of(payloads[-1])),
                pack(state.topic, list(zip(places, payloads, strict=True))),
            ),
        )
        state.rows = []

    def _state(self, topic):
        if topic not in self._topics:
            query = "INSERT INTO topic VALUES (NULL, ?, ?) RETURNING id"
            number = self._connection.execute(query, topic).fetchone()[0]
            self._topics[topic] = _Rows(number, topic)
        return self._topics[topic]

    def _load(self):
        execute = self._connection.execute
        for number, *names in execute("SELECT * FROM topic").fetchall():
            topic = Topic(*names)
            state = self._topics[topic] = _Rows(number, topic)
            query = "SELECT last_place, last_sequence, last_trade_id FROM block WHERE topic = ?"
            for row in execute(f"{query} ORDER BY last_place DESC LIMIT 1", (number,)):
                state.last_place, state.last_sequence, state.last_trade_id = row
            query = "SELECT place, sequence, trade_id, payload FROM open WHERE topic = ?"
            for row in execute(f"{query} ORDER BY place", (number,)):
                state.add(*row)
            self.last_place = max(self.last_place, state.last_place)
        self.last_place = max(
            self.last_place, execute("SELECT max(place) FROM gap").fetchone()[0] or 0
        )

    def _set(self, settings):
        self._connection.executemany(
            "INSERT OR REPLACE INTO setting VALUES (?, ?)", settings.items()
        )

    @contextmanager
    def _transaction(self):
        self._connection.execute("BEGIN IMMEDIATE")
        yield
        self._connection.execute("COMMIT")


def pack(topic, messages):
    """Return a block of messages: pairs of a place and a payload."""
    places = [place for place, _ in messages]
    differences = [places[0], *(b - a for a, b in pairwise(places))]
    parts = [payload for _, payload in messages]
    parts.append(",".join(map(str, differences)).encode())
    packer = zlib.compressobj(8, zlib.DEFLATED, -15, 9, zdict=_priming(topic))
    return packer.compress(b"\xff".join(parts)) + packer.flush()


def _connect(path):
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o640))
    connection = sqlite3.connect(path, isolation_level=None)
    if not connection.execute("PRAGMA application_id").fetchone()[0]:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.executescript(
            f"BEGIN IMMEDIATE;{_TABLES}"
            f"PRAGMA application_id = {APPLICATION_ID};PRAGMA user_version = {VERSION};COMMIT;"
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES_MAX}")
    return connection


def _ends(numbers):
    known = [number for number in numbers if number is not None]
    return (known[0], known[-1]) if known else (None, None)
