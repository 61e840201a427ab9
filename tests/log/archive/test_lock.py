"""The lock of the writer."""

import subprocess
import sys
from pathlib import Path

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


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_refusals_cost_no_descriptors(tmp_path):
    """A candidate tries four times a second, for months."""
    lock = Lock(tmp_path)
    before = descriptors()
    for _ in range(20):
        with pytest.raises(ArchiveLocked):
            Lock(tmp_path)
    assert before == descriptors()
    lock.release()


HOLDING = """\
import sys, time
from pathlib import Path
from hedgehogd.log.archive.lock import Lock
lock = Lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_killed_process_holds_it_no_longer(tmp_path):
    """However it ends."""
    words = [sys.executable, "-c", HOLDING, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=Path.cwd()) as process:
        assert b"held\n" == process.stdout.readline()
        with pytest.raises(ArchiveLocked):
            Lock(tmp_path)
        process.kill()
    Lock(tmp_path).release()


def test_it_is_not_inherited(tmp_path):
    """A program that the daemon starts must not hold it after the daemon's end."""
    lock = Lock(tmp_path)
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        lock.release()
        Lock(tmp_path).release()
        child.kill()


def test_a_file_that_cannot_be_locked_is_an_error(tmp_path, monkeypatch):
    """Some file systems have no locks; nothing stays open."""

    def no_locks(descriptor, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    before = descriptors()
    with pytest.raises(ArchiveError, match="Operation not supported"):
        Lock(tmp_path)
    assert before == descriptors()
