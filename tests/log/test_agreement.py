"""The names that the writer of a log writes into window and archive."""

import fcntl
import re
import stat

import pytest

from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.log import agreement
from hedgehogd.log.agreement import FILE, agree, agree_on_window, write_names, write_window
from hedgehogd.log.archive.files import LOCK
from hedgehogd.log.disk import LockTaking

NAMES = {"feed.pairs": "BTC-USD", "feed.channels": "matches,ticker"}


@pytest.fixture
def window(tmp_path):
    path = tmp_path / "window"
    path.mkdir()
    return path


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "archive"
    path.mkdir()
    return path


def test_the_names_of_the_writer_are_read(window, archive):
    """By any instance that may read the window."""
    assert not agree(window, archive, NAMES, 2)
    write_names(window, archive, {"feed.pairs": "x"}, 2)
    write_names(window, archive, NAMES, 2)

    assert agree(window, archive, NAMES, 2)
    assert [window / FILE] == list(window.iterdir())
    assert 0o640 == stat.S_IMODE((window / FILE).stat().st_mode)
    assert [] == list(archive.iterdir())


def test_the_names_of_another_term_are_ignored(window, archive):
    """They may be those of a writer that was stopped to change them."""
    write_names(window, archive, NAMES | {"feed.pairs": "other"}, 1)

    assert not agree(window, archive, NAMES, 2)


@pytest.mark.parametrize("name", NAMES)
def test_other_names_are_an_error_of_the_operator(name, window, archive):
    """Only one of the instances writes, so the topics of the other one would not be recorded."""
    write_names(window, archive, NAMES | {name: "other"}, 1)
    with pytest.raises(OperatorError, match=re.escape(f"{name} other")) as raised:
        agree(window, archive, NAMES, 1)

    assert EXIT_CONFIG == raised.value.exit_status


def test_one_archive_has_many_paths(tmp_path, window, archive):
    """Another archive stays empty while the writer writes its own."""
    link, other = tmp_path / "link", tmp_path / "other"
    link.symlink_to(archive)
    write_names(window, archive, NAMES, 1)
    assert agree(window, link, NAMES, 1)
    with pytest.raises(OperatorError, match=f"{archive}; this one has {other}") as raised:
        agree(window, other, NAMES, 1)

    assert EXIT_CONFIG == raised.value.exit_status


def test_an_archive_that_is_written_belongs_to_one_window(tmp_path, window, archive):
    """Two writers would wait for each other's lock; a window that is gone does not matter."""
    other = tmp_path / "other"
    other.mkdir()
    agree_on_window(archive, window)
    write_window(archive, other)
    agree_on_window(archive, window)
    with (archive / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(OperatorError, match=f"log is in {other}") as raised:
            agree_on_window(archive, window)
        write_window(archive, window)
        agree_on_window(archive, window)

    assert EXIT_CONFIG == raised.value.exit_status


def test_a_writer_that_has_just_locked_the_archive_names_its_window(window, archive, monkeypatch):
    """Until then the archive names the window that the last end of the machine removed."""
    (archive / FILE).write_text('{"window": "/run/removed", "inode": "1:2"}')
    monkeypatch.setattr(agreement.time, "sleep", lambda _: write_window(archive, window))
    with (archive / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        agree_on_window(archive, window)


def test_the_first_writer_of_an_archive_names_its_window_a_moment_later(
    window, archive, tmp_path, monkeypatch
):
    """A second writer that starts at that instant is refused all the same."""
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setattr(agreement.time, "sleep", lambda _: write_window(archive, other))
    with (archive / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(OperatorError, match=f"log is in {other}"):
            agree_on_window(archive, window)


def test_an_archive_that_is_migrated_has_no_window(window, archive, monkeypatch):
    """The start waits for the lock, as for that of a writer that has just ended."""
    monkeypatch.setattr(agreement.time, "sleep", lambda _: None)
    with (archive / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        agree_on_window(archive, window)


def test_an_instance_that_locks_the_archive_for_a_new_window_names_it(window, archive):
    """A second instance that starts at that instant is not refused."""
    (archive / FILE).write_text('{"window": "/run/removed", "inode": "1:2"}')
    taking = LockTaking(archive, window)
    taking.take()
    agree_on_window(archive, window)
    taking.end().release()


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff"])
def test_unreadable_names_are_none(content, window, archive):
    """The next writer writes them again."""
    for directory in (window, archive):
        (directory / FILE).write_bytes(content)

    assert not agree(window, archive, NAMES, 1)
    agree_on_window(archive, window)


def test_a_fault_of_the_disk_is_no_error(tmp_path, window):
    """The archiver reports it."""
    (tmp_path / "file").touch()
    write_names(tmp_path / "file", tmp_path, NAMES, 1)
    write_window(tmp_path / "file", window)

    assert not agree(tmp_path / "file", tmp_path, NAMES, 1)
