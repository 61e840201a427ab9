"""Pages of the past and searches in it, from an archive."""

import json
from contextlib import closing

import pytest

from hedgehogd.domain.channel import FULL, LEVEL2, LEVEL2_BATCH, TICKER, Topic
from hedgehogd.domain.record import FeedRecord, GapKind
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.writer import Writer
from hedgehogd.log.past_reader import PastReader
from hedgehogd.recovery.history_port import BackfilledTrade, PastExtent, PastGap
from tests.log.archive.records import DEPLOYMENT, SMALL
from tests.log.past import BTC, NOW, S, backfilled, book, gap, match, usual, write


@pytest.fixture
def reader(tmp_path):
    with closing(PastReader(write(tmp_path, usual()))) as reader:
        yield reader


def all_of(reader, topics=(BTC,), limit=3, known_to=None):
    """Read page after page; return all messages and gaps."""
    messages, gaps, after = [], [], 0
    while True:
        page = reader.page(topics, after, limit, known_to)
        messages += page.messages
        gaps += page.gaps
        if page.is_last:
            return messages, gaps
        after = page.end


def all_before(reader, topics=(BTC,), limit=3):
    messages, gaps, before = [], [], 2**60
    while True:
        page = reader.page_before(topics, before, limit)
        messages += page.messages
        gaps += page.gaps
        if page.is_last:
            return messages, gaps
        before = page.end


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_backfilled_trades_are_at_the_place_of_their_gap(reader, limit):
    """In both directions, once, and the gap has the numbers that remain."""
    messages, gaps = all_of(reader, limit=limit)

    assert [m.trade_id for m in messages] == [*range(1, 9), *range(10, 21)]
    assert gaps == [PastGap(BTC, 999, "missing", 9, 9, NOW + 10 * S - 1)]
    backwards = all_before(reader, limit=limit)
    assert backwards == (messages[::-1], gaps)
    assert [m.trade_id for m in messages if isinstance(m, BackfilledTrade)] == [8]


def test_a_backfilled_trade_has_place_and_time_of_its_gap(reader):
    """Its own id and time are those of an hour later: a pace would wait for it."""
    trade = all_of(reader)[0][7]

    assert (trade.id, trade.received_us, trade.sequence) == (999, NOW + 10 * S - 1, None)
    assert [m.published_us for m in all_of(reader)[0]] == [m.received_us for m in all_of(reader)[0]]
    assert trade.type == json.loads(trade.payload)["type"] == "match"


@pytest.mark.parametrize("known_to", [1501, 1500])
def test_trades_appended_later_than_a_stream_began_are_nowhere(reader, known_to):
    """The stream has received the gap instead; a query counts the gaps before it sends them."""
    messages, gaps = all_of(reader, known_to=known_to)
    is_known = known_to == 1501

    assert (8 in [m.trade_id for m in messages]) is is_known
    assert [(g.first, g.last) for g in gaps] == [(9 if is_known else 8, 9)]
    assert reader.page((BTC,), 0, 3, known_to).known_to == known_to
    assert reader.page((BTC,), 0, 3).known_to == 2000


@pytest.mark.parametrize("limit", [1, 2, 9])
@pytest.mark.parametrize("read", [all_of, all_before])
def test_trades_of_a_filled_gap_have_its_time_in_each_page(tmp_path, limit, read):
    """A query by time, page after page, would omit a trade with a time that depends on its page."""
    records = [match(1), gap(2, 3, 150, NOW + 2 * S), match(4), backfilled(2, 150, 900)]
    records.append(backfilled(3, 150, 901))
    with closing(PastReader(write(tmp_path, records))) as reader:
        messages, gaps = read(reader, limit=limit)

    assert sorted((m.trade_id, m.id, m.received_us - NOW) for m in messages) == [
        (1, 100, S),
        (2, 150, 2 * S),
        (3, 150, 2 * S),
        (4, 400, 4 * S),
    ]
    assert gaps == []


