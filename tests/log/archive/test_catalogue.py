"""The catalogue: written whole, read without locks."""

import sqlite3
from random import Random

import pytest

from hedgehogd.log.archive import catalogue, files
from hedgehogd.log.archive.catalogue import Catalogue
from hedgehogd.log.archive.errors import ArchiveError, DamagedArchive, ForeignArchive
from tests.log.archive.records import TOPICS, records
from tests.log.archive.test_reader import write


@pytest.fixture
def known(tmp_path):
    """Return the catalogue of an archive with several segments."""
    writer = write(tmp_path, records(Random(1), 900), Random(2))
    writer.seal()
    writer.close()
    return catalogue.load(tmp_path)


def test_it_is_read_as_written(tmp_path, known):
    """All tables."""
    before = catalogue.identity(tmp_path)
    known.write(tmp_path)
    again = catalogue.load(tmp_path)

    assert vars(known) == vars(again)
    assert len(known.segments) > 2
    assert known.backfills
    assert before != catalogue.identity(tmp_path)
    assert 0o640 == (tmp_path / files.CATALOGUE).stat().st_mode & 0o777


def test_other_programs_can_read_it(tmp_path, known):
    """It is a SQLite database."""
    database = sqlite3.connect(tmp_path / files.CATALOGUE)
    found = database.execute("SELECT after_id, messages FROM segment ORDER BY 1").fetchall()
    database.close()

    assert [(row.after_id, row.messages) for row in known.segments] == found


def test_topics_are_bits(known):
    """By their numbers in the catalogue."""
    row = known.segments[0]

    assert set(known.topics(known.mask(TOPICS[:3]))) == set(TOPICS[:3])
    assert row.mask == known.mask(known.topics(row.mask))
    assert 0 == known.mask([])


def test_a_changed_value_is_noticed(tmp_path, known):
    """SQLite has no checksums; the catalogue has one."""
    database = sqlite3.connect(tmp_path / files.CATALOGUE)
    database.execute("UPDATE segment SET last_id = last_id + 1")
    database.commit()
    database.close()

    with pytest.raises(DamagedArchive, match="the checksum of"):
        catalogue.load(tmp_path)
    assert known.segments


def test_other_files_are_refused(tmp_path, known):
    """Each by its own error."""
    with pytest.raises(ForeignArchive):
        catalogue.load(tmp_path, "bbbbbb")
    (tmp_path / files.CATALOGUE).write_bytes(b"")
    with pytest.raises(DamagedArchive):
        catalogue.load(tmp_path)
    (tmp_path / files.CATALOGUE).unlink()
    with pytest.raises(FileNotFoundError):
        catalogue.load(tmp_path)
    assert catalogue.identity(tmp_path) is None
    (tmp_path / files.CATALOGUE).mkdir()
    with pytest.raises(ArchiveError, match="directory"):
        catalogue.load(tmp_path)
    assert known.segments


def test_a_dropped_segment_is_no_longer_counted(known):
    """Nor are its backfilled trades listed."""
    rows = list(known.segments)
    while known.segments:
        known.drop(None)

    assert rows[-1].last_id == known.dropped_id
    assert {} == known.backfills
    assert vars(Catalogue("abcdef")).keys() == vars(known).keys()
