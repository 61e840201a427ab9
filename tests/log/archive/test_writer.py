"""The writer: durability, starts after a kill or damage, retention."""

import errno
import os
import random
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from hedgehogd.domain import limits
from hedgehogd.domain.channel import LEVEL2
from hedgehogd.domain.record import GapKind
from hedgehogd.log.archive import files
from hedgehogd.log.archive.errors import (
    ArchiveError,
    ArchiveLocked,
    ArchiveReplaced,
    ForeignArchive,
    NewerFormat,
)
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.search import checkpoint_before
from hedgehogd.log.archive.writer import Sizes, Writer, sizes_for
from tests.log.archive.records import (
    BOOK_US,
    BOOKS,
    DEPLOYMENT,
    SMALL,
    START_US,
    message,
    records,
)
from tests.log.archive.test_reader import all_of, write

KILLED = """\
import sys
from pathlib import Path
from random import Random
from hedgehogd.log.archive.writer import Writer
from tests.log.archive.records import BOOKS, DEPLOYMENT, SMALL, book, records
directory, seed = Path(sys.argv[1]), int(sys.argv[2])
def books():  # each with the position as its sequence
    return [book(topic, writer.last_id if "writer" in globals() else 0) for topic in BOOKS]
writer = Writer(directory, DEPLOYMENT, checkpoint=books, sizes=SMALL)
assert all("unfinished" in problem for problem in writer.problems), writer.problems
print("begun", writer.last_id, flush=True)
appended = [r for r in records(Random(seed), 4_000) if r.id > writer.last_id]
for at in range(0, len(appended), 25):
    writer.append(appended[at : at + 25])
    writer.sync()
    print(writer.synced_id, flush=True)
    if at % 50 == 0:
        writer.work()
print("done", flush=True)
"""


def test_a_writer_killed_at_any_instant_loses_nothing_that_was_synced(tmp_path):
    """During any of its steps: appending, compacting, sealing, writing the catalogue."""
    seed = random.randrange(2**32)
    sys.stdout.write(f"seed {seed}\n")
    chance = Random(seed)
    appended = records(Random(seed), 4_000)
    synced, is_done, kills = 0, False, 0
    books = set()
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    while not is_done and kills < 60:
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path), str(seed)],
            stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        begin = child.stdout.readline().split()
        assert int(begin[1]) >= synced
        for _ in range(chance.randrange(1, 60)):
            line = child.stdout.readline().strip()
            is_done = line == "done"
            if is_done or not line:
                break
            synced = int(line)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        kills += 1
        reader = Reader(tmp_path)
        found = all_of(reader, None, 1_000)
        for topic in BOOKS:
            books.update(check_books(reader, topic, found))
        reader.close()
        assert [r for r in appended if r.id <= found[-1].id] == found
        assert found[-1].id >= synced
    assert is_done
    assert kills > 2
    assert len(books) > 3


def check_books(reader, topic, found):
    """Check that each segment that is begun starts with the book; return the positions."""
    positions = set()
    for source in reader.view.sources:
        after_id = reader.view.open(source).file.header.after_id
        start = checkpoint_before(reader, topic, after_id)
        if start is not None and start.received_us == BOOK_US:
            assert start.sequence in {0, start.id}, "the book of another position"
            assert start.id == 0 or start.id in {each.id for each in found}
            positions.add(start.id)
    return positions


def test_only_one_process_writes(tmp_path):
    """The lock ends with its process."""
    first = Writer(tmp_path, DEPLOYMENT)

    with pytest.raises(ArchiveLocked, match="another process writes"):
        Writer(tmp_path, DEPLOYMENT)

    first.close()
    Writer(tmp_path, DEPLOYMENT).close()


def test_the_files_are_private(tmp_path):
    """Which pairs an operator keeps is not public."""
    before = os.umask(0)
    try:
        directory = tmp_path / "history"
        writer = write(directory, records(Random(1), 300), Random(2))
        writer.seal()
    finally:
        os.umask(before)

    assert {0o640} == {path.stat().st_mode & 0o777 for path in directory.iterdir()}
    assert 0o750 == directory.stat().st_mode & 0o777
    writer.close()


def test_its_size_is_that_of_its_files(tmp_path):
    """So the operator's limit means bytes on disk."""
    writer = write(tmp_path, records(Random(1), 500), Random(2))

    assert writer.size == sum(path.stat().st_size for path in tmp_path.iterdir())
    writer.close()


def test_an_unfinished_write_is_removed_and_reported(tmp_path):
    """A power loss leaves a part of a block."""
    appended = records(Random(1), 40)
    writer = Writer(tmp_path, DEPLOYMENT)
    writer.append(appended)
    writer.close()
    tail = next(tmp_path.glob("*.tail"))
    whole = tail.stat().st_size
    with tail.open("ab") as file:
        file.write(tail.read_bytes()[-168:])
    writer = Writer(tmp_path, DEPLOYMENT)

    assert [f"{tail.name}: 168 bytes of an unfinished write are removed"] == writer.problems
    assert whole == tail.stat().st_size
    assert appended[-1].id == writer.last_id
    writer.close()


