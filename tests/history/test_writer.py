"""Writing: all of a batch or none, what is missing is written down, what is old goes.

Disks that are full are real ones here, small enough to be filled: a tmpfs of the test's own.
"""

import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.history import schema
from hedgehogd.history.reader import Reader
from hedgehogd.history.schema import CorruptStore, StoreError, connect_writer
from hedgehogd.history.writer import Entry, Hole, Writer
from tests.history.conftest import (
    BTC,
    FULL,
    HEARTBEAT,
    LEVEL2,
    LEVEL3,
    MATCHES,
    NAMES,
    NOW,
    TICKER,
    Store,
    bare,
    match,
    numbered,
    read_all,
)

SECOND = 1_000_000
ETH = Topic("matches", "ETH-USD")


def blocks_of(store):
    return [count for (count,) in store.rows("SELECT count FROM block ORDER BY id")]


def open_of(store):
    return store.rows("SELECT count(*) FROM open")[0][0]


def test_what_is_written_is_there_for_the_next_writer(store):
    """And it goes on where the first one has stopped."""
    assert store.writer.write([match(1), match(2)], NOW + 5) == 2
    writer = store.reopen()
    assert (writer.last_place, writer.last_sequence(MATCHES)) == (NOW + 2, 20)
    writer.write([match(3, at=NOW)], NOW + 6)

    assert store.payloads(MATCHES) == [match(n).payload for n in (1, 2, 3)]
    assert (store.reader.written_to(), store.reader.settings()["pairs"]) == (NOW + 6, BTC)


def test_names_are_of_the_newest_writer(store):
    """What is kept is changed by whoever configures the daemon."""
    store.writer.write([], NOW)
    store.close()
    Writer(store.directory, {"pairs": "ETH-USD"}).close()

    assert store.reader.settings() == {**NAMES, "pairs": "ETH-USD", "written_to": str(NOW)}


def test_blocks_are_sealed_by_size(store, monkeypatch):
    """Rows of a sealed block go, also those that came with earlier writes."""
    monkeypatch.setattr(limits, "BLOCK_BYTES", 3 * len(match(1).payload))
    store.writer.write([match(1), match(2)], NOW)
    assert (blocks_of(store), open_of(store)) == ([], 2)
    store.writer.write([match(3), match(4), match(1, topic=ETH)], NOW)
    assert (blocks_of(store), open_of(store)) == ([3], 2)
    store.writer.write([match(n) for n in range(5, 12)], NOW)
    assert (blocks_of(store), open_of(store)) == ([3, 3, 3], 3)


def test_blocks_are_sealed_by_age(store):
    """After ten seconds by the time of receipt, whether more came or not."""
    last_moment = NOW + 1 + int(limits.BLOCK_AGE_S * SECOND)
    store.writer.write([match(1), match(1, NOW + 9 * SECOND, ETH)], last_moment - 1)
    assert (blocks_of(store), open_of(store)) == ([], 2)
    store.writer.write([match(2)], last_moment)

    assert (blocks_of(store), open_of(store)) == ([2], 1)


def test_a_block_knows_its_numbers_and_times(store):
    """Each of them is looked for by somebody."""
    rows = [
        b'{"type":"ticker","sequence":%d,"trade_id":%d,"time":"1970-01-01T00:00:0%dZ"}' % (n, n, n)
        for n in (5, 6)
    ]
    entries = [
        Entry(TICKER, NOW, b"{}"),
        Entry(TICKER, NOW + 1, rows[0], 5, 50),
        Entry(TICKER, NOW + 2, rows[1], 6, 60),
        Entry(LEVEL2, NOW + 3, rows[0]),
        Entry(LEVEL2, NOW + 4, rows[1]),
    ]
    store.writer.write(entries, NOW + 60 * SECOND)

    assert store.rows(
        "SELECT first_place, last_place, count, first_sequence, last_sequence, first_trade_id,"
        " last_trade_id, first_us, last_us FROM block ORDER BY id"
    ) == [
        (NOW, NOW + 2, 3, 5, 6, 50, 60, None, 6 * SECOND),
        (NOW + 3, NOW + 4, 2, None, None, None, None, 5 * SECOND, 6 * SECOND),
    ]


