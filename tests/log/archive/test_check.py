"""Verifying an archive."""

from random import Random

import pytest

from hedgehogd.log.archive import files
from hedgehogd.log.archive.check import Totals, check
from hedgehogd.log.archive.errors import ArchiveError, NewerFormat
from tests.log.archive.records import records
from tests.log.archive.test_reader import write


@pytest.fixture
def archive(tmp_path):
    """Return the directory of an archive with segments, an open one and tails."""
    writer = write(tmp_path, records(Random(1), 900), Random(2))
    writer.close()
    return tmp_path


def damages(directory):
    """Return the texts of the damage."""
    return [finding.text for finding in check(directory, Totals()) if finding.is_damage]


def test_a_sound_archive_has_gaps_alone(archive):
    """And totals."""
    totals = Totals()
    found = list(check(archive, totals))

    assert [] == [each for each in found if each.is_damage]
    assert found
    assert all(each.text.startswith("gap: ") for each in found)
    assert totals.messages > 700
    assert totals.files == len(list(archive.glob("0*")))


def test_any_damaged_byte_is_found(archive):
    """In any file of blocks, and in the catalogue."""
    random = Random(3)
    for path in sorted(archive.iterdir()):
        data = path.read_bytes()
        for _ in range(12 if data else 0):
            at = random.randrange(len(data))
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            try:
                found = damages(archive)
            except NewerFormat:
                found = ["the version"]
            if path.name != files.CATALOGUE:  # SQLite's pages have bytes without a meaning
                assert found, (path.name, at)
        path.write_bytes(data)
    assert [] == damages(archive)


def test_a_missing_and_an_unknown_segment_are_found(archive):
    """The catalogue says which there are."""
    first, second = sorted(archive.glob("*.segment"))[:2]
    moved = first.rename(archive / f"{first.stem[:-1]}1.segment")

    assert {f"{moved.name} is not in catalogue.sqlite", f"{first.name} is missing"} <= set(
        damages(archive)
    )
    (archive / files.CATALOGUE).unlink()
    assert "catalogue.sqlite is missing" in damages(archive)
    second.write_bytes(b"")
    assert any("does not begin like" in text for text in damages(archive))


def test_a_directory_without_an_archive_is_an_error(tmp_path):
    """Not a sound archive."""
    with pytest.raises(ArchiveError, match="there is no archive"):
        list(check(tmp_path, Totals()))
    with pytest.raises(ArchiveError):
        list(check(tmp_path / "absent", Totals()))
