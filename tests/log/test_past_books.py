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
    following = Checkpoint(topics)
    for record in kept:
        if record.id <= place:
            following.follow(record)
    return {each.topic: levels(each.payload) for each in following.snapshots()}


def books(directory, topics, place):
    with closing(Reader(directory)) as reader:
        return books_at(reader, topics, place)


def read(directory, topics, place):
    return {topic: levels(book) for topic, book in books(directory, topics, place).items()}


def write(directory, kept):
    """Write an archive of several segments; each begins with the books of the records before."""
    following, writers = Checkpoint(), []

    def checkpoint():
        following.clear()
        for record in kept:
            if writers and record.id <= writers[0].last_id:
                following.follow(record)
        return list(following.snapshots())

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

    assert prices(tmp_path, first.last_id - 1) is None
    for place in (first.last_id, first.last_id + 1, second.last_id, 399):
        assert prices(tmp_path, place) == list(range(place, 0, -1))


def test_a_checkpoint_is_of_all_places_up_to_the_first_record_of_its_segment(tmp_path):
    """Ids are not consecutive: after retention, a replay begins before the oldest record."""
    kept = one_book(400)
    for record in kept:
        record.id *= 10
    write(tmp_path, kept)
    with closing(Writer(tmp_path, DEPLOYMENT, sizes=SMALL)) as writer:
        assert writer.retain(0, 1e12, 0) is not None
    oldest = segments(tmp_path)[0]

    assert oldest.first_id - oldest.row.after_id == 10
    for place in range(oldest.row.after_id, oldest.first_id):
        assert prices(tmp_path, place) == list(range(oldest.row.after_id // 10, 0, -1))


def test_a_missing_file_loses_only_books_that_begin_before_it(tmp_path):
    """Another book may have its snapshot after the file."""
    kept = one_book(600, 590)
    kept[1] = snapshot(LEVEL2[1], 2, ["5", "5"])
    kept[40::40] = [change(LEVEL2[1], each.id, "6", "6") for each in kept[40::40]]
    archive.write(tmp_path, kept, each=20)
    (tmp_path / segments(tmp_path)[1].row.name).unlink()

    assert read(tmp_path, LEVEL2[:2], 595).keys() == {BTC}


def test_a_gap_does_not_hide_damage_after_it(tmp_path, monkeypatch):
    """A snapshot of the other channel begins the book again, whose own changes are damaged."""
    batch = BATCH[0]
    kept = [
        snapshot(batch, 1, ["3", "3"]),
        GapRecord(batch, GapKind.MISSING, id=2, received_us=archive.NOW),
        snapshot(BTC, 3, ["1", "1"], also=batch),
        change(batch, 4, "5", "7"),
    ]
    archive.write(tmp_path, kept, each=9)
    real = BlockFile.group

    def damaged(self, block, place):
        if place.topic == batch:
            raise DamagedArchive("damaged")
        return real(self, block, place)

    assert levels(books(tmp_path, [batch], 4)[batch])["bids"] == [(5.0, 7.0), (1.0, 1.0)]
    monkeypatch.setattr(BlockFile, "group", damaged)
    for topics in ([batch], [BTC, batch]):
        assert batch not in read(tmp_path, topics, 4)


def test_an_unreadable_update_ends_a_book(tmp_path):
    """Until the next snapshot, as at the start of a segment."""
    spoilt = archive.recorded(BTC, 5, b'{"type":"l2update","changes":[["b', id_=5)
    kept = [snapshot(BTC, 4, ["1", "1"]), spoilt, change(BTC, 6, "2", "2"), snapshot(BTC, 7)]
    archive.write(tmp_path, kept, each=9)

    assert [prices(tmp_path, place) for place in (4, 5, 6, 7)] == [[1], None, None, []]


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
