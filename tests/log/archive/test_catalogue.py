"""The catalogue: written whole, read without locks."""

import sqlite3
from contextlib import closing
from random import Random

import pytest

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.record import GapKind
from hedgehogd.log.archive import catalogue, files
from hedgehogd.log.archive.catalogue import ANY, Catalogue
from hedgehogd.log.archive.errors import ArchiveError, DamagedArchive, ForeignArchive
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.writer import Writer
from tests.log.archive.records import DEPLOYMENT, SMALL, TOPICS, message, records
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


def other_database(directory):
    """Return the bytes of another program's database."""
    with closing(sqlite3.connect(directory / "other")) as database:
        database.execute("PRAGMA application_id = 7")
        database.execute("CREATE TABLE segment (name TEXT)")
        database.commit()
    return (directory / "other").read_bytes()


@pytest.mark.parametrize("kind", ["database", "text", "short", "zeros before text"])
def test_a_file_of_another_program_is_never_overwritten(tmp_path, kind):
    """Whether there is an archive beside it or not."""
    data = {
        "database": other_database(tmp_path),
        "text": b"name,price\n" * 100,
        "short": b"x",
        "zeros before text": bytes(90) + b"text" * 100,
    }[kind]
    for directory in (tmp_path / "new", tmp_path / "old"):
        directory.mkdir()
        if directory.name == "old":
            write(directory, records(Random(1), 90), Random(2)).close()
        path = directory / files.CATALOGUE
        path.write_bytes(data)
        for opened in (lambda at: Writer(at, DEPLOYMENT), Reader):
            with pytest.raises(ForeignArchive, match=f"{path} is a file of another program"):
                opened(directory)
        assert data == path.read_bytes()


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:50], lambda data: bytes(100) + data[100:], lambda data: b"",
              lambda data: b"x" * 16 + data[16:], lambda data: data[:4096] + b"x" * 9_000],
)  # fmt: skip
def test_a_damaged_catalogue_is_made_again(tmp_path, known, spoil):
    """A torn one, and one that still has the application id."""
    path = tmp_path / files.CATALOGUE
    data = path.read_bytes()
    path.write_bytes(spoil(data))
    with pytest.raises(DamagedArchive):
        catalogue.load(tmp_path)
    with closing(Writer(tmp_path, DEPLOYMENT)) as writer:
        assert ["made again" in text for text in writer.problems] == [True]

    assert known.segments == catalogue.load(tmp_path).segments


def test_a_dropped_segment_is_no_longer_counted(known):
    """Nor are its backfilled trades listed."""
    rows = list(known.segments)
    while known.segments:
        known.drop(None)

    assert rows[-1].last_id == known.dropped_id
    assert {} == known.backfills
    assert vars(Catalogue("abcdef")).keys() == vars(known).keys()


def test_a_segment_with_a_damaged_block_may_have_any_topic(tmp_path):
    """Also one that no other block has, and after the catalogue was made again."""
    alone = Topic("status", "ONE-USD")
    with closing(Writer(tmp_path, DEPLOYMENT, sizes=SMALL)) as writer:
        writer.append([message(alone, 1, 1), message(TOPICS[0], 2, 2)])
        writer.seal()
        writer.append([message(TOPICS[0], 3, 3)])
        writer.seal()
    path = min(tmp_path.glob("*.segment"))
    with closing(Reader(tmp_path)) as reader:
        opened = reader.view.open(reader.view.sources[0])
        block = opened.contents.blocks[0]
    data = bytearray(path.read_bytes())
    data[block.offset + 80] ^= 1
    data[-1] ^= 1  # of the footer, so that its topics are collected
    path.write_bytes(data)
    (tmp_path / files.CATALOGUE).unlink()
    with closing(Writer(tmp_path, DEPLOYMENT)) as writer:
        assert writer.problems
    with closing(Reader(tmp_path)) as reader:
        for topic in (alone, TOPICS[0], TOPICS[1]):
            first = reader.read(0, frozenset({topic})).records[0]
            assert (topic, GapKind.UNREADABLE, 2) == (first.topic, first.kind, first.id)
        path.unlink()
    with closing(Reader(tmp_path)) as reader:
        assert [TOPICS[0]] == [each.topic for each in reader.read(0).records if each.id == 2]
        assert ANY not in reader.view.topics()
