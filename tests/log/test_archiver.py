"""The archiver: the recorded topics reach the archive after any fault of the disk."""

import errno
from secrets import token_hex

import pytest
import trio
from structlog.testing import capture_logs

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import FeedRecord, GapKind, GapRecord
from hedgehogd.log.archive import files
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.search import checkpoint_before
from hedgehogd.log.archive.writer import Sizes, Writer
from hedgehogd.log.archiver import Archiver, Kept
from hedgehogd.log.directory import Directory
from hedgehogd.log.ending import read_predecessor
from hedgehogd.log.errors import LeftWindow
from hedgehogd.log.lease import Candidate, Predecessor
from hedgehogd.log.window import Window
from tests.fakes import make_message
from tests.log.instances import (
    FAILED,
    FULL,
    HEARTBEAT,
    LEVEL2,
    MATCHES,
    NOW,
    SMALL,
    TICKER,
    WRITING,
    Instance,
    archived,
    beat,
    book,
    books_of,
    change,
    gaps,
    logged,
    messages,
    sizes,
    ticker,
    trade,
    trades,
)

UNRECORDED = GapKind.UNRECORDED


async def test_what_is_recorded_is_archived_and_all_is_in_the_window(
    tmp_path, autojump_clock, nursery
):
    """Subscribers resume all topics from the window; history keeps the chosen ones."""
    here = Instance(tmp_path, {MATCHES, TICKER})
    of_full = make_message("full", sequence=30, kind="match", also=MATCHES, trade_id=3)
    await here.record(nursery, trade(2), beat(1), ticker(2), trade(1, "ETH-USD"), of_full)

    assert [2, 3] == trades(tmp_path)
    assert [(MATCHES, 20), (TICKER, 20), (FULL, 30)] == [
        (m.topic, m.sequence) for m in messages(tmp_path)
    ]
    assert ["begun", MATCHES, HEARTBEAT, TICKER, Topic("matches", "ETH-USD"), FULL] == [
        each.state if isinstance(each, FeedRecord) else each.topic for each in logged(tmp_path)
    ]
    assert (3, 0) == (here.health.kept, here.health.overruns)


async def test_demanded_topics_are_archived_on_request(tmp_path, autojump_clock, nursery):
    """``history.demanded``: the topics that subscribers demanded are history, too."""
    here = Instance(tmp_path, {MATCHES}, demanded=True)
    await here.record(nursery, trade(2), beat(1), trade(1, "ETH-USD"))

    assert 3 == len(messages(tmp_path))


async def test_the_archive_is_as_new_as_the_log(tmp_path, autojump_clock, nursery):
    """A recorded topic may be quiet: then nothing waits, though its last message is old."""
    here = Instance(tmp_path, {MATCHES})
    await here.record(nursery, trade(1), *[beat(n) for n in range(20)])
    last = [each for each in logged(tmp_path) if isinstance(each, Message)][-1]

    assert HEARTBEAT == last.topic
    assert last.received_us == here.health.written_us
    assert 1 == here.health.kept


async def test_a_full_disk_delays_the_archive_alone(tmp_path, autojump_clock, nursery, monkeypatch):
    """The window goes on; the rest of it is archived once there is space."""
    here = Instance(tmp_path)
    await nursery.start(here.run)
    await trio.sleep(1)
    await here.publish(trade(1))
    await trio.sleep(2)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", no_space)
        for n in range(2, 12):
            await here.publish(trade(n))
            await trio.sleep(1)
        assert FAILED == here.health.state
        assert "No space left" in here.health.reason
        assert [*range(1, 12)] == [m.trade_id for m in logged(tmp_path) if isinstance(m, Message)]
    await here.publish(trade(12))
    await trio.sleep(3)
    assert (WRITING, "") == (here.health.state, here.health.reason)
    await here.stop()

    assert [*range(1, 13)] == trades(tmp_path)
    assert [] == gaps(tmp_path)
    assert 12 == here.health.kept


