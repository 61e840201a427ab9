"""Reading the blocks of a file that may be growing."""

from random import Random

import pytest

from hedgehogd.log.archive import files
from hedgehogd.log.archive.block import CHECKPOINT, Builder
from hedgehogd.log.archive.block_file import BlockFile
from hedgehogd.log.archive.errors import DamagedArchive
from hedgehogd.log.archive.files import FileHeader
from tests.log.archive.records import records

RECORDS = records(Random(4), 90)


def blocks():
    """Return three blocks."""
    found = []
    for at in range(0, 90, 30):
        builder = Builder()
        builder.append(RECORDS[at : at + 30])
        found.append(builder.build(6, 1_000))
    return found


@pytest.fixture
def path(tmp_path):
    return tmp_path / f"{0:020}.tail"


def test_a_file_is_followed_while_it_grows(path):
    """A part of a block does not count."""
    first, second, _ = blocks()
    path.write_bytes(files.pack_header(FileHeader("abcdef", 0)) + first + second[:50])
    file = BlockFile(path)
    assert 1 == len(file.refresh())
    assert [] == file.refresh()
    with path.open("ab") as growing:
        growing.write(second[50:])

    assert 1 == len(file.refresh())
    assert [True, True] == [file.is_whole(block) for block in file.blocks]
    assert [] == file.damages
    file.close()


def test_bytes_between_blocks_are_damage(path):
    """A block after them is found by its begin."""
    first, second, third = blocks()
    spoiled = b"HEDB" + second[:20] + bytes(len(second) - 24)
    path.write_bytes(files.pack_header(FileHeader("abcdef", 0)) + first + spoiled + third)
    file = BlockFile(path)

    found = file.refresh()
    assert [first, spoiled, third] == [file.read(b.offset, b.header.size) for b in found]
    assert [True, False, True] == [file.is_whole(block) for block in found]
    lost = found[1].header
    assert lost.first_id <= RECORDS[30].id <= RECORDS[59].id <= lost.last_id
    assert [(32 + len(first), len(second))] == [(d.offset, d.size) for d in file.damages]
    file.close()


def test_a_changed_byte_is_noticed(path):
    """Wherever it is in the body."""
    first, _, _ = blocks()
    path.write_bytes(files.pack_header(FileHeader("abcdef", 0)) + first[:-1] + b"\x00")
    file = BlockFile(path)
    (block,) = file.refresh()

    assert not file.is_whole(block)
    file.close()


def test_another_file_is_refused(path):
    """It is not opened for reading blocks."""
    path.write_bytes(b"something else" * 10)

    with pytest.raises(DamagedArchive, match="does not begin like a file of an archive"):
        BlockFile(path)
    with pytest.raises(FileNotFoundError):
        BlockFile(path.with_suffix(".open"))


def test_lost_ids_begin_after_those_of_the_file_before(path):
    """Also after a checkpoint without books, which has no id."""
    first, second, _ = blocks()
    checkpoint = Builder().build(6, 1_000, CHECKPOINT)
    header = files.pack_header(FileHeader("abcdef", 5))
    path.write_bytes(header + checkpoint + b"x" * len(first) + second)
    file = BlockFile(path)
    file.refresh()

    assert 6 == file.blocks[1].header.first_id
    file.close()
