"""The order of a migrated store, and the ids of its records."""

import json

import pytest

from hedgehogd.domain.channel import FULL, LEVEL2, LEVEL2_BATCH, MATCHES, TICKER
from hedgehogd.domain.record import GapRecord, TradeRecord
from hedgehogd.log.collected_books import Books
from hedgehogd.log.migration import merge as module
from hedgehogd.log.migration.merge import BookStart, Merge, Progress, restore
from hedgehogd.log.migration.old_store import BOOK_START, MISSING, OldStore
from tests.log.migration.old_writer import Entry, Gap, OldWriter

BTC = "BTC-USD"
TICK, MATCH, ORDERS, BOOK = (each.topic(BTC) for each in (TICKER, MATCHES, FULL, LEVEL2))
NOW, S = 1_790_000_000_000_000, 1_000_000


@pytest.fixture
def merged(tmp_path):
    """Write entries and trades; return the records of the store."""

    def merge(entries, trades=(), progress=Progress()):  # noqa: B008  # it is immutable
        writer = OldWriter(tmp_path)
        writer.write(entries, NOW)
        writer.keep_trades(BTC, trades)
        writer.close()
        store = OldStore(tmp_path)
        records = [each for part in Merge(store, progress).parts() for each in part]
        store.close()
        return records

    return merge


def match(number, at_us=0, topic=MATCH):
    payload = b'{"type":"match","product_id":"BTC-USD","sequence":%d,"trade_id":%d}' % (
        number,
        number,
    )
    return Entry(topic, NOW + at_us, payload, number, number)


def described(records):
    names = {GapRecord: "gap", TradeRecord: "trade", BookStart: "start"}
    return [(names.get(type(r), "message"), getattr(r, "id", 0) - NOW) for r in records]


def test_trades_get_unused_ids_after_their_gap(merged):
    """No message gets another id because of them: they wait until there is room."""
    entries = [match(1), match(5), match(6), match(7, 1000)]  # the gap is at 1, then 2 and 3
    records = merged(entries, [{"trade_id": number} for number in (2, 3)])

    assert described(records) == [
        ("message", 0), ("gap", 1), ("message", 2), ("message", 3), ("trade", 4), ("trade", 5),
        ("message", 1000),
    ]  # fmt: skip
    gap, trades = records[1], records[4:6]
    assert {(t.gap_id, t.received_us) for t in trades} == {(gap.id, gap.received_us)}


def test_trades_have_the_form_of_a_match(merged):
    """The store has them as REST returned them."""
    row = {"trade_id": 2, "side": "buy", "price": "1.10", "size": "2", "time": "2026-09-21T"}
    records = merged([match(1), match(3)], [row])
    [trade] = [each for each in records if isinstance(each, TradeRecord)]

    assert json.loads(trade.payload) == row | {"type": "match", "product_id": "BTC-USD"}


@pytest.mark.parametrize("text", [b"[]", b"{", b""])
def test_a_trade_that_cannot_be_read_keeps_its_text(text):
    """A damaged row costs its form only."""
    assert module._text_of("BTC-USD", text) == text


def test_trades_without_room_follow_the_last_record(merged):
    """The store may end in dense places."""
    records = merged([match(1), match(3), match(4)], [{"trade_id": 2}])

    assert [name for name, _ in described(records)] == ["message", "gap", "message", "message",
        "trade"]  # fmt: skip


def test_a_trade_belongs_to_the_gap_that_is_nearest_in_time(merged):
    """Numbers begin again: two gaps have the number 2."""
    entries = [match(1), match(3), match(1, 60 * S), match(3, 61 * S), match(4, 70 * S)]
    records = merged(entries, [{"trade_id": 2, "time": "2026-09-21T14:14:20Z"}])
    gaps = [each for each in records if isinstance(each, GapRecord)]
    (trade,) = [each for each in records if isinstance(each, TradeRecord)]

    assert len(gaps) == 2
    nearest = min(gaps, key=lambda gap: abs(gap.received_us - 1_790_000_060_000_000))
    assert trade.gap_id == nearest.id


