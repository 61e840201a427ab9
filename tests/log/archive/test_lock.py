"""The lock of the writer."""

import pytest

from hedgehogd.log.archive import files
from hedgehogd.log.archive.errors import ArchiveError, ArchiveLocked
from hedgehogd.log.archive.lock import Lock


def test_one_process_holds_it(tmp_path):
    """Until it releases it."""
    lock = Lock(tmp_path)
    with pytest.raises(ArchiveLocked):
        Lock(tmp_path)
    lock.release()
    Lock(tmp_path).release()


def test_a_removed_lock_is_noticed(tmp_path):
    """Another writer could lock a new file of that name."""
    lock = Lock(tmp_path)
    assert lock.is_in_place()
    (tmp_path / files.LOCK).unlink()
    assert not lock.is_in_place()
    (tmp_path / files.LOCK).touch()
    assert not lock.is_in_place()
    lock.release()


def test_a_directory_that_is_absent_is_an_error(tmp_path):
    """Of the archive."""
    with pytest.raises(ArchiveError, match="No such file"):
        Lock(tmp_path / "absent")