@pytest.mark.parametrize("late_us", [0, 1, 20 * SECOND])
def test_repeats_of_what_another_has_kept_are_dropped(store, late_us):
    """Tapes overlap; receive times of two instances differ."""
    store.writer.write([match(1), numbered(FULL, 7, NOW + 2), bare(HEARTBEAT, 1, NOW + 3)], NOW)
    writer = store.reopen()
    again = [
        match(1, NOW + 1 + late_us), numbered(FULL, 7, NOW + 2 + late_us),
        match(2, NOW + 9 + late_us), numbered(FULL, 8, NOW + 10 + late_us),
    ]  # fmt: skip

    assert writer.write([*again, bare(HEARTBEAT, 1, NOW + 3)], NOW) == 2
    assert store.payloads(MATCHES, FULL) == [
        match(1).payload, numbered(FULL, 7, 0).payload,
        match(2).payload, numbered(FULL, 8, 0).payload,
    ]  # fmt: skip
    assert len(store.payloads(HEARTBEAT)) == 1


def test_the_last_trade_is_not_kept_again_however_much_later(store):
    """The exchange greets with it whoever connects, hours after it was made."""
    hour = NOW + 3600 * SECOND
    store.writer.write([match(1)], NOW)
    store.reopen().write([match(1, hour), match(2, hour + 1)], hour)

    assert store.payloads(MATCHES) == [match(1).payload, match(2).payload]


def test_numbers_may_begin_anew(store):
    """A sandbox is made anew; after a minute nobody can still be handing over."""
    store.writer.write([match(100), numbered(LEVEL3, 900, NOW)], NOW)
    later = NOW + int(limits.HISTORY_OVERLAP_S * SECOND) + 200
    again = [match(1, later), numbered(LEVEL3, 1, later), match(2, later)]

    assert store.reopen().write(again, later) == 3
    assert store.gaps(MATCHES, LEVEL3) == []
    assert store.reader.find(MATCHES, 15) == (later, 10)
    assert store.reader.find(MATCHES, 10**6)[1] == 20
    assert store.reader.find(LEVEL3, 1)[1] == 1


def test_after_the_first_new_message_nothing_is_a_repeat(store):
    """The feed has told repeats apart already; the writer only knows where another stopped."""
    store.writer.write([match(5)], NOW)
    writer = store.reopen()

    assert writer.write([match(4), match(5), match(6), match(3), match(6)], NOW) == 3


def test_what_begins_anew_repeats_nothing(store):
    """Changes to a book have no numbers, and the clock may have been set back."""
    store.writer.write([bare(LEVEL2, "old", NOW)], NOW)
    book = [bare(LEVEL2, "a", NOW - 9 * SECOND, "snapshot"), bare(LEVEL2, "b", NOW - 8 * SECOND)]
    store.reopen().write([Hole(LEVEL2, "seam"), *book], NOW)

    assert store.payloads(LEVEL2) == [bare(LEVEL2, "old", 0).payload, *(e.payload for e in book)]
    assert store.gaps(LEVEL2) == [(LEVEL2, "seam", None, None)]


def test_missing_numbers_are_written_down(store):
    """By trade id where those are dense, by sequence where these are; nowhere else."""
    rows = [
        match(1), match(5), match(2, topic=ETH),
        numbered(FULL, 10, NOW), numbered(FULL, 11, NOW), numbered(FULL, 13, NOW),
        numbered(LEVEL3, 10, NOW), numbered(LEVEL3, 20, NOW),
        numbered(TICKER, 10, NOW), numbered(TICKER, 20, NOW),
    ]  # fmt: skip
    store.writer.write(rows, NOW)
    store.reopen().write([match(9), match(4, topic=ETH), match(5, topic=ETH)], NOW)

    assert store.gaps(MATCHES, ETH, FULL, LEVEL3, TICKER) == [
        (MATCHES, "missing", 2, 4),
        (FULL, "missing", 12, 12),
        (LEVEL3, "missing", 11, 19),
        (MATCHES, "missing", 6, 8),
        (ETH, "missing", 3, 3),
    ]


