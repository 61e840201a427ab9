"""Stores that the last version with a SQLite store wrote, and the records that its reader found.

``market`` is ``make_store(…, 2026, 24)``, written by its writer: all channels, numbers that begin
again, several writers. ``recording`` is half a minute of a recorded feed, written by its recorders:
the second one took over after half of it; some trades were left out, and half of these backfilled.
"""

import json
import lzma
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.record import GapKind
from hedgehogd.log.archive.check import Totals, check
from hedgehogd.log.migration.migrate import migrate
from hedgehogd.log.migration.old_store import BOOK_START, FILE_NAME, MISSING
from tests.log.migration.stores import (
    gaps_of,
    make_store,
    messages_of,
    only,
    read_all,
    stored_gaps,
    stored_messages,
    trades_of,
)

WRITTEN = Path(__file__).parent / "written"
NAMES = ("market", "recording")


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def store(tmp_path, name):
    """Return the directory of the store."""
    unpack(name, tmp_path)
    return tmp_path


def unpack(name, directory):
    data = lzma.decompress((WRITTEN / f"{name}.sqlite.xz").read_bytes())
    (directory / FILE_NAME).write_bytes(data)


@pytest.fixture
def found(name):
    """Return the records that the former reader found, as lists."""
    return json.loads(lzma.decompress((WRITTEN / f"{name}.json.xz").read_bytes()))


def test_a_written_store_is_migrated_whole(store, found):
    """Every message, gap and backfilled trade is in the archive, in its order."""
    result = migrate(store, lambda part, records: None, pytest.fail)
    records = read_all(store)
    missing = [gap for gap in found["gaps"] if gap[3] == MISSING]
    counts = len(found["messages"]), len(missing), len(found["trades"])

    assert result[:3] == counts
    assert min(counts) > 5
    assert {gap[3] for gap in found["gaps"]} == {MISSING, BOOK_START}
    for topic in {Topic(*row[:2]) for row in found["messages"]}:
        expected = [row[2:] for row in found["messages"] if Topic(*row[:2]) == topic]
        messages = messages_of(read_all(store, only(topic)))
        assert expected == [
            # A message with two topics has the id of its first one.
            [m.id + (m.topic != topic), m.type, m.sequence, m.trade_id, m.payload.decode()]
            for m in messages
        ]
        assert [m.id for m in messages] == [m.received_us for m in messages]
    gaps = gaps_of(records)
    assert [[g.id, *g.topic, MISSING, g.first, g.last] for g in gaps] == missing
    assert {gap.kind for gap in gaps} == {GapKind.MISSING}
    assert sorted([t.topic.product_id, t.trade_id] for t in trades_of(records)) == [
        trade[:2] for trade in found["trades"]
    ]
    texts = {(t.topic.product_id, t.trade_id): json.loads(t.payload) for t in trades_of(records)}
    for product_id, number, text in found["trades"]:
        form = {"type": "match", "product_id": product_id}
        assert texts[product_id, number] == json.loads(text) | form
    assert [each.text for each in check(store, Totals()) if each.is_damage] == []


def test_the_answers_of_these_tests_are_those_of_the_former_reader(store, found):
    """The other tests of the migration compare with them."""
    rows = [
        [*topic, place, payload.decode()]
        for topic, messages in stored_messages(store).items()
        for place, payload in messages
    ]
    assert sorted(rows) == sorted([*row[:3], row[-1]] for row in found["messages"])
    assert [
        [place, *topic, MISSING, *numbers] for place, topic, *numbers in stored_gaps(store)
    ] == [gap for gap in found["gaps"] if gap[3] == MISSING]


def test_the_stores_of_these_tests_are_those_of_the_former_writer(tmp_path):
    """All rows are equal; of blocks the messages are, because zlib may pack them otherwise."""
    unpack("market", tmp_path)
    make_store(tmp_path / "again", 2026, 24)

    assert rows_of(tmp_path / "again") == rows_of(tmp_path)
    assert stored_messages(tmp_path / "again") == stored_messages(tmp_path)


def rows_of(directory):
    """Return the schema and all rows, without the data of blocks."""
    with closing(sqlite3.connect(directory / FILE_NAME)) as connection:
        rows = {"schema": connection.execute("SELECT name, sql FROM sqlite_schema").fetchall()}
        for pragma in ("application_id", "user_version", "auto_vacuum", "journal_mode"):
            rows[pragma] = connection.execute(f"PRAGMA {pragma}").fetchall()
        for table in ("setting", "topic", "block", "open", "gap", "trade"):
            names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            columns = ", ".join(f'"{each}"' for each in names if each != "data")
            rows[table] = connection.execute(f"SELECT {columns} FROM {table}").fetchall()
    return rows