@pytest.mark.parametrize("limit", [1, 2, 9])
@pytest.mark.parametrize("read", [all_of, all_before])
def test_trades_of_a_gap_that_cannot_be_read_are_at_the_record_instead(tmp_path, limit, read):
    """A query continues at a place: places fell from that record to the gap that is lost."""
    records = [match(n) for n in range(1, 40)]
    records[9:10] = [gap(10, 10, 1000, NOW + 10 * S)]
    records += [backfilled(10, 1000, 3901), *[match(n) for n in range(40, 50)]]
    write(tmp_path, records)
    with closing(Reader(tmp_path)) as archive:
        [row] = [r for r in archive.view.catalogue.segments if r.first_id <= 1000 <= r.last_id]
    (tmp_path / row.name).unlink()
    with closing(PastReader(tmp_path)) as reader:
        messages, gaps = read(reader, limit=limit)
        places = [m.id for m in messages]

    assert gaps == [PastGap(BTC, row.last_id, "unreadable", None, None, row.max_us)]
    assert [(m.trade_id, m.id, m.received_us) for m in messages if m.sequence is None] == [
        (10, row.last_id, row.max_us)
    ]
    assert places == sorted(places, reverse=read is all_before)


def test_a_trade_without_a_gap_in_the_log_is_where_it_was_appended(tmp_path):
    """It was fetched for another gap, or by an older version."""
    records = [match(1), match(4), backfilled(2, 0, 500), match(6)]
    with closing(PastReader(write(tmp_path, records))) as reader:
        messages, _ = all_of(reader)

    assert [(m.trade_id, m.id) for m in messages] == [(1, 100), (4, 400), (2, 500), (6, 600)]


