"""The tail that is being written."""

import errno

import pytest

from hedgehogd.log.archive import files
from hedgehogd.log.archive.errors import ArchiveError, ArchiveReplaced
from hedgehogd.log.archive.files import FileHeader
from hedgehogd.log.archive.tail import Tail
from tests.log.archive.faults import Faults, sizes
from tests.log.archive.records import DEPLOYMENT

HEADER = files.pack_header(FileHeader(DEPLOYMENT, 7))
NAME = f"{7:020}.tail"


@pytest.fixture
def tail(tmp_path):
    """Return a tail with one block of books."""
    tail = Tail(tmp_path, DEPLOYMENT, 7, [b"books"], 5.0)
    yield tail
    tail.close()


def test_it_begins_complete(tmp_path, tail):
    """With its header and its first blocks, under its name."""
    assert HEADER + b"books" == (tmp_path / NAME).read_bytes()
    assert (7, 0, 5.0) == (tail.after_id, tail.bytes, tail.begun_s)
    assert {NAME: tail.size} == sizes(tmp_path)


def test_blocks_are_appended(tmp_path, tail):
    """Its size counts bytes on disk, ``bytes`` those of payloads."""
    tail.write(b"block", 30)
    tail.write(b"another", 12)
    tail.sync()
    tail.check()

    assert HEADER + b"booksblockanother" == (tmp_path / NAME).read_bytes()
    assert (42, len(HEADER) + 17) == (tail.bytes, tail.size)


def test_an_error_of_its_blocks_leaves_no_file(tmp_path):
    """The books come from the caller."""

    def books():
        yield b"first"
        raise KeyError("books")

    with pytest.raises(KeyError):
        Tail(tmp_path, DEPLOYMENT, 7, books(), 0.0)
    assert {} == sizes(tmp_path)


@pytest.mark.parametrize("count", [1, 2])
def test_a_failed_write_is_undone(tmp_path, monkeypatch, tail, count):
    """At once, or by the next write if that fails, too."""
    faults = Faults(monkeypatch)
    tail.write(b"block", 30)
    faults.fail(0, count, errno.ENOSPC)
    with pytest.raises(ArchiveError, match="No space left"):
        tail.write(b"lost and found", 8)
    assert ["write", "ftruncate"][:count] == faults.failed
    tail.check()
    tail.write(b"next", 4)
    tail.check()

    assert HEADER + b"booksblocknext" == (tmp_path / NAME).read_bytes()
    assert 34 == tail.bytes


def test_an_error_of_the_disk_is_one_of_the_archive(monkeypatch, tail):
    """With the path in its text."""
    Faults(monkeypatch).fail(0, 1, errno.EIO)

    with pytest.raises(ArchiveError, match=NAME):
        tail.sync()


@pytest.mark.parametrize("is_removed", [False, True])
def test_a_changed_file_is_noticed(tmp_path, tail, is_removed):
    """Another program may not write to it."""
    path = tmp_path / NAME
    path.unlink() if is_removed else path.write_bytes(b"x")

    with pytest.raises(ArchiveReplaced, match=NAME):
        tail.check()
