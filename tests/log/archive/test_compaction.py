"""Compaction of small blocks into one, also of damaged ones."""

from random import Random

from hedgehogd.domain.message import Message
from hedgehogd.domain.record import GapKind, GapRecord
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.writer import Sizes, Writer
from tests.log.archive.records import DEPLOYMENT, records
from tests.log.archive.test_reader import all_of

RECORDS = records(Random(6), 300)


def compacted(directory, spoil):
    """Write a tail of ten blocks, spoil it, compact it; return all records and the writer."""
    writer = Writer(directory, DEPLOYMENT, sizes=Sizes(1, 1e9, 10**9, 1e9))
    writer._sizes = Sizes(10**9, 1e9, 10**9, 1e9)
    for at in range(0, 300, 30):
        writer.append(RECORDS[at : at + 30])
        writer.sync()
    spoil(next(directory.glob("*.tail")))
    writer.seal()
    reader = Reader(directory)
    found = all_of(reader)
    assert 1 == len(reader.view.open(reader.view.sources[0]).contents.blocks)
    reader.close()
    writer.close()
    return found, writer


def test_the_records_stay_the_same(tmp_path):
    """Ten blocks become one."""
    assert RECORDS == compacted(tmp_path, lambda path: None)[0]


def test_each_damaged_byte_costs_its_topics_in_its_block(tmp_path):
    """And each of them has a gap; other records stay."""
    for seed in range(25):
        random = Random(seed)

        def spoil(path, random=random):
            data = bytearray(path.read_bytes())
            data[random.randrange(250, len(data))] ^= 1 << random.randrange(8)
            path.write_bytes(data)

        directory = tmp_path / str(seed)
        found, writer = compacted(directory, spoil)
        gaps = [r for r in found if isinstance(r, GapRecord) and r.kind is GapKind.UNREADABLE]
        rest = [r for r in found if r not in gaps]
        lost = [r for r in RECORDS if r not in rest]
        assert rest == [r for r in RECORDS if r not in lost], seed
        assert len(gaps) == writer.unreadable, seed
        assert {r.topic for r in lost if isinstance(r, Message)} <= {gap.topic for gap in gaps}, (
            seed
        )
        assert len(lost) <= 30, seed
