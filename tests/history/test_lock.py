"""One writes; when it ends, however that is, another one may at once."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from hedgehogd.history.lock import WriterLock
from hedgehogd.history.schema import LOCK_NAME, StoreError
from tests.history.conftest import NOW, match

HOLDER = """
import sys
from pathlib import Path
from hedgehogd.history.lock import WriterLock
lock = WriterLock(Path(sys.argv[1]))
print(lock.try_take(), flush=True)
sys.stdin.read()
"""


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def another_process(directory):
    """Run a process that tries to take the lock, and tells whether it has it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, process.stdout.readline().strip() == "True"
    finally:
        process.kill()
        process.communicate()


def test_one_has_it_and_says_so(tmp_path):
    """Taking what one has is no mistake, and neither is giving back what one has not."""
    one, other = WriterLock(tmp_path), WriterLock(tmp_path)
    assert (one.is_held, one.try_take(), one.try_take(), one.is_held) == (False, True, True, True)
    assert (other.try_take(), other.is_held) == (False, False)
    other.release()
    assert not other.try_take()
    one.release()
    one.release()

    assert (one.is_held, other.try_take(), one.try_take()) == (False, True, False)
    other.release()


def test_refusals_cost_no_descriptors(tmp_path):
    """It is tried four times a second, for months."""
    one, other = WriterLock(tmp_path), WriterLock(tmp_path)
    one.try_take()
    before = descriptors()
    assert not any(other.try_take() for _ in range(20))
    assert before == descriptors()
    one.release()


def test_who_is_killed_has_it_no_longer(tmp_path):
    """Nothing of a dead process may keep history from being written."""
    ours = WriterLock(tmp_path)
    with another_process(tmp_path) as (process, has_it):
        assert has_it
        assert not ours.try_take()
        process.kill()
        process.wait()
        assert ours.try_take()
    with another_process(tmp_path) as (_, has_it):
        assert not has_it
    ours.release()


def test_it_outlives_the_database(store, tmp_path):
    """Closing one descriptor of a file drops SQLite's locks on it, never this one."""
    ours = WriterLock(tmp_path)
    assert ours.try_take()
    store.writer.write([match(1)], NOW)
    store.close()
    store.file.read_bytes()
    (tmp_path / LOCK_NAME).read_bytes()
    with another_process(tmp_path) as (_, has_it):
        assert not has_it
    ours.release()


def test_it_is_not_inherited(tmp_path):
    """A program that the daemon starts must not go on holding it after its death."""
    ours = WriterLock(tmp_path)
    ours.try_take()
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        ours.release()
        with another_process(tmp_path) as (_, has_it):
            assert has_it
    finally:
        child.kill()
        child.wait()


def test_a_directory_that_is_not_there_is_an_error_of_the_store(tmp_path):
    """It may be mounted later."""
    with pytest.raises(StoreError, match=r"none/history\.lock: No such file or directory"):
        WriterLock(tmp_path / "none").try_take()


def test_a_file_that_cannot_be_locked_is_one_too(tmp_path, monkeypatch):
    """Some file systems have no locks; and nothing stays open."""

    def no_locks(descriptor, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    before = descriptors()
    with pytest.raises(StoreError, match="Operation not supported"):
        WriterLock(tmp_path).try_take()
    assert before == descriptors()
