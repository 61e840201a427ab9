"""The records of one block, merged."""

from array import array
from random import Random

from hedgehogd.domain.message import Message
from hedgehogd.domain.record import GapKind, GapRecord
from hedgehogd.log.archive.block_file import BlockFile
from hedgehogd.log.archive.merge import Blocks
from hedgehogd.log.archive.view import Opened, View
from tests.log.archive.records import TOPICS, records
from tests.log.archive.test_reader import is_wanted, write

RECORDS = records(Random(1), 200)


def test_each_group_is_unpacked_once(tmp_path, monkeypatch):
    """For the pages of one reader, and for readers of the same topics."""
    write(tmp_path, RECORDS, Random(3)).close()
    view = View(tmp_path)
    view.refresh()
    opened: Opened = view.open(view.sources[-1])
    unpacked = []
    real = BlockFile.group
    monkeypatch.setattr(
        BlockFile, "group", lambda *arguments: unpacked.append(arguments[1:]) or real(*arguments)
    )
    blocks = Blocks(view.topics)
    topics = frozenset(TOPICS[:3])
    for _ in range(3):
        for number, block in enumerate(opened.contents.blocks):
            merged = blocks.merged(opened, number, topics)
            expected = [
                r
                for r in RECORDS
                if is_wanted(r, topics) and block.header.first_id <= r.id <= block.header.last_id
            ]
            assert expected == merged.records(0, len(merged.ids))
            assert any(not isinstance(r, Message) for r in expected) == merged.has_markers
            for at, record in enumerate(expected):
                assert at == merged.before(record.id)
                assert at + 1 == merged.after(record.id)

    assert len(unpacked) == len(set(unpacked)) > 0
    assert blocks.bytes > 0
    view.close()


def test_records_are_the_same_in_pieces(tmp_path):
    """Each page makes its own records, also those with one id and those of a second topic."""
    write(tmp_path, RECORDS, Random(3)).close()
    view = View(tmp_path)
    view.refresh()
    opened: Opened = view.open(view.sources[-1])
    blocks = Blocks(view.topics)
    for topics in (None, frozenset(TOPICS), frozenset(TOPICS[1:4]), frozenset(TOPICS[2:3])):
        merged = blocks.merged(opened, 0, topics)
        every = merged.records(0, len(merged.ids))
        for size in (1, 2, 7):
            pieces = [merged.records(at, at + size) for at in range(0, len(every), size)]
            assert every == [record for piece in pieces for record in piece]
    view.close()


def test_a_topic_whose_ids_do_not_rise_is_unreadable(tmp_path, monkeypatch):
    """Its block has a right checksum and wrong contents: such a topic has a gap there."""
    write(tmp_path, RECORDS, Random(3)).close()
    view = View(tmp_path)
    view.refresh()
    opened: Opened = view.open(view.sources[-1])
    real = BlockFile.group

    def reversed_ids(*arguments):
        group = real(*arguments)
        return group._replace(ids=array("q", reversed(group.ids)))

    number, topic = next(
        (number, part.topic)
        for number, block in enumerate(opened.contents.blocks)
        for part, _ in opened.file.directory(block).find(frozenset(TOPICS))
        if part.end - part.begin > 1
    )
    monkeypatch.setattr(BlockFile, "group", reversed_ids)
    merged = Blocks(view.topics).merged(opened, number, frozenset({topic}))
    found = merged.records(0, len(merged.ids))

    assert not any(isinstance(record, Message) for record in found)
    assert any(
        isinstance(record, GapRecord) and (record.kind, record.topic) == (GapKind.UNREADABLE, topic)
        for record in found
    )
    view.close()