def test_a_block_whose_end_was_not_written_is_removed(tmp_path):
    """After a power loss a file may be long enough and contain zeros."""
    appended = records(Random(1), 60)
    writer = Writer(tmp_path, DEPLOYMENT)
    writer.append(appended[:30])
    writer.sync()
    writer.append(appended[30:])
    writer.close()
    tail = next(tmp_path.glob("*.tail"))
    data = tail.read_bytes()
    tail.write_bytes(data[:-100] + bytes(100))
    writer = Writer(tmp_path, DEPLOYMENT)

    assert appended[29].id == writer.last_id
    writer.append(appended)
    writer.sync()
    reader = Reader(tmp_path)
    assert appended == all_of(reader)
    reader.close()
    writer.close()


@pytest.mark.parametrize(
    "spoil", [lambda data: None, lambda data: data[:100] + b"xxxx" + data[104:]]
)
def test_a_catalogue_is_made_again_from_the_segments(tmp_path, spoil):
    """And that is reported."""
    appended = records(Random(1), 600)
    writer = write(tmp_path, appended, Random(2))
    writer.seal()
    rows = list(writer._catalogue.segments)
    writer.close()
    path = tmp_path / files.CATALOGUE
    spoiled = spoil(path.read_bytes())
    path.unlink()
    if spoiled:
        path.write_bytes(spoiled)
    writer = Writer(tmp_path, DEPLOYMENT, sizes=SMALL)

    assert 1 == len(writer.problems)
    assert "made again from the segments" in writer.problems[0]
    assert [row[:-1] for row in rows] == [row[:-1] for row in writer._catalogue.segments]
    reader = Reader(tmp_path)
    assert appended == all_of(reader)
    reader.close()
    writer.close()


def test_a_full_disk_loses_nothing_that_the_caller_keeps(tmp_path, monkeypatch):
    """The tail is as before, and the next sync writes the records."""
    appended = records(Random(1), 100)
    writer = Writer(tmp_path, DEPLOYMENT)
    writer.append(appended[:50])
    writer.sync()
    monkeypatch.setattr(files, "write_all", _half)
    writer.append(appended[50:])
    with pytest.raises(ArchiveError, match="No space left"):
        writer.sync()
    assert appended[49].id == writer.synced_id
    monkeypatch.undo()
    writer.sync()
    reader = Reader(tmp_path)

    assert appended == all_of(reader)
    reader.close()
    writer.close()


