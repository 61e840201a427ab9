"""Each call of the operating system fails once, or from some moment on, at every place.

Nothing that was synced is lost or repeated, no file stays that nothing removes, and the size is
that of the files.
"""

import errno
import random
import sys
from contextlib import closing, suppress
from random import Random

import pytest

from hedgehogd.domain.channel import LEVEL2
from hedgehogd.log.archive import catalogue, files, inventory, view
from hedgehogd.log.archive.check import Totals, check
from hedgehogd.log.archive.errors import ArchiveError
from hedgehogd.log.archive.lock import Lock
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.writer import Sizes, Writer
from tests.log.archive.faults import Faults, open_files, sizes
from tests.log.archive.records import DEPLOYMENT, START_US, message, records
from tests.log.archive.test_reader import all_of, write

SIZES = Sizes(tail_bytes=700, tail_age_s=1e9, segment_bytes=1_500, segment_age_s=1e9)
RECORDS = records(Random(8), 42)
RECORDS_MANY = records(Random(8), 300)
BOOKS = [message(LEVEL2.topic("BTC-USD"), 1, 0, START_US, "snapshot")]
TRIES = 12
STRIDE = 7


class Caller:
    """A writer's caller that tries again after each error, and opens the archive again if needed.

    Args:
        directory: the archive's.
        is_killed: open the archive again after each error, as another process.
    """

    def __init__(self, directory, *, is_killed=False):
        self._directory = directory
        self._is_killed = is_killed
        self.errors = 0
        self.synced_id = 0
        self.writer = self._opened()

    def _opened(self):
        for _ in range(TRIES):
            try:
                return Writer(self._directory, DEPLOYMENT, checkpoint=lambda: BOOKS, sizes=SIZES)
            except ArchiveError:
                self.errors += 1
        raise AssertionError("the archive cannot be opened")

    def run(self):
        """Append all records, compact and seal."""
        for at in range(0, len(RECORDS), 14):
            self._repeated(lambda writer, at=at: self._append(writer, at + 14))
            self._repeated(lambda writer: writer.work())
        self._repeated(lambda writer: self._append(writer, len(RECORDS)))
        self._repeated(lambda writer: writer.seal())
        while self._repeated(lambda writer: writer.work()):
            pass

    def _append(self, writer, end):
        writer.append(RECORDS[:end])
        writer.sync()
        assert writer.synced_id == RECORDS[end - 1].id
        self.synced_id = writer.synced_id

    def _repeated(self, step):
        for _ in range(TRIES):
            try:
                return step(self.writer)
            except ArchiveError as error:
                self.errors += 1
                if self._is_killed or "opened again" in str(error):
                    with suppress(ArchiveError):
                        kill(self.writer) if self._is_killed else self.writer.close()
                    self.writer = self._opened()
                    assert self.writer.synced_id >= self.synced_id
        raise AssertionError("too many errors")


def kill(writer):
    """End a writer as the end of its process would."""
    writer._has_failed = True
    writer.close()


def assert_sound(caller, directory):
    """Assert that each record is in the archive once, and that there is nothing else."""
    with closing(Reader(directory)) as reader:
        assert RECORDS == all_of(reader)
    assert [] == [each for each in check(directory, Totals(), ()) if each.is_damage]
    found = sizes(directory)
    assert caller.writer.size == sum(found.values())
    assert [] == [name for name in found if name.endswith((".part", ".damaged"))]
    assert 0 == caller.writer.waiting
    assert 1 == sum(name.endswith(".tail") for name in found)
    caller.writer.check()


@pytest.mark.random
@pytest.mark.parametrize(
    ("is_killed", "count", "error"),
    [(False, 1, errno.EIO), (True, 1, errno.EIO), (False, 4, errno.ENOSPC)],
)
def test_nothing_is_lost_when_a_call_fails(tmp_path, monkeypatch, is_killed, count, error):
    """Whether the caller tries again or another process continues. Every seventh call, per run."""
    faults = Faults(monkeypatch)
    before = open_files()
    failed = set()
    begin = random.randrange(STRIDE)
    sys.stdout.write(f"begins with call {begin}\n")
    while True:
        directory = tmp_path / str(begin)
        faults.fail(begin, count, error)
        caller = Caller(directory, is_killed=is_killed)
        caller.run()
        failed.update(faults.failed)
        is_last = not faults.failed
        faults.fail(0, 0)
        assert_sound(caller, directory)
        caller.writer.close()
        assert before == open_files(), begin
        if is_last:
            break
        begin += STRIDE
    assert failed >= {"open", "write"}


@pytest.fixture
def archive(tmp_path):
    """Return an archive with segments, an open one and tails."""
    write(tmp_path / "archive", RECORDS_MANY, Random(2)).close()
    return tmp_path / "archive"