@pytest.mark.parametrize("is_read_before", [True, False])
def test_a_trade_whose_gap_is_removed_is_no_message_of_a_later_time(tmp_path, is_read_before):
    """A stream that has received it at its gap would receive it again."""
    records = [match(n) for n in range(1, 50)]
    records[9:10] = [gap(10, 10, 1000, NOW + 10 * S)]
    records += [backfilled(10, 1000, 4950), *[match(n) for n in range(50, 100)]]
    write(tmp_path, records)
    with closing(PastReader(tmp_path)) as reader:
        page = reader.page((BTC,), 0, 40)
        assert (10 in [m.trade_id for m in page.messages], page.end < 4950) == (True, True)
        with closing(Writer(tmp_path, DEPLOYMENT, sizes=SMALL)) as writer:
            assert writer.retain(NOW + 100 * S, 60.0, 2**60)
        [removed] = reader.page((BTC,), 0).gaps
        assert 1000 < removed.place <= page.end
        after = page.end if is_read_before else removed.place
        rest = reader.page((BTC,), after).messages

    assert [m.trade_id for m in rest] == [*range(after // 100 + 1, 100)]


def test_a_read_that_retention_overtakes_has_a_gap(tmp_path):
    """At the last place that is removed; the numbers are not known any more."""
    write(tmp_path, [match(n) for n in range(1, 200)])
    with closing(PastReader(tmp_path)) as reader:
        after = reader.page((BTC,), 0, 10).end
        before = reader.page_before((BTC,), 2**60, 30).end
        assert not reader.page((BTC,), 0).gaps
        with closing(Writer(tmp_path, DEPLOYMENT, sizes=SMALL)) as writer:
            assert writer.retain(NOW + 200 * S, 160.0, 2**60)
        topics = (TICKER.topic("BTC-USD"), BTC)
        [forward] = reader.page((BTC,), after, 10).gaps
        place = forward.place
        pages = reader.page_before(topics, before), reader.page(topics, after)
        assert reader.page((BTC,), place).gaps == []
        assert reader.page_before((BTC,), place).gaps == []

    assert after < place < before
    assert forward == PastGap(BTC, place, "removed", None, None, NOW + (place // 100 + 1) * S)
    assert forward.is_undated
    assert [[gap.topic for gap in page.gaps] for page in pages] == [sorted(topics)] * 2


def test_other_records_are_not_messages(tmp_path):
    """They tell how far the log is written."""
    records = [match(1), FeedRecord("stale", id=150, received_us=NOW + 9 * S), match(2)]
    with closing(PastReader(write(tmp_path, records[:2]))) as reader:
        page = reader.page((BTC,), 0)
        assert ([m.trade_id for m in page.messages], page.written_to) == ([1], NOW + 9 * S)
        assert reader.written_to() == NOW + 9 * S


def test_kinds_of_gaps_have_names(tmp_path):
    records = [gap(1, 2, 5, NOW, kind=GapKind.UNRECORDED), gap(None, None, 7, NOW)]
    with closing(PastReader(write(tmp_path, records))) as reader:
        _, gaps = all_of(reader)

    assert [(g.kind, g.first) for g in gaps] == [("unrecorded", 1), ("missing", None)]


def test_a_trade_of_full_is_one_of_matches_for_a_reader_of_these(tmp_path):
    """A reader of both gets it once."""
    full = FULL.topic("BTC-USD")
    trade = match(1, topic=full, also=BTC)
    trade.published_us = trade.received_us
    with closing(PastReader(write(tmp_path, [trade]))) as reader:
        [alone] = reader.page((BTC,), 0).messages
        assert (alone.topic, alone.also, alone.id, alone.payload) == (BTC, None, 100, trade.payload)
        assert (alone.sequence, alone.received_us, alone.frame) == (10, NOW + S, trade.frame)
        assert reader.page((full, BTC), 0).messages == [trade]
        assert reader.extents()[BTC] == PastExtent(100, 100, NOW + S, NOW + S, 1)
        assert reader.find(BTC, 10) == (100, 10)


def test_the_oldest_place_follows_retention(tmp_path):
    """It is asked for each topic of each stream that resumes."""
    write(tmp_path, [match(n) for n in range(1, 200)])
    with closing(PastReader(tmp_path)) as reader:
        assert reader.first_places().get(BTC) == 100
        assert reader.first_places().get(Topic("ticker", "BTC-USD")) is None
        with closing(Writer(tmp_path, DEPLOYMENT, sizes=SMALL)) as writer:
            ticker = match(300, topic=TICKER.topic("BTC-USD"))
            writer.append([ticker])
            writer.sync()
            assert reader.first_places().get(TICKER.topic("BTC-USD")) == 30_000
            while writer.retain(NOW + 400 * S, 300.0, 2**60):
                pass
        oldest = reader.page((BTC,), 0).messages[0].id
        assert oldest > 100
        assert reader.first_places().get(BTC) == oldest


def test_a_time_is_found_again(reader):
    """Each topic of a stream looks for the same time."""
    assert reader.find_time(NOW + 5 * S) == 499
    assert reader.find_time(NOW + 5 * S) == 499
    assert reader.find_time(NOW + 2**40) == 2000
    assert reader.stretches(0, NOW + S + 1)[0].after == 99
    assert reader.stretches(NOW + 2**40, NOW + 2**41) == []


def test_a_book_begins_with_a_checkpoint(tmp_path):
    """It is no record, so no page has it; its place is that of the record before the segment."""
    topic = LEVEL2.topic("BTC-USD")
    snapshot = book(0, "snapshot")
    records = [book(n) for n in range(1, 60)]
    write(tmp_path, records, checkpoint=lambda: [snapshot])
    with closing(PastReader(tmp_path)) as reader:
        found = reader.snapshot_before(topic, 3000)
        assert (found.type, found.payload) == ("snapshot", snapshot.payload)
        assert found.id <= 3000
        after = reader.page((topic,), found.id).messages
        assert after[0].id == found.id + 100
        assert reader.snapshot_before(BTC, 3000) is None


def test_a_snapshot_of_two_topics_is_one_of_the_topic_that_is_read(tmp_path):
    """A reader of the second topic alone does not know the first one."""
    level2, batch = LEVEL2.topic("BTC-USD"), LEVEL2_BATCH.topic("BTC-USD")
    snapshot = book(1, "snapshot", topic=level2)
    snapshot.also = batch
    with closing(PastReader(write(tmp_path, [snapshot, book(2, topic=batch)]))) as reader:
        for topic in (level2, batch):
            found = reader.snapshot_before(topic, 200)
            assert (found.topic, found.also, found.id) == (topic, None, 100)
            assert (found.type, found.payload) == ("snapshot", snapshot.payload)
            assert found.published_us == found.received_us == NOW + S


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [(5, 8, [5, 6, 7, 8]), (8, 9, [8]), (1, 3, [1, 2, 3]), (19, 40, [19, 20]), (30, 40, [])],
)
def test_trades_are_found_by_their_ids(reader, first, last, expected):
    """Those that were backfilled, too."""
    found = reader.trades("BTC-USD", first, last)

    assert sorted(found) == expected
    assert all(json.loads(payload)["trade_id"] == n for n, payload in found.items())
    assert reader.trades("ETH-USD", first, last) == {}


def test_an_empty_archive_has_nothing(tmp_path):
    with closing(PastReader(write(tmp_path, []))) as reader:
        assert (reader.written_to(), reader.extents(), reader.first_places().get(BTC)) == (
            0,
            {},
            None,
        )
        assert reader.page((BTC,), 0).is_last