async def test_an_archive_on_a_full_disk_goes_on_when_old_records_expire(
    tmp_path, autojump_clock, nursery, monkeypatch
):
    """The disk is smaller than the history of its age; no operator has to make room."""
    short = Sizes(tail_age_s=5, segment_age_s=15)
    monkeypatch.setattr("hedgehogd.log.archiver.sizes_for", lambda _: short)
    write_all, full_with, times = files.write_all, set(), []

    def write(descriptor, data):
        """Refuse all writes after the first refused one, until a segment is removed."""
        found = {path: path.stat().st_size for path in (tmp_path / "archive").iterdir()}
        if not full_with and sum(found.values()) + len(data) > 160_000:
            full_with.update(path for path in found if path.suffix == ".segment")
            times.append(len(full_with))
        if full_with and full_with <= found.keys():
            no_space()
        full_with.clear()
        write_all(descriptor, data)

    monkeypatch.setattr(files, "write_all", write)
    here = Instance(tmp_path, {MATCHES}, age_max_s=300)
    await nursery.start(here.run)
    for n in range(1, 350):
        await here.publish(make_message("matches", trade_id=n, filler=token_hex(1000)))
        await trio.sleep(1.5)
    kept = trades(tmp_path)
    monkeypatch.setattr(files, "write_all", write_all)
    await here.stop()

    assert times
    assert 250 < kept[-1]  # while the disk is as small as before
    assert 20 < kept[0]
    assert [*range(kept[0], kept[-1] + 1)] == kept
    assert (349, 0, []) == (here.health.kept, here.health.overruns, gaps(tmp_path))


def no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "topics", [{MATCHES, TICKER}, {MATCHES} | {Topic("ticker", f"P{n}") for n in range(300)}]
)
async def test_records_that_left_the_window_are_a_gap_of_each_topic(
    topics, tmp_path, autojump_clock, nursery, monkeypatch
):
    """The disk was full for longer than the window reaches back; even if few records are lost."""
    monkeypatch.setattr(limits, "ARCHIVE_TAIL_BLOCK_BYTES", 1)
    here = Instance(tmp_path, topics, bounds=SMALL)
    await nursery.start(here.run)
    await trio.sleep(1)
    await here.publish(trade(1))
    await trio.sleep(2)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", no_space)
        for n in range(2, 400):
            await here.publish(trade(n))
            await trio.sleep(0.3)
    for n in range(400, 500):
        await here.publish(trade(n))
        await trio.sleep(0.01)
    await trio.sleep(3)
    await here.stop()
    kept = trades(tmp_path)

    assert [1, 2, *range(kept[2], 500)] == kept  # 2 waited in memory
    assert 3 < kept[2] < 400
    assert [(topic, GapKind.UNRECORDED, None, None) for topic in sorted(topics)] == gaps(tmp_path)
    assert 1 == here.health.overruns


