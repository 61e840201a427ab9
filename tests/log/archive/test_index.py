"""The index of a file."""

from random import Random

from hedgehogd.log.archive.block import HEADER_BYTES
from hedgehogd.log.archive.block_file import BlockFile
from hedgehogd.log.archive.index import Index, collect, read_footer, unpack
from tests.log.archive.records import TOPICS, records
from tests.log.archive.test_reader import write


def sealed(directory):
    """Return a segment's file."""
    writer = write(directory, records(Random(1), 700), Random(2))
    writer.seal()
    writer.close()
    return BlockFile(min(directory.glob("*.segment")))


def contents(index):
    """Return the contents of an index, for comparison."""
    every = range(len(index.blocks))
    return (
        index.blocks, index.checkpoints, index.summaries, index.backfills,
        [sorted(index.topics(n)) for n in every],
        [[index.has(n, index.mask([topic])) for topic in TOPICS] for n in every],
    )  # fmt: skip


def test_a_footer_says_what_the_blocks_say(tmp_path):
    """So a damaged footer costs time alone."""
    file = sealed(tmp_path)
    footer = read_footer(file)
    collected = Index()
    collect(file, collected)

    assert contents(collected) == contents(footer)
    assert [] == footer.damages
    assert footer.messages == sum(block.header.messages for block in footer.blocks)
    file.close()


def test_a_damaged_footer_is_replaced_and_reported(tmp_path):
    """Wherever the damage is."""
    file = sealed(tmp_path)
    expected = contents(read_footer(file))
    end = read_footer(file).blocks[-1].end
    data = file.path.read_bytes()
    for at in range(end, len(data), 7):
        file.path.write_bytes(data[:at] + bytes([data[at] ^ 2]) + data[at + 1 :])
        found = read_footer(file)
        assert expected == contents(found)
        assert 1 == len(found.damages)
    file.close()


def test_a_block_with_a_damaged_directory_may_have_any_topic(tmp_path):
    """A reader must look, and report the gap."""
    file = sealed(tmp_path)
    block = read_footer(file).blocks[0]
    data = bytearray(file.path.read_bytes())
    data[block.offset + 100] ^= 1
    file.path.write_bytes(data)
    file.add([])
    index = Index()
    collect(file, index)
    again = Index()
    packed = index.pack(file.end)
    file.path.write_bytes(data[: file.end] + packed)
    again = read_footer(file)

    assert 1 == len(index.damages)
    for each in (index, again):
        assert all(each.has(0, each.mask([topic])) for topic in TOPICS)
        assert each.has(0, 0)
        assert set(each.topics(0)) == set(each.summaries)
    file.close()


def test_damaged_summaries_of_a_block_leave_its_topics_known(tmp_path):
    """And the index can be written."""
    file = sealed(tmp_path)
    block = read_footer(file).blocks[0]
    data = bytearray(file.path.read_bytes())
    data[block.offset + HEADER_BYTES + block.header.directory_bytes + 5] ^= 1
    file.path.write_bytes(data[: read_footer(file).blocks[-1].end])
    file.add([])
    index = Index()
    collect(file, index)
    again = unpack(index.pack(file.end))

    assert 1 == len(index.damages)
    assert contents(index) == contents(again)
    assert len(again.known_topics) >= len(again.summaries)
    assert not again.is_unknown(0)
    file.close()
