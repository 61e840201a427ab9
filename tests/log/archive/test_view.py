"""The files of an archive as one reader sees them."""

from pathlib import Path
from random import Random

import pytest

from hedgehogd.domain import limits
from hedgehogd.log.archive import files
from hedgehogd.log.archive.errors import ArchiveError, DamagedArchive
from hedgehogd.log.archive.view import View
from hedgehogd.log.archive.writer import Writer
from tests.log.archive.records import DEPLOYMENT, TOPICS, message, records
from tests.log.archive.test_reader import write


def open_files():
    """Return how many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_it_follows_the_writer(tmp_path):
    """Sources do not overlap, and every file is closed at the end."""
    appended = records(Random(1), 900)
    before = open_files()
    writer = write(tmp_path, appended[:300], Random(2))
    view = View(tmp_path, DEPLOYMENT)
    view.refresh()
    for at in range(300, 900, 20):
        writer.append(appended[at : at + 20])
        writer.sync()
        if at % 60 == 0:
            writer.work()
        view.refresh()
        assert appended[at + 19].id == view.last_id
        ends = [each for source in view.sources for each in (source.first_id, source.last_id)]
        assert sorted(ends) == ends
    writer.close()
    view.close()

    assert before == open_files()


def test_few_segments_are_open_at_once(tmp_path, monkeypatch):
    """However many there are."""
    monkeypatch.setattr(limits, "ARCHIVE_FILES_OPEN_MAX", 2)
    writer = write(tmp_path, records(Random(1), 900), Random(2))
    writer.seal()
    writer.close()
    view = View(tmp_path)
    view.refresh()
    before = open_files()
    assert len(view.sources) > 3
    for source in view.sources:
        view.open(source)

    assert before + 2 == open_files()
    view.close()


def test_a_missing_file_that_is_not_removed_is_an_error(tmp_path):
    """After some tries."""
    writer = write(tmp_path, records(Random(1), 90), Random(2))
    next(tmp_path.glob("*.tail")).unlink()

    with pytest.raises(ArchiveError, match="files are missing"):
        View(tmp_path).refresh()
    writer._lock.release()


def test_a_damaged_catalogue_is_an_error_until_its_writer_starts(tmp_path):
    """No reader repairs it."""
    write(tmp_path, records(Random(1), 90), Random(2)).close()
    path = tmp_path / files.CATALOGUE
    path.write_bytes(path.read_bytes()[:100] + b"x" * 1_000)

    with pytest.raises(DamagedArchive):
        View(tmp_path).refresh()


def test_a_tail_without_records_is_replaced_by_the_next_writer(tmp_path):
    """A reader that has the old one open reads the new one."""
    before = Writer(tmp_path, DEPLOYMENT)
    view = View(tmp_path)
    view.refresh()
    before.close()
    writer = Writer(tmp_path, DEPLOYMENT, checkpoint=lambda: [message(TOPICS[2], 1, 0)])
    writer.append(records(Random(1), 20))
    writer.sync()
    view.refresh()

    assert writer.last_id == view.last_id
    assert [] == [damage for s in view.sources for damage in view.open(s).contents.damages]
    view.close()
    writer.close()
