"""The old store as the migration reads it."""

import sqlite3

import pytest

from hedgehogd.domain.channel import MATCHES, TICKER
from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.log.migration.old_block import BadBlock
from hedgehogd.log.migration.old_store import (
    BOOK_START,
    DamagedStore,
    LockedStore,
    OldStore,
    OldStoreError,
    OldTrade,
    is_old_store,
    refuse_old_store,
)
from tests.log.migration.old_writer import Entry, Gap, OldWriter

TOPIC, TRADES = TICKER.topic("BTC-USD"), MATCHES.topic("BTC-USD")
NOW, S = 1_790_000_000_000_000, 1_000_000


@pytest.fixture
def store(tmp_path):
    """A block of two messages, a new start, a row, a trade, and the topic of the trade."""
    writer = OldWriter(tmp_path)
    writer.write([Entry(TOPIC, NOW, b'{"sequence":1}', 1), Entry(TOPIC, NOW, b"{}", 2)], NOW)
    writer.write([Gap(TOPIC, BOOK_START, at_us=NOW + 20 * S)], NOW + 20 * S)
    writer.write([Entry(TOPIC, NOW + 30 * S, b"last", 3)], NOW + 30 * S)
    writer.keep_trades("BTC-USD", [{"trade_id": 7}])
    writer.close()
    store = OldStore(tmp_path)
    yield store
    store.close()


def test_blocks_and_rows_are_sources(store):
    """A source begins at its oldest message."""
    block, rows = store.sources(0)

    assert [block[:3], rows[:3]] == [(NOW, NOW + 1, 1), (NOW + 30 * S, NOW + 30 * S, 1)]
    assert store.read(block) == [(NOW, b'{"sequence":1}'), (NOW + 1, b"{}")]
    assert store.read(rows) == [(NOW + 30 * S, b"last")]
    assert (store.count_sources(0), store.count_sources(NOW + S)) == (2, 1)
    assert list(store.sources(NOW + S)) == [rows]
    assert list(store.sources_back(1, NOW + 60 * S)) == [rows, block]
    assert list(store.sources_back(1, NOW)) == [block]
    assert store.counts() == {TOPIC: 3}
    assert store.lost_messages(1, block.last_place) == 2
    with pytest.raises(BadBlock, match="absent"):
        store.read(block._replace(block=99))


def test_a_block_with_another_count_is_damaged(store):
    """Its row says how many messages it has."""
    store._connection.execute("UPDATE block SET count = 3")
    with pytest.raises(BadBlock, match="2 messages instead of 3"):
        store.read(next(store.sources(0)))


def test_gaps_and_trades_are_read(store):
    """A new start of a book is no gap."""
    (gap,) = store.gaps()
    (trade,) = store.trades()

    assert gap == (NOW + 20 * S, 1, BOOK_START, None, None)
    assert (list(store.gaps(NOW + 21 * S)), list(store.gaps(kind="missing"))) == ([], [])
    assert (store.last_book_start(1, NOW + 60 * S), store.last_book_start(1, NOW)) == (
        NOW + 20 * S,
        0,
    )
    assert trade == OldTrade(2, 7, None)
    assert store.payload_of(trade) == b'{"trade_id":7}'


def test_the_deployment_is_noted(tmp_path, store):
    """The next run continues the same archive."""
    assert store.deployment == ""
    store.note_deployment("abcdef")
    assert store.deployment == "abcdef"


def test_a_retired_store_is_renamed_and_replaces_no_file(tmp_path, store):
    """It is no store of hedgehogd's any more, and nothing is removed."""
    (tmp_path / "history.sqlite.migrated").write_text("an older one")
    store.close = lambda: None
    path = store.retire()

    assert path.name == "history.sqlite.migrated-2"
    assert (tmp_path / "history.sqlite.migrated").read_text() == "an older one"
    assert not is_old_store(tmp_path)
    assert [each.name for each in tmp_path.glob("*-wal")] == []


def test_a_start_on_an_old_store_names_the_remedy(tmp_path):
    """Exit status 78."""
    refuse_old_store(tmp_path)
    refuse_old_store(tmp_path / "absent")
    OldWriter(tmp_path).close()
    assert is_old_store(tmp_path)
    with pytest.raises(OperatorError, match=f"hedgehogd store migrate {tmp_path}") as caught:
        refuse_old_store(tmp_path)
    assert caught.value.exit_status == EXIT_CONFIG


def test_a_directory_that_cannot_be_read_has_no_old_store(tmp_path, monkeypatch):
    """The archive reports the fault."""

    def fail(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "is_file", fail)
    assert not is_old_store(tmp_path)


def test_a_store_that_is_read_is_locked(tmp_path):
    """The reader's journal would be lost with the name of the file."""
    OldWriter(tmp_path).close()
    reader = sqlite3.connect(f"file:{tmp_path}/history.sqlite?mode=ro", uri=True)
    reader.execute("SELECT * FROM setting").fetchall()
    with pytest.raises(LockedStore, match="another process"):
        OldStore(tmp_path)
    reader.close()
    OldStore(tmp_path).close()


@pytest.mark.parametrize(
    ("query", "error", "reason"),
    [
        ("PRAGMA application_id = 5", DamagedStore, "not a store of hedgehogd"),
        ("PRAGMA user_version = 9", OldStoreError, "version 9"),
        ("DROP TABLE topic", DamagedStore, "no such table"),
    ],
)
def test_another_database_is_refused(tmp_path, query, error, reason):
    """It is not changed."""
    OldWriter(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "history.sqlite")
    connection.execute(query)
    connection.close()
    with pytest.raises(error, match=reason):
        OldStore(tmp_path)


def test_other_bytes_and_absent_files_are_errors(tmp_path):
    """Each has its text."""
    with pytest.raises(OldStoreError, match="does not exist"):
        OldStore(tmp_path)
    with pytest.raises(OldStoreError, match="No such file"):
        OldStore(tmp_path / "absent")
    (tmp_path / "history.sqlite").write_bytes(b"other bytes" * 1000)
    with pytest.raises(DamagedStore, match="not a database"):
        OldStore(tmp_path)


def test_a_store_without_tables_is_empty(tmp_path):
    """Its daemon ended between two steps."""
    (tmp_path / "history.sqlite").touch()
    store = OldStore(tmp_path)
    assert (store.is_empty, store.topics, store.deployment) == (True, {}, "")
    store.note_deployment("abcdef")
    assert (list(store.sources(0)), store.counts(), list(store.trades())) == ([], {}, [])
    store.close()