@pytest.mark.parametrize("earlier", [0, 2])
async def test_the_archive_knows_the_term_after_records_left_the_window(
    earlier, tmp_path, autojump_clock, nursery, monkeypatch
):
    """Its first record left, too; a log that begins again must have a larger term."""
    monkeypatch.setattr(limits, "ARCHIVE_TAIL_BLOCK_BYTES", 1)
    for n in range(earlier):
        await Instance(tmp_path, bounds=SMALL).record(nursery, trade(n))
    here = Instance(tmp_path, bounds=SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", no_space)
        await nursery.start(here.run)
        await trio.sleep(1)
        for n in range(2, 500):
            await here.publish(trade(n))
            await trio.sleep(0.3)
    await trio.sleep(3)
    await here.stop()

    with pytest.raises(LeftWindow):
        logged(tmp_path)
    assert earlier + 1 == read_predecessor(tmp_path / "archive", needs_term=True).term
    assert [earlier > 0] == [len(gaps(tmp_path)) > 0]


async def test_books_begin_again_after_records_left_the_window(
    tmp_path, autojump_clock, nursery, monkeypatch
):
    """A change is of no use without the snapshot that it changes."""
    monkeypatch.setattr(limits, "ARCHIVE_TAIL_BLOCK_BYTES", 1)
    here = Instance(tmp_path, {LEVEL2}, bounds=SMALL)
    await here.publish(book(10))
    await nursery.start(here.run)
    await trio.sleep(2)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", no_space)
        for n in range(11, 400):
            await here.publish(change(n))
            await trio.sleep(0.3)
    for n in range(400, 700):
        await here.publish(change(n))
        await trio.sleep(0.3)
    await here.stop()
    found = archived(tmp_path, LEVEL2)
    at = next(at for at, each in enumerate(found) if isinstance(each, GapRecord))
    after = found[at + 1 :]

    assert "snapshot" == after[0].type
    assert sizes(book(699).payload) == books_of(after)[-1]
    assert 250 < len(after)


async def test_a_damaged_archive_is_reported_at_the_start(tmp_path, autojump_clock, nursery):
    """A catalogue of zero bytes was one with content."""
    await Instance(tmp_path).record(nursery, trade(1))
    (tmp_path / "archive" / files.CATALOGUE).write_bytes(b"")
    with capture_logs() as lines:
        await Instance(tmp_path).record(nursery, trade(2))

    assert "history is damaged" in [line["event"] for line in lines]
    assert [1, 2] == trades(tmp_path)


async def test_a_segment_begins_with_the_books(tmp_path, autojump_clock, nursery):
    """A reader can begin there: the checkpoint and the changes after it are the book."""
    here = Instance(tmp_path, {LEVEL2}, bytes_max=2**20)
    await here.publish(book(10))
    await nursery.start(here.run)
    for n in range(11, 800):
        message = make_message(
            "level2", changes=[["buy", str(1 + n % 5), str(n)]], filler=token_hex(200)
        )
        await here.publish(message)
        await trio.sleep(0.5)
    await here.stop()
    reader = Reader(tmp_path / "archive")
    segments = sorted(path for path in reader_files(tmp_path) if path > 0)
    start = checkpoint_before(reader, LEVEL2, segments[-1])
    reader.close()
    found = messages(tmp_path, LEVEL2)
    after = [message for message in found if message.id > start.id]

    assert segments[-1] == start.id
    assert [at for at, message in zip(books_of(found), found, strict=True) if message in after] == (
        books_of([start, *after])[1:]
    )
    assert 100 < len(after) < 700


def reader_files(path):
    """Return the ids after which the files of the archive begin."""
    names = [files.read_name(each.name) for each in (path / "archive").iterdir()]
    return [name.after_id for name in names if name is not None]


async def test_a_clock_that_is_wrong_for_a_while_drops_no_history(
    tmp_path, autojump_clock, nursery, monkeypatch
):
    """It was years ahead; then it is years ahead for good, and in the end it is believed."""
    monkeypatch.setattr(limits, "HISTORY_CLOCK_STEADY_S", 300.0)
    monkeypatch.setattr("hedgehogd.log.archiver.sizes_for", lambda _: Sizes(segment_age_s=30))
    here = Instance(tmp_path, {MATCHES}, age_max_s=1_000)
    await nursery.start(here.run)
    for n in range(1, 10):
        await here.publish(trade(n))
        await trio.sleep(40)
    with capture_logs() as lines:
        for off_s, seconds in [(1e8, 130), (0, 130), (1e8, 200)]:
            here.off_s = off_s
            await trio.sleep(seconds)
            assert [*range(1, 10)] == trades(tmp_path)
        await trio.sleep(300)
    await here.stop()
    events = [line["event"] for line in lines]

    assert [9] == trades(tmp_path)[-1:]
    assert 3 > len(trades(tmp_path))
    assert 2 == events.count("the clock was set; old history is kept until it is steady")
    assert "history dropped its oldest segment" in events


async def test_records_that_left_the_window_are_a_gap_of_all_topics_of_the_archive(
    tmp_path, autojump_clock, nursery, monkeypatch
):
    """Those of earlier processes, and both of a message."""
    monkeypatch.setattr(limits, "ARCHIVE_TAIL_BLOCK_BYTES", 1)
    of_full = make_message("full", sequence=30, kind="match", also=MATCHES, trade_id=3)
    await Instance(tmp_path, (), bounds=SMALL, demanded=True).record(nursery, beat(1))
    here = Instance(tmp_path, (), bounds=SMALL, demanded=True)
    await nursery.start(here.run)
    await here.publish(of_full)
    await trio.sleep(2)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", no_space)
        for n in range(2, 1000):
            await here.publish(ticker(n))
            await trio.sleep(0.1)
    await trio.sleep(3)
    await here.stop()
    found = [(topic, first) for topic, kind, first, _ in gaps(tmp_path) if kind == UNRECORDED]

    assert [(topic, None) for topic in sorted([FULL, HEARTBEAT, MATCHES, TICKER])] == found


@pytest.mark.parametrize(("free_ids", "kept"), [(2, [1, 3, 4, 5]), (1, [1, 4, 5]), (0, [1, 5])])
async def test_an_archive_ahead_of_the_log_is_a_fault(
    free_ids, kept, tmp_path, autojump_clock, nursery
):
    """Records with smaller ids than it has would be left out in silence; later it has a gap.

    The term and the gap need two ids: of records only if fewer precede them.
    """
    ahead = Writer(tmp_path / "archive", "aaaaaa")
    (tmp_path / "window").mkdir()
    directory = Directory(tmp_path / "window")
    candidate = Candidate(directory, predecessor=Predecessor("aaaaaa"))
    candidate.look()
    now_us = NOW
    window = Window(directory, candidate.take(), lambda: now_us, monotonic_ns=lambda: 0)
    first, second = trade(1), trade(5)
    first.id = NOW + 1_000
    ahead.append([first])
    ahead.close()
    window.append([trade(2)])
    archiver = Archiver(tmp_path / "archive", Kept(frozenset({MATCHES})), lambda: now_us)
    with trio.CancelScope() as scope:
        nursery.start_soon(archiver.run, directory)
        await trio.sleep(3)
        assert "not of one log" in archiver.fault
        assert [1] == trades(tmp_path)
        now_us = NOW + 1_000
        window.append([trade(2)])
        await trio.sleep(1.5)
        (tmp_path / "archive" / files.LOCK).unlink()  # it is opened again before it has the gap
        await trio.sleep(3)
        assert [1] == trades(tmp_path)
        now_us = NOW + 1_001 + free_ids
        for n in (3, 4):
            window.append([trade(n)])
        window.append([second])
        await trio.sleep(3)
        assert "" == archiver.fault
        scope.cancel()
    await archiver.finish(directory)
    window.close()
    candidate.close()
    nursery.cancel_scope.cancel()

    assert kept == trades(tmp_path)
    assert [(MATCHES, UNRECORDED, None, None)] == gaps(tmp_path)
    assert 2 == archiver.unarchived  # once for each opening


@pytest.mark.parametrize("is_hung", [False, True])
async def test_an_archiver_continues_after_records_of_its_term_that_the_last_one_archived(
    is_hung, tmp_path, machine, autojump_clock, nursery
):
    """The last writer's disk is slow when it stops, or the last writer hung and continues."""
    kept, directory = Kept(frozenset({MATCHES, TICKER})), machine.directory
    last, present = (Archiver(tmp_path / "archive", kept, lambda: NOW) for _ in range(2))
    window = machine.writer()
    window.append([trade(1)])
    with trio.move_on_after(1.5):
        await last.run(directory)
    window.append([trade(2)])
    machine.close(window)
    window = machine.writer()
    window.append([trade(3)])
    with capture_logs() as lines:
        nursery.start_soon(present.run, directory)
        await trio.sleep(1.5)
        window.append([trade(4)])
        assert [1] == trades(tmp_path)  # the last writer has the lock
        if is_hung:
            with trio.move_on_after(1.5):
                await last.run(directory)
        await last.finish(directory)
        assert [1, 2, 3, 4] == trades(tmp_path)
        window.append([trade(5)])
        await trio.sleep(3)
    nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await present.finish(directory)

    assert [1, 2, 3, 4, 5] == trades(tmp_path)
    assert [] == gaps(tmp_path)
    assert [] == [line for line in lines if line["log_level"] == "error"]
    assert ("", 0) == (present.fault, present.unarchived)
