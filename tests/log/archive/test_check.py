"""Verifying an archive."""

import threading
from contextlib import closing
from random import Random

import pytest

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.record import GapKind, GapRecord
from hedgehogd.log.archive import catalogue, files
from hedgehogd.log.archive.check import Totals, check
from hedgehogd.log.archive.errors import ArchiveError, ForeignArchive, NewerFormat
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.writer import Writer
from tests.log.archive.records import DEPLOYMENT, SMALL, START_US, records
from tests.log.archive.test_reader import all_of, write


@pytest.fixture
def archive(tmp_path):
    """Return the directory of an archive with segments, an open one and tails."""
    writer = write(tmp_path, records(Random(1), 900), Random(2))
    writer.close()
    return tmp_path


def damages(directory):
    """Return the texts of the damage."""
    return [finding.text for finding in check(directory, Totals(), ()) if finding.is_damage]


def test_a_sound_archive_has_gaps_alone(archive):
    """And totals."""
    totals = Totals()
    found = list(check(archive, totals))

    assert [] == [each for each in found if each.is_damage]
    assert found
    assert all(each.text.startswith("gap: ") for each in found)
    assert totals.messages > 700
    assert totals.files == len(list(archive.glob("0*")))


@pytest.mark.parametrize(
    ("first", "last", "numbers"),
    [(None, None, ""), (5, 5, " 5"), (5, 7, " 5 to 7"), (5, None, " from 5")],
)
def test_a_gap_names_the_numbers_that_are_known(first, last, numbers, tmp_path):
    """The last one is not known of a ticker that may have missed messages."""
    gap = GapRecord(Topic("ticker", "BTC-USD"), GapKind.MISSING, first, last, id=START_US)
    with closing(Writer(tmp_path, DEPLOYMENT)) as writer:
        writer.append([gap])
        writer.sync()

    assert [f"gap: ticker:BTC-USD missing{numbers} at id {START_US}"] == [
        finding.text for finding in check(tmp_path, Totals())
    ]


def test_any_damaged_byte_is_found(archive):
    """In any file of blocks, and in the catalogue."""
    random = Random(3)
    known = vars(catalogue.load(archive))
    for path in sorted(archive.iterdir()):
        data = path.read_bytes()
        is_catalogue = path.name == files.CATALOGUE
        for _ in range(80 if is_catalogue else 12 if data else 0):
            at = random.randrange(len(data))
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            try:
                found = damages(archive)
            except (NewerFormat, ForeignArchive) as error:
                found = [str(error)]
            if not found:  # SQLite's pages have bytes without a meaning
                assert path.name == files.CATALOGUE, (path.name, at)
                assert vars(catalogue.load(archive)) == known, at
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


def test_a_running_writer_is_no_damage(tmp_path):
    """It appends, compacts, seals and drops while the archive is checked."""
    appended = records(Random(1), 2_400)
    directory = tmp_path / "archive"
    Writer(directory, DEPLOYMENT, sizes=SMALL).close()
    has_ended = threading.Event()

    def run():
        try:
            with closing(Writer(directory, DEPLOYMENT, sizes=SMALL)) as writer:
                for at in range(0, len(appended), 10):
                    writer.append(appended[at : at + 10])
                    writer.sync()
                    writer.work()
                    if at > 1_000 and at % 50 == 0:
                        writer.retain(START_US, 1e9, 60_000)
        finally:
            has_ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    looks = 0
    found = []
    while not has_ended.is_set():
        found += [each.text for each in check(directory, Totals()) if each.is_damage]
        looks += 1
    thread.join()

    assert [] == found
    assert looks > 3
    assert [] == damages(directory)


def test_damage_that_disappears_is_not_reported(archive):
    """A writer may be at work: the archive is read again after each pause."""
    path = min(archive.glob("*.segment"))
    data = path.read_bytes()
    tail = max(archive.glob("*.tail"))
    with tail.open("ab") as file:
        file.write(data[32:200])
    path.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])

    class Pauses(tuple):
        def __iter__(self):
            yield 0.0
            path.write_bytes(data)
            yield 0.0

    assert len(damages(archive)) == 2
    found = [each for each in check(archive, Totals(), Pauses()) if each.is_damage]
    assert 1 == len(found)
    assert found[0].text.startswith(tail.name)
    assert found[0].text.endswith(": an unfinished write, or a damaged block")


def test_a_segment_that_the_catalogue_does_not_have_yet_is_no_damage(tmp_path, monkeypatch):
    """A start completes the work of a writer that ended; a reader reads it meanwhile."""
    appended = records(Random(1), 300)
    writer = Writer(tmp_path, DEPLOYMENT)
    writer.append(appended)
    writer.sync()
    writer._rotate()
    writer.work()

    def fail():
        raise ArchiveError("no space")

    monkeypatch.setattr(writer, "_write_catalogue", fail)
    with pytest.raises(ArchiveError):
        writer._seal()
    monkeypatch.undo()

    assert [] == damages(tmp_path)
    with closing(Reader(tmp_path)) as reader:
        assert appended == all_of(reader)
    writer.close()
