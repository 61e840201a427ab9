"""Backfilled trades at the place of their gap, beside damage, retention and compaction."""

import random
import sys
from collections import Counter
from contextlib import closing
from random import Random

import pytest

from hedgehogd.domain.channel import MATCHES
from hedgehogd.domain.record import GapKind, GapRecord, TradeRecord
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.writer import Writer
from tests.log.archive.records import DEPLOYMENT, SMALL, START_US, TOPICS, message, records
from tests.log.archive.test_reader import all_of, write

TOPIC, OTHER = MATCHES.topic("BTC-USD"), MATCHES.topic("ETH-USD")
GAP = GapRecord(TOPIC, GapKind.MISSING, 5, 9, id=20, received_us=START_US)
TRADES = [TradeRecord(TOPIC, n, b"{}", 20, 1_000 + n, START_US) for n in (5, 6, 8)]


def market(random, count=500):
    """Return records with many gaps and backfilled trades, some of them of the same number."""
    found = [r for r in records(random, count) if not isinstance(r, GapRecord | TradeRecord)]
    gaps, again = [], []
    for record in found:
        again.append(record)
        if random.random() < 0.15:
            topic = random.choice(TOPICS)
            again[-1:] = [GapRecord(topic, GapKind.MISSING, 1, 5, record.id, START_US)]
            gaps.append(again[-1])
        elif random.random() < 0.2 and gaps:
            gap = random.choice(gaps)
            again[-1:] = [
                TradeRecord(gap.topic, random.randrange(1, 6), b"{}", gap.id, record.id, START_US)
            ]
    return again


def trades(found):
    """Return how often each trade of each gap is in ``found``."""
    return Counter((r.gap_id, r.topic, r.trade_id) for r in found if isinstance(r, TradeRecord))


def back(reader, topics, limit, placement):
    """Read backwards; return all records, newest first."""
    found, before_id = [], 2**60
    while True:
        page = reader.read_back(before_id, topics, limit, placement)
        found += page.records
        if page.is_last:
            return found
        assert page.end_id < before_id
        before_id = page.end_id


def spoil(directory, chance):
    """Damage some bytes, or remove a segment."""
    paths = sorted(p for p in directory.iterdir() if p.suffix in {".segment", ".open", ".tail"})
    for _ in range(chance.randrange(1, 5)):
        path = chance.choice(paths)
        if path.suffix == ".segment" and chance.random() < 0.2:
            path.unlink(missing_ok=True)
        elif path.exists():
            data = bytearray(path.read_bytes())
            if len(data) > 32:
                data[chance.randrange(32, len(data))] ^= 1 << chance.randrange(8)
                path.write_bytes(data)


def check_damaged(directory, seed, *, is_restarted, loses=False):
    """Compare reads of a damaged archive with and without placement; return the trades' number."""
    chance, moved = Random(seed), 0
    appended = market(chance)
    write(directory, appended, chance).close()
    spoil(directory, chance)
    if is_restarted:
        with closing(Writer(directory, DEPLOYMENT, sizes=SMALL)) as writer:
            writer.seal()
    if loses:
        for path in directory.glob("*.segment"):
            if int(path.stem) % 3 == seed % 3:
                path.unlink()
    with closing(Reader(directory)) as reader:
        for topics in (None, frozenset(chance.sample(TOPICS, 4))):
            placement = reader.placement()
            plain = trades(all_of(reader, topics, 1_000))
            limit = chance.choice((1, 7, 1_000))
            for found in (
                all_of(reader, topics, limit, placement),
                back(reader, topics, limit, placement),
            ):
                assert dict.fromkeys(plain, 1) == trades(found), (seed, topics)
            moved += len(plain)
            after_id = chance.choice(appended).id
            placement = reader.placement(after_id)
            plain = trades(all_of(reader, topics, 1_000, after_id=after_id))
            found = all_of(reader, topics, limit, placement, after_id)
            assert set(plain) == set(trades(found)), (seed, topics)
            assert all(
                count == 1 for (gap_id, *_), count in trades(found).items() if gap_id > after_id
            )
    return moved


