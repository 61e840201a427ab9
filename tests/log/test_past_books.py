"""The books of an archive at any of its records, against books that follow every record."""

import json
from contextlib import closing
from random import Random

import pytest

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.record import GapKind, GapRecord
from hedgehogd.log.archive import files
from hedgehogd.log.archive.block_file import BlockFile
from hedgehogd.log.archive.errors import DamagedArchive
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.writer import Writer
from hedgehogd.log.checkpoint import Checkpoint
from hedgehogd.log.past_books import books_at
from tests.log import past as archive
from tests.log.archive.records import DEPLOYMENT, SMALL

PRODUCTS = ("BTC-USD", "ETH-USD", "A-B")
LEVEL2 = [Topic("level2", each) for each in PRODUCTS]
BATCH = [Topic("level2_batch", each) for each in PRODUCTS]
BTC = LEVEL2[0]


def change(topic, id_, price, size, also=None):
    fields = {"type": "l2update", "changes": [["buy", price, size]], "time": f"t{id_}"}
    found = archive.recorded(topic, archive.NOW + id_, json.dumps(fields).encode(), id_=id_)
    found.also = also
    return found


def snapshot(topic, id_, *bids, also=None):
    fields = {"type": "snapshot", "bids": bids, "asks": [["9", "1"]]}
    found = archive.recorded(topic, archive.NOW + id_, json.dumps(fields).encode(), id_=id_)
    found.also = also
    return found


def records(random, count):
    """Return updates, snapshots and gaps of six topics, some of them of two topics."""
    found = []
    for id_ in range(1, count + 1):
        at = random.randrange(3)
        topic, other = random.choice([(LEVEL2[at], BATCH[at]), (BATCH[at], LEVEL2[at])])
        also = other if random.random() < 0.3 else None
        draw = random.random()
        if draw < 0.04:
            found.append(GapRecord(topic, GapKind.MISSING, id=id_, received_us=archive.NOW + id_))
        elif draw < 0.10:
            found.append(snapshot(topic, id_, [str(random.randrange(1, 9)), "1"], also=also))
        elif draw < 0.8:
            price, size = str(random.randrange(1, 9)), random.choice(["0", "1", "2.5"])
            found.append(change(topic, id_, price, size, also))
        else:
            found.append(archive.match(id_, id_=id_))
    return found


def levels(payload):
    """Return a book as prices and sizes; its time is not compared."""
    rows = json.loads(payload)
    return {side: [(float(p), float(s)) for p, s in rows[side]] for side in ("bids", "asks")}


def followed(kept, topics, place):
    """Return the books as of a place, each record followed."""
    books = Checkpoint(topics)
    for record in kept:
        if record.id <= place:
            books.follow(record)
    return {each.topic: levels(each.payload) for each in books.snapshots()}


def read(directory, topics, place):
    with closing(Reader(directory)) as reader:
        found = books_at(reader, topics, place)
    return {topic: levels(payload) for topic, payload in found.items()}


def write(directory, kept):
    """Write an archive of several segments; each begins with the books of the records before."""
    books, writers = Checkpoint(), []

    def checkpoint():
        books.clear()
        for record in kept:
            if writers and record.id <= writers[0].last_id:
                books.follow(record)
        return list(books.snapshots())

    with closing(Writer(directory, DEPLOYMENT, sizes=SMALL, checkpoint=checkpoint)) as writer:
        writers.append(writer)
        for at in range(0, len(kept), 7):
            writer.append(kept[at : at + 7])
            writer.sync()
            while writer.work():
                pass


@pytest.mark.parametrize("seed", range(4))
def test_books_are_those_of_every_record(tmp_path, seed):
    """At each place: in sealed segments, in the open one, in tails, before the first record."""
    kept = records(Random(seed), 200)
    write(tmp_path, kept)
    assert any(path.suffix == files.SEGMENT for path in tmp_path.iterdir())
    for place in range(0, 205, 6):
        for topics in ([*LEVEL2, *BATCH], LEVEL2[:1], [BATCH[1], LEVEL2[2]]):
            assert read(tmp_path, topics, place) == followed(kept, topics, place), place


def one_book(count, *snapshots):
    """Return a snapshot and updates of one book; the price is the id, and sizes differ."""
    random = Random(1)
    return [
        snapshot(BTC, n, [str(n), "1"])
        if n in {1, *snapshots}
        else change(BTC, n, str(n), f"{random.random():.16f}")
        for n in range(1, count)
    ]


def prices(directory, place):
    found = read(directory, [BTC], place)
    return [int(price) for price, _ in found[BTC]["bids"]] if found else None


def segments(directory):
    with closing(Reader(directory)) as reader:
        return [source for source in reader.view.sources if source.row is not None]


def test_a_book_may_begin_with_a_checkpoint(tmp_path):
    """Of a segment that begins before the place; its snapshot may be in a file that is gone."""
    write(tmp_path, one_book(400))
    first, second, *_ = segments(tmp_path)
    (tmp_path / first.row.name).unlink()

    assert prices(tmp_path, first.last_id) is None
    for place in (first.last_id + 1, second.last_id, 399):
        assert prices(tmp_path, place) == list(range(place, 0, -1))


@pytest.mark.parametrize("lost", ["group", "directory", "markers", "file"])
def test_a_book_with_lost_changes_is_not_known(tmp_path, monkeypatch, lost):
    """Until its next snapshot: a wrong book would be sent as a right one."""
    archive.write(tmp_path, one_book(600, 590), each=20)
    chosen = segments(tmp_path)[1]
    assert 1 < chosen.first_id < chosen.last_id < 589
    if lost == "file":
        (tmp_path / chosen.row.name).unlink()
    else:
        real = getattr(BlockFile, lost)

        def damaged(self, block, *arguments):
            if block.header.first_id == chosen.first_id:
                raise DamagedArchive("damaged")
            return real(self, block, *arguments)

        monkeypatch.setattr(BlockFile, lost, damaged)

    assert prices(tmp_path, chosen.first_id - 1) == list(range(chosen.first_id - 1, 0, -1))
    for place in (chosen.last_id, 589):
        assert prices(tmp_path, place) is None
    assert prices(tmp_path, 592) == [592, 591, 590]


def test_a_book_without_a_start_is_not_known(tmp_path):
    """Nor one with an unreadable snapshot."""
    spoilt = archive.recorded(BTC, 9, b'{"type":"snapshot"}', id_=9)
    archive.write(tmp_path, [change(BTC, n, "1", "1") for n in range(1, 9)] + [spoilt])

    assert read(tmp_path, [BTC], 5) == {}
    assert read(tmp_path, [BTC], 9) == {}