def test_a_message_of_two_topics_is_one_record(merged):
    """Also where a part ends between its two places; another trade is a record of its own."""
    entries = [match(1, topic=ORDERS), match(1), match(2, topic=ORDERS), match(7)]
    entries[3] = Entry(MATCH, NOW, entries[3].payload, 7)
    records = merged(entries)

    assert [(m.topic, m.also) for m in records] == [(ORDERS, MATCH), (ORDERS, None), (MATCH, None)]


def test_twins_are_in_one_part(merged, monkeypatch):
    """A part ends where the next source begins: perhaps at the second place."""
    monkeypatch.setattr(module, "_CHUNK_BYTES", 1)
    entries = [each for n in range(1, 6) for each in (match(n, topic=ORDERS), match(n))]
    records = merged(entries)

    assert [(m.topic, m.also) for m in records] == [(ORDERS, MATCH)] * 5


def test_a_continued_migration_has_the_same_records(merged, tmp_path):
    """It begins with the last place of the archive."""
    entries = [match(1), match(5), match(6), match(7, 1000)]
    records = merged(entries, [{"trade_id": number} for number in (2, 3, 9)])
    gap, first = records[1], next(r for r in records if isinstance(r, TradeRecord))
    progress = Progress(
        NOW + 3, None, NOW + 2, first.id, {(MATCH, gap.received_us): gap.id},
        frozenset({(MATCH, first.trade_id)}),
    )  # fmt: skip
    store = OldStore(tmp_path)
    again = [each for part in Merge(store, progress).parts() for each in part]
    store.close()

    rest = [each for each in again if each.id > first.id]
    assert rest == [each for each in records if each.id > first.id]


def test_a_store_of_gaps_alone_has_them(merged):
    """New starts of books are passed on."""
    assert described(merged([Gap(TICK, MISSING, 1, 2, NOW), Gap(BOOK, BOOK_START)])) == [
        ("gap", 0),
        ("start", -NOW),
    ]


def test_the_second_topic_of_the_last_record_has_its_book_too(tmp_path):
    """The store has two copies of such a message, at consecutive places; the log has one."""
    snapshot = b'{"type":"snapshot","bids":[["1","1"]],"asks":[]}'
    batch = LEVEL2_BATCH.topic(BTC)
    writer = OldWriter(tmp_path)
    writer.write([Entry(BOOK, NOW, snapshot), Entry(batch, NOW, snapshot)], NOW)
    writer.close()
    store = OldStore(tmp_path)
    for twin, topics in ((None, [BOOK]), (batch, [BOOK, batch])):
        books = Books()
        restore(books, store, Progress(NOW, twin))
        assert [m.topic for m in books.snapshots()] == topics
    store.close()


def test_an_unreadable_message_is_a_record(merged):
    """It was delivered once."""
    (message,) = merged([Entry(TICK, NOW, b"no message")])
    assert (message.type, message.payload, message.sequence) == ("", b"no message", None)


def test_books_are_restored_as_of_a_place(tmp_path):
    """From the newest snapshot up to there, but not from before a new start."""
    snapshot = b'{"type":"snapshot","bids":[["%d","1"]],"asks":[]}'
    change = b'{"type":"l2update","changes":[["buy","%d","1"]]}'
    writer = OldWriter(tmp_path)
    for at, payload in enumerate((snapshot % 1, snapshot % 2, change % 3, change % 4)):
        writer.write([Entry(BOOK, NOW + at * 20 * S, payload)], NOW + at * 20 * S)
    writer.write([Gap(BOOK, BOOK_START, at_us=NOW + 100 * S)], NOW + 100 * S)
    writer.close()
    store = OldStore(tmp_path)
    for at, prices in ((0, []), (NOW + 45 * S, [3, 2]), (NOW + 90 * S, [4, 3, 2]), (2**61, [])):
        books = Books()
        restore(books, store, Progress(at))
        found = [m.payload for m in books.snapshots()]
        assert len(found) == bool(prices)
        expected = ",".join(f'["{price}","1"]' for price in prices)
        assert all(f'"bids":[{expected}]'.encode() in each for each in found)
    block = next(store.sources_back(1, NOW + 5 * S))
    store._connection.execute("UPDATE block SET data = x'ff' WHERE id = ?", (block.block,))
    store._connection.execute("DELETE FROM block WHERE id > ?", (block.block,))
    books = Books()
    restore(books, store, Progress(NOW + 45 * S))
    assert list(books.snapshots()) == []
    store.close()