def test_a_message_without_its_number_makes_no_gap(store):
    """The exchange may leave it out; the next one's says what is missing."""
    odd = Entry(MATCHES, NOW + 2, b'{"type":"match"}')
    store.writer.write([odd, match(1), odd, match(2), odd, match(4)], NOW)

    assert store.gaps(MATCHES) == [(MATCHES, "missing", 3, 3)]
    assert store.reopen().last_sequence(MATCHES) == 40


def test_a_hole_stands_where_it_is_told(store):
    """Between what came before and what came behind it; times of receipt stay what they are."""
    store.writer.write([match(1, NOW)], NOW)
    hole, seam = Hole(TICKER, "missing", 3, 8), Hole(LEVEL2, "seam", at_us=NOW + 50)
    store.writer.write(
        [hole, numbered(TICKER, 9, NOW + 40), seam, bare(LEVEL2, "", NOW + 60)], NOW + SECOND
    )
    messages, gaps = read_all(store.reader, [MATCHES, TICKER, LEVEL2])

    assert [m.received_us for m in messages] == [NOW, NOW + 40, NOW + 60]
    assert [gap[:5] for gap in gaps] == [
        (TICKER, NOW + 1, "missing", 3, 8),
        (LEVEL2, NOW + 50, "seam", None, None),
    ]


def test_places_rise_when_the_clock_steps_back(store):
    """Also for another writer, and behind a gap that stands last."""
    store.writer.write([match(1), match(2, NOW - 3600 * SECOND)], NOW)
    store.writer.write([Hole(LEVEL2, "seam", at_us=NOW + 50)], NOW)
    writer = store.reopen()
    assert writer.last_place == NOW + 50
    writer.write([match(3, NOW)], NOW)
    messages, _ = read_all(store.reader, [MATCHES])

    assert [message.received_us for message in messages] == [NOW + 1, NOW + 2, NOW + 51]


def filled(store, hours, monkeypatch):
    """Write a block an hour with a gap before it, and a trade that was fetched for it."""
    monkeypatch.setattr(limits, "BLOCK_BYTES", 1)
    for hour in range(hours):
        at = hour * 3600 * SECOND
        store.writer.write([match(2 * hour, at + SECOND, size=5000)], at)
        time = f"1970-01-01T{hour:02}:00:02Z"
        store.writer.keep_trades(BTC, [{"trade_id": 2 * hour, "time": time}])


def test_what_is_too_old_goes_with_its_gaps_and_trades(store, monkeypatch):
    """Blocks as a whole: what is behind the moment stays, and the block that lies across it."""
    filled(store, 6, monkeypatch)
    assert store.writer.retain(0, 10**9) == 0
    assert store.writer.retain(3 * 3600 * SECOND, 10**9) == 3

    assert [m.trade_id for m in read_all(store.reader, [MATCHES])[0]] == [6, 8, 10]
    assert store.gaps(MATCHES) == [(MATCHES, "missing", 7, 7), (MATCHES, "missing", 9, 9)]
    assert len(store.reader.trades(BTC, 0, 99)) == 3
    assert store.reader.first_place(MATCHES) == 3 * 3600 * SECOND + SECOND + 1  # behind its gap