def writer_of(directory):
    """Open a writer with books."""
    return Writer(directory, DEPLOYMENT, checkpoint=lambda: BOOKS, sizes=SIZES)


@pytest.mark.parametrize("opened", [writer_of, Reader])
def test_a_failed_start_leaves_nothing(archive, monkeypatch, opened):
    """No open file, no lock, no part of a file, whichever call fails; and no record is lost."""
    faults = Faults(monkeypatch)
    before = open_files()
    errors = []  # they keep the objects of the start alive, as a traceback does
    begin = 0
    while begin == 0 or faults.failed:
        faults.fail(begin, 1, errno.EIO)
        try:
            opened(archive).close()
        except ArchiveError as error:
            errors.append(error)
        failed = faults.failed
        faults.fail(0, 0)
        faults.failed = failed
        assert before == open_files(), (begin, failed)
        assert [] == [name for name in sizes(archive) if name.endswith(".part")], (begin, failed)
        Lock(archive).release()
        begin += 1

    assert len(errors) > 10
    with closing(Reader(archive)) as reader:
        assert RECORDS_MANY == all_of(reader)


@pytest.mark.parametrize("name", ["load", "growing"])
def test_an_interrupted_start_leaves_nothing(archive, monkeypatch, name):
    """Also by an error that is none of the archive."""
    before = open_files()

    def interrupted(*_):
        raise KeyboardInterrupt

    for module in (catalogue, inventory, view):
        monkeypatch.setattr(module, name, interrupted, raising=False)
    for opened in (writer_of, Reader):
        with pytest.raises(KeyboardInterrupt):
            opened(archive)
        assert before == open_files()
    Lock(archive).release()


def test_books_that_cannot_be_made_leave_nothing(tmp_path):
    """They come from the caller."""
    before = open_files()

    def books():
        raise KeyError("BTC-USD")

    with pytest.raises(KeyError):
        Writer(tmp_path, DEPLOYMENT, checkpoint=books)
    assert before == open_files()
    assert ["archive.lock"] == list(sizes(tmp_path))
    Writer(tmp_path, DEPLOYMENT).close()


def test_a_failed_catalogue_is_written_by_the_next_sync(tmp_path, monkeypatch):
    """Until then readers see the old files, and the size counts all that are there."""
    with closing(Writer(tmp_path, DEPLOYMENT, sizes=SIZES)) as writer:

        def fail(*_):
            raise ArchiveError("no space")

        monkeypatch.setattr(catalogue.Catalogue, "write", fail)
        for end in (20, 40):
            writer.append(RECORDS_MANY[:end])
            for _ in range(2):
                with pytest.raises(ArchiveError):
                    writer.sync()
            with pytest.raises(ArchiveError):
                writer.work()
        assert sum(sizes(tmp_path).values()) == writer.size
        assert RECORDS_MANY[19].id == writer.synced_id, "no reader has the next ones"
        monkeypatch.undo()
        writer.sync()
        assert RECORDS_MANY[39].id == writer.synced_id
        with closing(Reader(tmp_path)) as reader:
            assert RECORDS_MANY[:40] == all_of(reader)
        while writer.work():
            pass
        assert sum(sizes(tmp_path).values()) == writer.size
        assert 1 == sum(name.endswith(".tail") for name in sizes(tmp_path))


def test_a_segment_that_was_not_removed_is_removed_before_the_next(archive, monkeypatch):
    """And none is dropped for it a second time."""
    with closing(writer_of(archive)) as writer:
        writer.seal()
        first, second = sorted(archive.glob("*.segment"))[:2]
        monkeypatch.setattr(catalogue.Catalogue, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            writer.retain(START_US, 1e9, 0)
        with pytest.raises(ZeroDivisionError):
            writer.retain(START_US, 1e9, 0)
        assert first.exists()
        assert sum(sizes(archive).values()) == writer.size
        monkeypatch.undo()
        assert writer.retain(START_US, 1e9, 10**9) is None
        assert not first.exists()
        assert second.exists()
        assert sum(sizes(archive).values()) == writer.size


def test_a_last_segment_that_was_not_removed_does_not_return(tmp_path, monkeypatch):
    """The writer ended between catalogue and file; no other segment is left."""
    with closing(writer_of(tmp_path)) as writer:
        writer.append(RECORDS)
        writer.seal()
        while len(list(tmp_path.glob("*.segment"))) > 1:
            writer.retain(START_US, 1e9, 0)
        monkeypatch.setattr(files, "remove", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            writer.retain(START_US, 1e9, 0)
    monkeypatch.undo()
    with closing(writer_of(tmp_path)) as writer:
        assert [] == writer.problems
        assert [] == list(tmp_path.glob("*.segment"))
        assert sum(sizes(tmp_path).values()) == writer.size