@pytest.mark.random
@pytest.mark.parametrize(("is_restarted", "loses"), [(False, False), (True, False), (True, True)])
def test_each_readable_trade_is_delivered_once_beside_damage(tmp_path, is_restarted, loses):
    """Whether its gap is readable or not, also after compaction has written the damage down.

    Segments may get lost after that, too.
    """
    seed = random.randrange(2**32)
    sys.stdout.write(f"seed {seed}\n")
    how = {"is_restarted": is_restarted, "loses": loses}
    moved = sum(check_damaged(tmp_path / str(number), seed + number, **how) for number in range(12))
    assert moved > (60 if loses else 240)


@pytest.mark.parametrize("seed", [1281, 1402, 310582967])
def test_trades_of_gaps_before_the_first_readable_block_of_a_segment_are_delivered(tmp_path, seed):
    """Compaction has left out unreadable blocks, and the next one begins with their gap."""
    assert check_damaged(tmp_path / "archive", seed, is_restarted=True)


def test_trades_of_gaps_before_the_first_block_of_a_lost_segment_are_delivered(tmp_path):
    """Compaction had left out its first blocks before it was lost."""
    assert check_damaged(tmp_path / "archive", 310582967, is_restarted=True, loses=True)


@pytest.mark.parametrize("is_reversed", [False, True])
def test_trades_of_a_gap_that_retention_drops_are_delivered(tmp_path, is_reversed):
    """The stream began before the gap, and has not reached it; none is delivered twice."""
    chance = Random(4)
    appended = market(chance)
    with closing(write(tmp_path, appended, chance)) as writer, closing(Reader(tmp_path)) as reader:
        writer.seal()
        whole = trades(all_of(reader, None, 1_000))
        placement = reader.placement()
        found, end_id, is_last = [], 2**60 if is_reversed else 0, False
        read = reader.read_back if is_reversed else reader.read
        pages = 0
        while not is_last:
            page = read(end_id, None, 10, placement)
            found += page.records
            end_id, is_last, pages = page.end_id, page.is_last, pages + 1
            if pages in {5, 6, 7}:
                writer.retain(START_US, 1e9, 0)
        rest = trades(all_of(reader, None, 1_000))
        assert page.dropped_id > 0
    delivered = trades(found)
    assert {1} == set(delivered.values())
    assert set(rest) <= set(delivered) <= set(whole)


def archive(directory, *batches):
    """Write an archive with one segment for each batch."""
    with closing(Writer(directory, DEPLOYMENT, sizes=SMALL)) as writer:
        for batch in batches:
            writer.append(batch)
            writer.seal()


def stream(directory, topics=None, after_id=0):
    """Return all records of a stream with moved trades."""
    with closing(Reader(directory)) as reader:
        return all_of(reader, topics, 100, reader.placement(after_id), after_id)


@pytest.mark.parametrize(
    ("limit", "sizes"), [(1, [6, 6, 6]), (6, [6, 6, 6]), (7, [12, 6]), (12, [12, 6]), (13, [18])]
)
@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_page_has_the_trades_of_one_gap_beyond_its_limit(tmp_path, is_reversed, limit, sizes):
    """A block may have thousands of gaps; with the trades of all of them a page had no bound."""
    gaps = [GapRecord(TOPIC, GapKind.MISSING, 1, 6, id=n, received_us=START_US) for n in (1, 2, 3)]
    filled = [
        TradeRecord(TOPIC, n, b"{}", gap.id, 10 * gap.id + n, START_US)
        for gap in gaps
        for n in range(1, 7)
    ]
    with closing(Writer(tmp_path, DEPLOYMENT, sizes=SMALL)) as writer:
        writer.append([*gaps, *filled])
        writer.sync()
    pages, at, is_last = [], 2**60 if is_reversed else 0, False
    with closing(Reader(tmp_path)) as reader:
        read = reader.read_back if is_reversed else reader.read
        while not is_last:
            page = read(at, None, limit, reader.placement())
            pages.append(page.records)
            at, is_last = page.end_id, page.is_last

    found = [record for records in pages for record in records]
    assert [r.id for r in found] == [r.id for r in filled][:: -1 if is_reversed else 1]
    assert [len(records) for records in pages if records] == sizes


