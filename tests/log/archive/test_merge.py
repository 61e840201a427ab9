"""The records of one block, merged."""

from random import Random

from hedgehogd.domain.message import Message
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
