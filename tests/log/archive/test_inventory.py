"""The inventory at a start."""

from contextlib import closing
from random import Random

from hedgehogd.domain.message import Message
from hedgehogd.domain.record import GapKind, GapRecord
from hedgehogd.log.archive import files, inventory
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.writer import Writer
from tests.log.archive.records import DEPLOYMENT, SMALL, records
from tests.log.archive.test_reader import all_of, write

RECORDS = records(Random(1), 900)


def archive(directory):
    """Write an archive with segments, an open segment and tails."""
    writer = write(directory, RECORDS, Random(2))
    writer.close()


def closed(found):
    """Close the files of an inventory."""
    for each in (*found.tails, found.opened):
        if each is not None:
            each.file.close()
    return found


def test_a_sound_archive_has_no_problems(tmp_path):
    """And its catalogue stays."""
    archive(tmp_path)
    found = closed(inventory.take(tmp_path, DEPLOYMENT))

    assert ([], False) == (found.problems, found.is_changed)


def test_a_segment_that_the_catalogue_does_not_have_yet_is_added(tmp_path):
    """The writer ended between the two."""
    archive(tmp_path)
    before = (tmp_path / files.CATALOGUE).read_bytes()
    writer = write(tmp_path, RECORDS, Random(2))
    writer.seal()
    writer.close()
    (tmp_path / files.CATALOGUE).write_bytes(before)
    found = closed(inventory.take(tmp_path, DEPLOYMENT))

    assert ([], True) == (found.problems, found.is_changed)
    names = sorted(path.name for path in tmp_path.glob("*.segment"))
    assert names == [row.name for row in found.catalogue.segments]


def test_a_segment_that_retention_was_removing_is_removed(tmp_path):
    """The writer ended between the catalogue and the file."""
    archive(tmp_path)
    path = min(tmp_path.glob("*.segment"))
    data = path.read_bytes()
    writer = write(tmp_path, RECORDS, Random(2))
    writer.retain(10**17, 0.0, 0)
    writer.close()
    path.write_bytes(data)
    found = closed(inventory.take(tmp_path, DEPLOYMENT))

    assert [] == found.problems
    assert not path.exists()


def test_a_tail_that_is_in_the_open_segment_is_removed(tmp_path):
    """The writer ended before it removed the tail."""
    writer = write(tmp_path, RECORDS[:200], Random(1))
    tails = {path: path.read_bytes() for path in tmp_path.glob("*.tail")}
    writer.seal()
    writer.close()
    for path, data in tails.items():
        path.write_bytes(data)
    (tmp_path / "half.sqlite.part").touch()
    found = closed(inventory.take(tmp_path, DEPLOYMENT))

    assert [] == [tail for tail in found.tails if tail.contents.blocks]
    assert not (tmp_path / "half.sqlite.part").exists()


def test_a_file_that_is_no_tail_is_set_aside(tmp_path):
    """It may be of use to a person."""
    archive(tmp_path)
    path = max(tmp_path.glob("*.tail"))
    path.write_bytes(b"something else, longer than a header of a file")
    found = closed(inventory.take(tmp_path, DEPLOYMENT))

    assert ["set aside" in text for text in found.problems] == [True]
    assert path.with_suffix(".tail.damaged").exists()


def test_records_missing_at_the_end_of_a_file_are_a_gap(tmp_path):
    """The next file says where it should have ended."""
    archive(tmp_path)
    tails = sorted(tmp_path.glob("*.tail"))
    assert len(tails) > 2
    data = tails[0].read_bytes()
    tails[0].write_bytes(data[: len(data) // 2])
    reader = Reader(tmp_path)
    found = all_of(reader)
    reader.close()
    lost = [r for r in RECORDS if r not in found]
    with closing(Writer(tmp_path, DEPLOYMENT, sizes=SMALL)) as writer:
        writer.seal()
        reader = Reader(tmp_path)
        again = all_of(reader)
        reader.close()

    gaps = {r.topic for r in found if isinstance(r, GapRecord) and r.kind is GapKind.UNREADABLE}
    assert lost
    assert {r.topic for r in lost if isinstance(r, Message)} <= gaps
    assert found == again
