"""A disk that may hang."""

import pytest

from hedgehogd.log.archive.errors import ArchiveLocked
from hedgehogd.log.archive.lock import Lock
from hedgehogd.log.disk import LockTaking


def test_a_lock_that_is_taken_too_late_is_released(tmp_path):
    """The thread that takes it was not waited for."""
    taking = LockTaking(tmp_path, tmp_path)
    assert taking.end() is None
    taking.take()
    Lock(tmp_path).release()
    taking = LockTaking(tmp_path, tmp_path)
    taking.take()
    lock = taking.end()

    with pytest.raises(ArchiveLocked):
        Lock(tmp_path)
    lock.release()