def test_what_is_too_much_goes_oldest_first(store, monkeypatch):
    """The disk is shared with others."""
    monkeypatch.setattr(limits, "HISTORY_RETAIN_BLOCKS_MAX", 2)
    monkeypatch.setattr(
        "hedgehogd.history.writer.pack", lambda topic, kept: random.Random(1).randbytes(9000)
    )
    filled(store, 20, monkeypatch)
    size = store.writer._bytes()
    removed = store.writer.retain(0, size // 2)

    assert size // 4 < store.writer._bytes() <= size // 2
    assert removed % 2 == 0
    kept = [p // (3600 * SECOND) for (p,) in store.rows("SELECT last_place FROM block")]
    assert kept == list(range(removed, 20))
    assert len(store.rows("SELECT * FROM gap")) == len(kept) - 1
    assert len(store.rows("SELECT * FROM trade")) == len(kept)


def test_what_is_open_stays_however_little_may_be_kept(store, monkeypatch):
    """It ends when nothing is left to be removed."""
    filled(store, 3, monkeypatch)
    monkeypatch.undo()
    store.writer.write([match(9, 4 * 3600 * SECOND)], 0)

    assert store.writer.retain(0, 0) == 3
    assert store.writer.retain(0, 0) == 0
    assert [m.trade_id for m in read_all(store.reader, [MATCHES])[0]] == [9]


def test_what_was_removed_is_given_back_to_the_disk(store, monkeypatch):
    """A file that only grows fills the disk for the others."""
    monkeypatch.setattr(
        "hedgehogd.history.writer.pack", lambda topic, kept: random.Random(1).randbytes(50_000)
    )
    filled(store, 10, monkeypatch)
    store.close()
    before = store.file.stat().st_size
    store.writer.retain(10**18, 10**9)
    store.close()

    assert before > 500_000
    assert store.file.stat().st_size < 100_000


def test_giving_back_is_done_in_parts(store, monkeypatch):
    """A disk that is cleared of gigabytes at once stands still meanwhile."""
    monkeypatch.setattr(limits, "HISTORY_VACUUM_PAGES_MAX", 10)
    monkeypatch.setattr(
        "hedgehogd.history.writer.pack", lambda topic, kept: random.Random(1).randbytes(50_000)
    )
    filled(store, 10, monkeypatch)
    store.writer.retain(10**18, 10**9)
    (free,) = store.rows("PRAGMA freelist_count")[0]
    store.writer.retain(10**18, 10**9)

    assert store.rows("PRAGMA freelist_count")[0][0] == free - 10


def contents(store):
    """Return all rows of all tables."""
    names = [name for (name,) in store.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    return {name: store.rows(f"SELECT * FROM {name}") for name in names}


def test_on_a_full_disk_nothing_is_half_written(full_disk):
    """It is told; and when there is space again, another writer goes on as if nothing were."""
    disk, fill, clear = full_disk
    writer = Writer(disk, NAMES)
    writer.write([match(1)], NOW)
    fill()
    written = 1
    with pytest.raises(StoreError, match="disk is full") as caught:
        while written < 1000:
            batch = [match(written + 1, size=3000), numbered(FULL, written + 1, NOW)]
            writer.write(batch, NOW)
            written += 1
    assert not isinstance(caught.value, CorruptStore)
    writer.close()
    with pytest.raises(StoreError, match="full"):
        Writer(disk, NAMES).write([match(written + 1, size=30_000)], NOW)
    reader = Reader(disk)
    messages, gaps = read_all(reader, [MATCHES, FULL])
    clear()

    assert [m.trade_id for m in messages if m.topic == MATCHES] == list(range(1, written + 1))
    assert [m.sequence for m in messages if m.topic == FULL] == list(range(2, written + 1))
    assert gaps == []
    writer = Writer(disk, NAMES)
    assert writer.write([match(n) for n in range(1, written + 3)], NOW) == 2
    assert len(read_all(reader, [MATCHES])[0]) == written + 2
    writer.close()
    reader.close()


def test_a_store_cannot_be_made_on_a_full_disk(full_disk):
    """Nothing is left of the attempt that a later one would take for a store."""
    disk, fill, clear = full_disk
    for room in (0, 4096, 12_288, 24_576):
        fill(room)
        with pytest.raises(StoreError) as caught:
            Writer(disk, NAMES)
        assert not isinstance(caught.value, CorruptStore)
        clear()
    writer = Writer(disk, NAMES)
    assert writer.write([match(1)], NOW) == 1
    writer.close()


@given(st.integers(0, 40))
def test_an_error_anywhere_in_a_write_undoes_all_of_it(tmp_path_factory, steps):
    """Sealing, gaps and topics included; as if SQLite could fail at each statement."""
    store = Store(tmp_path_factory.mktemp("store"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "BLOCK_BYTES", 150)
        store.writer.write([match(1), numbered(TICKER, 1, NOW)], NOW)
        before = contents(store)
        writer = store.writer
        real = writer._connection

        class Failing:
            """The connection, until it is used once too often."""

            left = steps

            def __getattr__(self, name):
                return getattr(real, name)

            def execute(self, statement, *arguments):
                if statement not in {"BEGIN IMMEDIATE", "ROLLBACK"}:
                    self.left -= 1
                    if self.left < 0:
                        raise sqlite3.OperationalError("disk I/O error")
                return real.execute(statement, *arguments)

            def executemany(self, statement, rows):
                self.execute("SELECT 1")
                return real.executemany(statement, rows)

        writer._connection = Failing()
        batch = [match(n) for n in (3, 4, 5, 9)] + [match(1, topic=ETH), Hole(LEVEL2, "seam")]
        try:
            writer.write(batch, NOW + 60 * SECOND)
            has_failed = False
        except StoreError:
            has_failed = True
        writer._connection = real
        assert has_failed == (contents(store) == before)
        assert store.reopen().write(batch, NOW + 60 * SECOND) == (5 if has_failed else 0)
    store.close()


def test_a_batch_that_cannot_be_written_leaves_nothing(store):
    """A bug of ours is not told as one of the disk, and undoes its transaction too."""
    store.writer.write([match(1)], NOW)
    before = contents(store)
    with pytest.raises(AttributeError):
        store.writer.write([match(2), match(5), None], NOW)

    assert contents(store) == before
    assert store.reopen().write([match(2)], NOW) == 1


def test_a_locked_store_is_an_error_in_time(store, monkeypatch):
    """Somebody looks at it with a tool that locks it; streaming goes on."""
    monkeypatch.setattr(schema, "_BUSY_S", 0.0)
    store.writer.write([match(1)], NOW)
    other = sqlite3.connect(store.file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for write in (
        lambda: store.writer.write([match(2)], NOW),
        lambda: store.writer.keep_trades(BTC, []),
        lambda: store.writer.retain(0, 0),
        lambda: Writer(store.directory, NAMES),
    ):
        with pytest.raises(StoreError, match="database is locked") as caught:
            write()
        assert not isinstance(caught.value, CorruptStore)
    other.execute("ROLLBACK")
    other.close()

    assert store.reopen().write([match(2)], NOW) == 1


def test_a_writer_that_cannot_begin_closes_the_file(store, monkeypatch):
    """It is tried every second, for days."""
    store.writer.write([match(1)], NOW)
    store.close()
    made = []
    monkeypatch.setattr(
        "hedgehogd.history.writer.connect_writer",
        lambda directory: made.append(connect_writer(directory)) or made[-1],
    )
    with pytest.raises(StoreError):
        Writer(store.directory, {"pairs": None})
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        made[0].execute("SELECT 1")


WRITING = """
import random, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from hedgehogd.domain import limits
from hedgehogd.history.writer import Writer
from tests.history.conftest import BTC, FULL, NAMES, match, numbered
limits.BLOCK_BYTES = 2000
chance = random.Random(int(sys.argv[2]))
writer = Writer(Path(sys.argv[1]), NAMES)
number = (writer.last_sequence(FULL) or 0) + 1
while True:
    end = number + chance.randint(1, 40)
    at = [1_700_000_000_000_000 + n for n in range(number, end)]
    writer.write([e for n, t in zip(range(number, end), at) for e in (
        match(n, t, size=chance.randint(1, 50)), numbered(FULL, n, t))], at[-1])
    number = end
    print(number - 1, flush=True)
    if not chance.randint(0, 30):
        writer.retain(0, 10**9)
"""


@pytest.mark.random
def test_what_was_acknowledged_survives_kill_9(store):
    """At whatever moment; without holes, without doubles, and the next one goes on behind it."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201  # pytest shows it when it fails
    chance = random.Random(seed)
    root = Path(__file__).parents[2]
    acknowledged = 0
    for turn in range(10):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITING, store.directory, str(seed + turn), root],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            for _ in range(chance.randint(1, 30)):
                acknowledged = int(process.stdout.readline())
            time.sleep(chance.random() / 100)  # somewhere within a write
        finally:
            process.send_signal(signal.SIGKILL)
            rest = process.communicate()[0].splitlines()
        acknowledged = int(rest[-1]) if rest and rest[-1].isdigit() else acknowledged
        messages, gaps = read_all(store.reader, [MATCHES, FULL])
        numbers = [m.trade_id for m in messages if m.topic == MATCHES]
        assert gaps == []
        assert numbers == list(range(1, len(numbers) + 1))
        assert numbers == [m.sequence for m in messages if m.topic == FULL]
        assert len(numbers) >= acknowledged
        assert store.rows("PRAGMA integrity_check") == [("ok",)]
    assert len(blocks_of(store)) > 1