def _half(descriptor, data):
    os.write(descriptor, data[: len(data) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_during_compaction_is_tried_again(tmp_path, monkeypatch):
    """The tail remains until its block is durable."""
    appended = records(Random(1), 100)
    writer = Writer(tmp_path, DEPLOYMENT, sizes=SMALL)
    writer.append(appended)
    writer.sync()
    real = files.write_all
    monkeypatch.setattr(files, "write_all", _half)
    with pytest.raises(ArchiveError, match="No space left"):
        writer.work()
    monkeypatch.setattr(files, "write_all", real)
    reader = Reader(tmp_path)
    assert appended == all_of(reader)
    while writer.work():
        pass

    assert appended == all_of(reader)
    reader.close()
    writer.close()


@pytest.mark.parametrize("suffix", [".segment", ".open", ".tail", ".sqlite"])
def test_a_newer_version_is_refused(tmp_path, suffix):
    """It is not damage, and nothing is changed."""
    writer = write(tmp_path, records(Random(1), 450), Random(2))
    while writer.work():
        pass
    writer.close()
    path = min(tmp_path.glob(f"*{suffix}"))
    data = bytearray(path.read_bytes())
    at = 60 if suffix == ".sqlite" else 8
    data[at : at + (4 if suffix == ".sqlite" else 2)] = (
        (9).to_bytes(4, "big") if suffix == ".sqlite" else (9).to_bytes(2, "little")
    )
    path.write_bytes(data)
    if suffix == ".segment":
        (tmp_path / files.CATALOGUE).unlink()
    with pytest.raises(NewerFormat, match="version 9, this hedgehogd reads up to 1"):
        Writer(tmp_path, DEPLOYMENT)

    assert bytes(data) == path.read_bytes()


def test_another_deployment_is_refused(tmp_path):
    """Two logs in one directory would be one without order."""
    Writer(tmp_path, DEPLOYMENT).close()

    with pytest.raises(ForeignArchive):
        Writer(tmp_path, "bbbbbb")


@pytest.mark.parametrize("fault", ["moved", "deleted", "replaced", "tail", "catalogue", "lock"])
def test_a_replaced_archive_is_noticed(tmp_path, fault):
    """A check costs some calls of stat."""
    directory = tmp_path / "history"
    writer = Writer(directory, DEPLOYMENT)
    writer.check()
    if fault in {"moved", "replaced"}:
        directory.rename(tmp_path / "away")
    if fault == "replaced":
        directory.mkdir()
    if fault == "deleted":
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
    names = {"tail": f"{0:020}.tail", "catalogue": files.CATALOGUE, "lock": files.LOCK}
    if fault in names:
        (directory / names[fault]).unlink()

    with pytest.raises(ArchiveReplaced):
        writer.check()


def test_retention_removes_the_oldest_segment_first(tmp_path):
    """By age and by size; the open segment stays."""
    writer = write(tmp_path, records(Random(1), 900), Random(2))
    writer.seal()
    first, second = writer._catalogue.segments[:2]
    age_s = (START_US + 10**9 - first.max_us) / 1e6 - 1e-6

    assert writer.retain(START_US + 10**9, age_s + 1, 10**9) is None
    assert first == writer.retain(START_US + 10**9, age_s - 1e-3, 10**9)
    assert second == writer.retain(START_US, 1e9, writer.size - 1)
    assert not (tmp_path / first.name).exists()
    writer.close()


@pytest.mark.parametrize("is_due", [False, True])
def test_retention_frees_space_on_a_full_disk(tmp_path, monkeypatch, is_due):
    """The new catalogue needs space before the file may be removed; the disk has none."""
    writer = write(tmp_path, records(Random(1), 900), Random(2))
    writer.seal()
    first = writer._catalogue.segments[0]
    writer._is_catalogue_due = is_due
    real = files.write_all

    def write_all(descriptor, data):
        if (tmp_path / first.name).exists():
            _half(descriptor, data)
        real(descriptor, data)

    monkeypatch.setattr(files, "write_all", write_all)
    if is_due:
        with pytest.raises(ArchiveError, match="No space left"):
            writer.retain(START_US, 1e9, 10**9)
    assert writer.retain(START_US, 1e9, writer.size - 1) == first
    assert not (tmp_path / first.name).exists()
    writer.close()

    with closing(Reader(tmp_path)) as reader:
        assert reader.view.catalogue.dropped_id == first.last_id
        assert [gap.kind for gap in reader.gaps() if gap.kind is GapKind.UNREADABLE] == []


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
def test_another_fault_of_the_catalogue_keeps_the_file(tmp_path, monkeypatch, number):
    """A reader must not miss a file that the catalogue names, if there is another way."""
    writer = write(tmp_path, records(Random(1), 900), Random(2))
    writer.seal()
    first = writer._catalogue.segments[0]

    def write_all(descriptor, data):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "write_all", write_all)
    with pytest.raises(ArchiveError):
        writer.retain(START_US, 1e9, writer.size - 1)
    assert (tmp_path / first.name).exists()
    monkeypatch.undo()
    writer.close()


def test_a_segment_of_a_clock_that_ran_ahead_expires_with_the_next(tmp_path):
    """Else it would keep everything after it for years."""
    writer = Writer(tmp_path, DEPLOYMENT, sizes=SMALL)
    ahead_us = START_US + 10**14
    topic = LEVEL2.topic("BTC-USD")
    writer.append([message(topic, 1, 5, ahead_us)])
    writer.seal()
    writer.append([message(topic, 2, 6, START_US)])
    writer.seal()

    assert writer.retain(START_US + 10**6, 2.0, 10**9) is None
    assert writer.retain(START_US + 10**7, 2.0, 10**9) is not None
    writer.close()


def test_a_segment_begins_with_its_books(tmp_path):
    """They are starting points, not messages of the log."""
    topic = LEVEL2.topic("BTC-USD")
    books = {"depth": 0}

    def checkpoint():
        return [message(topic, books["depth"], 0, START_US, "snapshot")]

    writer = Writer(tmp_path, DEPLOYMENT, checkpoint=checkpoint, sizes=SMALL)
    appended = []
    for number in range(1, 200):
        books["depth"] = number
        appended.append(message(topic, number, 10 * number))
        writer.append(appended[-1:])
        if number % 5 == 0:
            writer.sync()
            writer.work()
    writer.sync()
    reader = Reader(tmp_path)

    assert appended == all_of(reader)
    found = {checkpoint_before(reader, topic, 10 * n + 5).id for n in range(1, 200)}
    assert len(found) > 2
    assert {0} == {id_ % 10 for id_ in found}  # ids of records that precede a segment
    for id_ in found - {0}:
        start = checkpoint_before(reader, topic, id_)
        assert ("snapshot", id_, id_ // 10) == (start.type, start.id, start.sequence)
    reader.close()
    writer.close()


def test_a_small_archive_has_small_segments():
    """Retention removes at most a sixteenth at once."""
    assert 1_000 == sizes_for(16_000).segment_bytes
    assert limits.ARCHIVE_SEGMENT_BYTES == sizes_for(2**50).segment_bytes
    assert Sizes().tail_bytes == sizes_for(1).tail_bytes


def test_tails_do_not_wait_without_bound(tmp_path, monkeypatch):
    """Also if no caller compacts them."""
    monkeypatch.setattr(limits, "ARCHIVE_TAILS_WAITING_MAX", 2)
    writer = Writer(tmp_path, DEPLOYMENT, sizes=SMALL)
    appended = records(Random(1), 600)
    for at in range(0, 600, 20):
        writer.append(appended[at : at + 20])
        writer.sync()
        assert writer.waiting <= 2
    writer.close()