def test_trades_of_a_missing_segment_follow_its_gap(tmp_path):
    """Also of a topic without messages in it."""
    archive(
        tmp_path, [message(OTHER, 1, 10), GAP, message(OTHER, 2, 30)],
        [message(TOPIC, 10, 999), *TRADES],
    )  # fmt: skip
    min(tmp_path.glob("*.segment")).unlink()
    found = stream(tmp_path, frozenset({TOPIC}))

    assert [5, 6, 8, 10] == [r.trade_id for r in found if not isinstance(r, GapRecord)]
    assert [] == [r for r in stream(tmp_path, frozenset({OTHER})) if isinstance(r, TradeRecord)]


def test_an_unreadable_gap_with_the_id_of_a_gap_takes_no_trades(tmp_path):
    """A block ends with the gap, and a group of the same topic is damaged."""
    archive(tmp_path, [message(TOPIC, 1, 10), GAP], [message(TOPIC, 10, 999), *TRADES])
    path = min(tmp_path.glob("*.segment"))
    with closing(Reader(tmp_path)) as reader:
        opened = reader.view.open(reader.view.sources[0])
        block = opened.contents.blocks[0]
        place = opened.file.directory(block).place(0)
    data = bytearray(path.read_bytes())
    data[block.offset + place.offset + 1] ^= 1
    path.write_bytes(data)
    found = stream(tmp_path)

    assert {(20, TOPIC, n): 1 for n in (5, 6, 8)} == trades(found)
    assert [GapKind.MISSING, GapKind.MISSING, GapKind.UNREADABLE] == [
        r.kind for r in found if isinstance(r, GapRecord)
    ]


def test_a_topic_without_messages_in_a_block_with_damaged_markers_has_a_gap(tmp_path):
    """Its records were markers."""
    archive(tmp_path, [message(OTHER, 1, 10), GAP], [message(TOPIC, 10, 999)])
    path = min(tmp_path.glob("*.segment"))
    with closing(Reader(tmp_path)) as reader:
        block = reader.view.open(reader.view.sources[0]).contents.blocks[0]
    data = bytearray(path.read_bytes())
    data[block.end - 1] ^= 1
    path.write_bytes(data)

    assert (GapKind.UNREADABLE, 20) == (
        (first := stream(tmp_path, frozenset({TOPIC}))[0]).kind,
        first.id,
    )


def test_a_damaged_directory_hides_no_trade(tmp_path):
    """The trades are in a part of their own."""
    archive(tmp_path, [message(TOPIC, 1, 10), GAP, message(TOPIC, 10, 30)])
    with closing(Writer(tmp_path, DEPLOYMENT, sizes=SMALL)) as writer:
        writer.append([message(OTHER, 10, 999), *TRADES])
        writer.sync()
    tail = max(tmp_path.glob("*.tail"))
    with closing(Reader(tmp_path)) as reader:
        block = reader.view.sources[-1].opened.contents.blocks[0]
    data = bytearray(tail.read_bytes())
    data[block.offset + 80] ^= 1
    tail.write_bytes(data)
    found = [r for r in stream(tmp_path) if getattr(r, "topic", None) == TOPIC]

    assert [1, 5, 6, (7, 7), 8, (9, 9), 10] == [
        (r.first, r.last) if isinstance(r, GapRecord) else r.trade_id
        for r in found
        if not isinstance(r, GapRecord) or r.kind is GapKind.MISSING
    ]
