"""Writing to the store: rows first, sealed into blocks; what is missing is written down.

Not for the loop: every method waits for the disk, and so does opening. One writer at a time
(``lock``), one call at a time.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from hedgehogd.domain import limits
from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, FULL, LEVEL3, MATCHES, TICKER, Topic
from hedgehogd.domain.instant import time_of
from hedgehogd.history.block_codec import Kept, pack
from hedgehogd.history.schema import connect_writer, store_errors

_BY_SEQUENCE = frozenset({FULL.topic_channel, LEVEL3.topic_channel})
_NUMBERED = _BY_SEQUENCE | {MATCHES.topic_channel, TICKER.topic_channel}
_US = 1_000_000
WRITTEN_TO = "written_to"


class Entry(NamedTuple):
    """One message to be kept.

    Attributes:
        topic: under which topic.
        received_us: when it came, µs since the epoch.
        payload: what the exchange sent.
        sequence: the product's engine counter, or None.
        trade_id: the product's trade counter, or None.
    """

    topic: Topic
    received_us: int
    payload: bytes
    sequence: int | None = None
    trade_id: int | None = None


class Hole(NamedTuple):
    """Something that could not be kept; it stands where it is among the entries.

    Attributes:
        topic: of which topic.
        kind: ``missing``, numbers that nobody has; ``seam``, a book that begins anew.
        first: the first missing number: a trade id on ``matches``, else a sequence; or None.
        last: the last one.
        at_us: not before when it stands, µs since the epoch; 0: right behind what is kept.
    """

    topic: Topic
    kind: str
    first: int | None = None
    last: int | None = None
    at_us: int = 0


class _Open(msgspec.Struct, gc=False):
    """What the writer knows of one topic: its open block, and how far it is."""

    id: int
    topic: Topic
    kept: list[Kept]
    sequences: list[int | None]
    trade_ids: list[int | None]
    bytes: int = 0
    last_place: int = 0
    last_sequence: int | None = None
    last_trade_id: int | None = None


class Writer:
    """The store, open for writing.

    Attributes:
        last_place: the newest place of all topics.
    """

    def __init__(self, directory: Path, settings: dict[str, str]) -> None:
        """Open the store in ``directory``; ``settings`` are what it names.

        Raises:
            StoreError: it cannot be opened or read.
        """
        self._connection = connect_writer(directory)
        self.last_place = 0
        self._open: dict[Topic, _Open] = {}
        self._late: set[Topic] = set()  # what others may have kept already
        try:
            self._load()
            with self._transaction():
                self._set(settings)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file; what was written stays."""
        self._connection.close()

    def last_sequence(self, topic: Topic) -> int | None:
        """Return the newest sequence kept of a topic; None for none."""
        state = self._open.get(topic)
        return None if state is None else state.last_sequence

    def write(self, entries: Sequence[Entry | Hole], now_us: int) -> int:
        """Keep ``entries`` in one transaction: all of them, or none.

        Repeats of numbered messages are dropped while they overlap with what the writer
        before this one has kept; numbers left out are written down as missing.

        Returns:
            How many messages were kept.

        Raises:
            StoreError: nothing was written, and this writer is of no more use.
        """
        rows: dict[int, list[tuple[Any, ...]]] = {}
        kept = 0
        with self._transaction():
            for entry in entries:
                if isinstance(entry, Hole):
                    self._write_hole(entry)
                elif self._keep(entry, rows):
                    kept += 1
            for state in self._open.values():
                age_us = now_us - state.kept[0].place if state.kept else 0
                if age_us >= limits.BLOCK_AGE_S * _US:
                    self._seal(state, rows)
            for pending in rows.values():
                self._connection.executemany("INSERT INTO open VALUES (?, ?, ?, ?, ?)", pending)
            self._set({WRITTEN_TO: str(now_us)})
        return kept

    def keep_trades(self, product_id: str, trades: Iterable[Mapping[str, Any]]) -> None:
        """Keep trades that were fetched afterwards; each once.

        Raises:
            StoreError: nothing was written.
        """
        topic = MATCHES.topic(product_id)
        with self._transaction():
            number = self._state(topic).id
            for trade in trades:
                payload = msgspec.json.encode(trade)
                row = (number, trade["trade_id"], time_of(payload), payload)
                self._connection.execute("INSERT OR IGNORE INTO trade VALUES (?, ?, ?, ?)", row)

    def retain(self, before_us: int, bytes_max: int) -> int:
        """Remove blocks that are older than ``before_us``, and the oldest above ``bytes_max``.

        Returns:
            How many blocks were removed.

        Raises:
            StoreError: nothing was removed.
        """
        removed: int = 0
        with self._transaction() as connection:
            old = "DELETE FROM block WHERE last_place < ?"
            removed += connection.execute(old, (before_us,)).rowcount
            while self._bytes() > bytes_max:
                oldest = (
                    "DELETE FROM block WHERE id IN"
                    " (SELECT id FROM block ORDER BY last_place LIMIT ?)"
                )
                count = connection.execute(oldest, (limits.HISTORY_RETAIN_BLOCKS_MAX,)).rowcount
                if not count:
                    break
                removed += count
            first = connection.execute("SELECT min(first_place) FROM block").fetchone()[0]
            if removed and first is not None:
                connection.execute("DELETE FROM gap WHERE place < ?", (first,))
                connection.execute("DELETE FROM trade WHERE time_us < ?", (first,))
        with store_errors():
            vacuum = f"PRAGMA incremental_vacuum({limits.HISTORY_VACUUM_PAGES_MAX})"
            self._connection.executescript(vacuum)  # execute would remove one page alone
        return removed

    def _keep(self, entry: Entry, rows: dict[int, list[tuple[Any, ...]]]) -> bool:
        topic, sequence, trade_id = entry.topic, entry.sequence, entry.trade_id
        state = self._state(topic)
        if topic in self._late and self._is_repeat(state, entry):
            return False
        if state.kept and sequence is not None and sequence < (state.last_sequence or 0):
            self._seal(state, rows)  # numbers begin anew: in a block they rise
        self._note_missing(state, entry)
        place = self._next_place(entry.received_us)
        state.kept.append(Kept(place, entry.payload))
        state.sequences.append(sequence)
        state.trade_ids.append(trade_id)
        state.bytes += len(entry.payload)
        state.last_place = place
        if sequence is not None:
            state.last_sequence = sequence
        if trade_id is not None:
            state.last_trade_id = trade_id
        pending = rows.setdefault(state.id, [])
        pending.append((state.id, place, sequence, trade_id, entry.payload))
        if state.bytes >= limits.BLOCK_BYTES:
            self._seal(state, rows)
        return True

    def _is_repeat(self, state: _Open, entry: Entry) -> bool:
        """Say whether the writer before this one has kept ``entry``.

        By number while both may have it, afterwards no more: numbers may begin anew. The last
        one alone may come again much later, as what the exchange greets with.
        """
        last, number = state.last_sequence, entry.sequence
        if entry.topic.channel not in _NUMBERED or number is None or last is None:
            is_repeat = entry.received_us <= state.last_place
        else:
            is_late = entry.received_us <= state.last_place + limits.HISTORY_OVERLAP_S * _US
            is_repeat = number == last or (number < last and is_late)
        if not is_repeat:
            self._late.discard(entry.topic)
        return is_repeat

    def _note_missing(self, state: _Open, entry: Entry) -> None:
        """Write down the numbers between the last message of a dense channel and this one."""
        channel = entry.topic.channel
        if channel == MATCHES.topic_channel:
            last, number = state.last_trade_id, entry.trade_id
        elif channel in _BY_SEQUENCE:
            last, number = state.last_sequence, entry.sequence
        else:
            return
        if last is not None and number is not None and number > last + 1:
            hole = Hole(entry.topic, "missing", last + 1, number - 1, entry.received_us)
            self._write_hole(hole)

    def _write_hole(self, hole: Hole) -> None:
        place = self._next_place(hole.at_us)
        state = self._state(hole.topic)
        if hole.kind == "seam":
            self._late.discard(hole.topic)  # what begins anew repeats nothing
        row = (state.id, place, hole.kind, hole.first, hole.last)
        self._connection.execute("INSERT INTO gap VALUES (?, ?, ?, ?, ?)", row)

    def _next_place(self, at_us: int) -> int:
        self.last_place = max(self.last_place + 1, at_us)
        return self.last_place

    def _seal(self, state: _Open, rows: dict[int, list[tuple[Any, ...]]]) -> None:
        """Compress the open block of one topic; its rows are needed no longer."""
        if len(rows.pop(state.id, ())) < len(state.kept):
            self._connection.execute("DELETE FROM open WHERE topic = ?", (state.id,))
        kept = state.kept
        numbers = (*_ends(state.sequences), *_ends(state.trade_ids))
        times = (time_of(kept[0].payload), time_of(kept[-1].payload))
        self._connection.execute(
            "INSERT INTO block VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (state.id, kept[0].place, kept[-1].place, len(kept), *numbers, *times,
                pack(state.topic, kept)),
        )  # fmt: skip
        state.kept, state.sequences, state.trade_ids, state.bytes = [], [], [], 0

    def _state(self, topic: Topic) -> _Open:
        state = self._open.get(topic)
        if state is None:
            row = self._connection.execute(
                "INSERT INTO topic VALUES (NULL, ?, ?) RETURNING id", topic
            ).fetchone()
            state = self._open[topic] = _Open(row[0], topic, [], [], [])
        return state

    def _load(self) -> None:
        """Take up what is there: open blocks, and how far each topic is."""
        with store_errors():
            execute = self._connection.execute
            for number, channel, product_id in execute("SELECT * FROM topic").fetchall():
                topic = Topic(channel, product_id)
                state = self._open[topic] = _Open(number, topic, [], [], [])
                last = execute(
                    "SELECT last_place, last_sequence, last_trade_id FROM block"
                    " WHERE topic = ? ORDER BY last_place DESC LIMIT 1",
                    (number,),
                ).fetchone()
                if last is not None:
                    state.last_place, state.last_sequence, state.last_trade_id = last
                rows = (
                    "SELECT place, sequence, trade_id, payload FROM open"
                    " WHERE topic = ? ORDER BY place"
                )
                for place, sequence, trade_id, payload in execute(rows, (number,)):
                    state.kept.append(Kept(place, payload))
                    state.sequences.append(sequence)
                    state.trade_ids.append(trade_id)
                    state.bytes += len(payload)
                    state.last_place = place
                    state.last_sequence = state.last_sequence if sequence is None else sequence
                    state.last_trade_id = state.last_trade_id if trade_id is None else trade_id
                self.last_place = max(self.last_place, state.last_place)
            gap = execute("SELECT max(place) FROM gap").fetchone()[0]
            self.last_place = max(self.last_place, gap or 0)
        self._late = {t for t in self._open if t.channel in BY_TOPIC_CHANNEL}

    def _set(self, settings: dict[str, str]) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO setting VALUES (?, ?)", settings.items()
        )

    def _bytes(self) -> int:
        """Return how large the database is without its free pages."""
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with store_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def _ends(numbers: list[int | None]) -> tuple[int | None, int | None]:
    """Return the first and the last number that there is."""
    known = [number for number in numbers if number is not None]
    return (known[0], known[-1]) if known else (None, None)
