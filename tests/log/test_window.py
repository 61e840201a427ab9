"""The writer: ids, order of its steps, the fence, segments, and a file system that is full."""

import errno
import os
import resource
from contextlib import suppress

import pytest
import trio

from hedgehogd.domain.limits import WINDOW_CHECK_S
from hedgehogd.log.allocation import Bounds
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import Fenced, LogError, LostLease, ReplacedWindow, WindowFull
from hedgehogd.log.window import keep_lease
from tests.disks import small_disk
from tests.log.conftest import NOW_US, SMALL, Machine, message, numbers, oldest_id


def batch_of(*sequences, size=0):
    return [message(number, size) for number in sequences]


def everything(machine, after=0):
    return machine.reader().read(after, 10**9)


def test_appended_records_are_read(machine):
    """Each batch with its ids, in order, by a reader that was there before or comes after."""
    writer = machine.writer()
    reader = machine.reader()
    last = [writer.append(batch_of(1, 2)), writer.append(batch_of(3))]
    found = reader.read(0, 10**9)

    assert [NOW_US + 1, NOW_US + 2] == last
    assert [NOW_US, NOW_US + 1, NOW_US + 2] == [record.id for record in found]
    assert [1, 2, 3] == numbers(found) == numbers(everything(machine))
    assert writer.last_id == reader.after_id == NOW_US + 2


def test_ids_rise_whatever_the_clock_does(machine):
    """An id is an ordinal: a clock that steps back costs nothing."""
    writer = machine.writer()
    ids = []
    for step in (0, -3600, 7200, -9e9, 0):
        machine.clock.wall_us += int(step * 1e6)
        batch = batch_of(1, 2, 3)
        writer.append(batch)
        ids += [record.id for record in batch]
    successor = machine.writer()

    assert sorted(set(ids)) == ids
    assert NOW_US + 3600 * 10**6 == ids[6]
    assert ids[-1] + 1 == successor.append(batch_of(4))


def test_a_batch_is_written_before_it_is_checked_and_published_after(machine, monkeypatch):
    """The order of these steps is the fence; each wrong order is a lost or an invented record."""
    writer = machine.writer()
    writer.append(batch_of(0))
    page = writer._page
    steps = []
    write = os.pwritev

    def record(name, result=None):
        steps.append(name)
        return result

    class Spy:
        fixed, joined = page.fixed, page.joined

        @property
        def is_fenced(self):
            return record("check", False)

        def publish(self, *place):
            record("publish")

        def close(self):
            page.close()

    monkeypatch.setattr(os, "pwritev", lambda *each: record("write", write(*each)))
    monkeypatch.setattr(writer._wakeups, "send", lambda: record("wake"))
    writer._page = Spy()
    writer.append(batch_of(1))

    assert ["write", "check", "publish", "wake"] == steps


def test_a_fenced_writer_publishes_nothing(machine):
    """The record lies in the file; the seal decides whether the log has it."""
    writer = machine.writer()
    writer.append(batch_of(1))
    end = writer._page.end
    writer._page.fence()
    with pytest.raises(Fenced, match="term 1 has ended"):
        writer.append(batch_of(2))
    assert end == writer._page.end
    with pytest.raises(Fenced):
        writer.renew()
    successor = machine.writer()
    successor.append(batch_of(3))

    assert [1, 2, 3] == numbers(everything(machine))


def test_what_a_fenced_writer_appends_after_the_seal_is_never_read(machine):
    """The writer was stopped before its append, and runs again after the takeover."""
    writer = machine.writer()
    writer.append(batch_of(1))
    reader = machine.reader()
    successor = machine.writer()
    for number in range(100, 140):
        with pytest.raises(Fenced):
            writer.append(batch_of(number, size=300))
    successor.append(batch_of(2))

    assert [1, 2] == numbers(reader.read(0, 10**9)) == numbers(everything(machine))


def test_entries_continue_in_the_next_segment(machine):
    """Each segment begins after the last id of the one before."""
    writer = machine.writer()
    for number in range(40):
        writer.append(batch_of(number, size=500))
    heads = [machine.directory.head(*each) for each in machine.directory.segments()]
    opened = [head for head in heads if head is not None]

    assert list(range(40)) == numbers(everything(machine))
    assert len(opened) > 4
    assert [number + 1 for number in range(len(opened))] == [head.number for head in opened]
    for head in opened[1:]:
        assert head.previous_id == everything(machine, head.previous_id)[0].id - 1


def test_an_entry_larger_than_a_segment_has_its_own(machine):
    """A snapshot of 5 MB is one message."""
    writer = machine.writer()
    writer.append(batch_of(1))
    writer.append(batch_of(2, size=30_000))
    writer.append(batch_of(3))

    assert [1, 2, 3] == numbers(everything(machine))


def test_space_is_allocated_before_it_is_needed(machine):
    """An append on a full disk would be torn."""
    writer = machine.writer(Bounds())
    writer.append(batch_of(1))
    path = machine.path / "segment-1-1"
    for _ in range(30):
        writer.append(batch_of(2))

    assert path.stat().st_blocks * 512 >= writer._offset + 3_000_000
    assert 4 * 1024 * 1024 <= writer.window_bytes < 5 * 1024 * 1024


def test_the_window_is_bounded_in_bytes(machine):
    """The runtime directory is memory."""
    bounds = SMALL._replace(window_bytes_max=40_000)
    writer = machine.writer(bounds)
    for number in range(400):
        writer.append(batch_of(number, size=300))
        files = [path for path in machine.path.iterdir() if path.name.startswith("segment")]
        assert sum(path.stat().st_size for path in files) <= 40_000 + 4096
    found = numbers(everything(machine, oldest_id(machine)))

    assert list(range(found[0], 400)) == found
    assert (False, 0) == (writer.is_short, writer.shrinks)


def test_the_window_is_bounded_in_time(machine):
    """A segment leaves when its newest record is too old, on the monotonic clock."""
    writer = machine.writer(SMALL._replace(window_s=60.0))
    for number in range(60):
        machine.clock.pass_s(2)
        machine.clock.wall_us -= 10**12
        writer.append(batch_of(number, size=1000))
    found = numbers(everything(machine, oldest_id(machine)))
    assert 25 <= len(found) <= 36
    machine.clock.pass_s(61)
    writer.renew()

    assert 1 == len(machine.reader()._segments())


def test_a_successor_bounds_what_it_inherits(machine):
    """Twenty writers in an hour do not keep twenty windows."""
    for number in range(20):
        writer = machine.writer(SMALL._replace(window_bytes_max=30_000))
        for each in range(10):
            writer.append(batch_of(10 * number + each, size=300))
        machine.close(writer)
    found = numbers(everything(machine, oldest_id(machine)))

    assert list(range(found[0], 200)) == found
    assert sum(path.stat().st_size for path in machine.path.glob("segment*")) <= 34_100


def test_ages_survive_a_takeover(machine):
    """A segment's age counts from the start of the next one, not from the takeover."""
    bounds = SMALL._replace(window_s=60.0)
    writer = machine.writer(bounds)
    for number in range(30):
        writer.append(batch_of(number, size=500))
    machine.clock.pass_s(50)
    writer.append(batch_of(30, size=3000))
    assert [(1, number) for number in range(1, 7)] == machine.directory.segments()[:6]
    successor = machine.writer(bounds)
    machine.clock.pass_s(20)
    successor.renew()

    assert [(1, 5), (1, 6)] == machine.directory.segments()[:2]


def test_a_full_file_system_shortens_the_window(tmp_path):
    """Old records leave early; nothing is lost that a follower has not had 14 segments time for."""
    with small_disk(tmp_path / "disk", 600) as disk:
        machine = Machine(disk.path / "window")
        try:
            writer = machine.writer(Bounds(segment_bytes=65536, window_bytes_max=1 << 20))
            reader, last, got = machine.reader(), 0, []
            for number in range(2_000):
                writer.append(batch_of(number, size=700))
                got += reader.read(last, 10**6)
                last = got[-1].id
            assert list(range(2_000)) == numbers(got)
            assert writer.is_short
            assert writer.shrinks > 10
            left = numbers(everything(machine, oldest_id(machine)))
            assert list(range(left[0], 2_000)) == left
            assert len(left) > 400
        finally:
            machine.close_all()


def test_a_batch_without_space_is_refused_and_others_succeed(tmp_path):
    """The writer keeps its lease and its window; the caller decides about the batch."""
    with small_disk(tmp_path / "disk", 300) as disk:
        machine = Machine(disk.path / "window")
        try:
            writer = machine.writer(Bounds(segment_bytes=65536, window_bytes_max=1 << 20))
            for number in range(100):
                writer.append(batch_of(number, size=700))
            disk.fill()
            segments = machine.directory.segments()
            for _ in range(3):
                with pytest.raises(WindowFull, match="no space for 2"):
                    writer.append(batch_of(0, size=250_000))
            assert segments == machine.directory.segments()
            writer.append(batch_of(100))
            assert (True, 0) == (writer.is_short, writer.shrinks)
            disk.clear()
            writer.append(batch_of(101, size=120_000))
            oldest = oldest_id(machine)
            found = numbers(everything(machine, oldest))
            assert list(range(found[0], 102)) == found
        finally:
            machine.close_all()


def test_a_limit_of_file_sizes_makes_smaller_segments(machine):
    """The limit concerns each file, so removing old segments would not help."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, old[1]))
    try:
        writer = machine.writer(Bounds())
        for number in range(1_500):
            writer.append(batch_of(number, size=1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)

    assert list(range(1_500)) == numbers(everything(machine))
    assert (0, True) == (writer.shrinks, writer.is_short)


def test_an_entry_above_the_limit_of_file_sizes_removes_no_segment(machine):
    """Without room for it in any file, older segments must not be removed one by one."""
    writer = machine.writer(Bounds(segment_bytes=65536))
    for number in range(100):
        writer.append(batch_of(number, size=5000))
    segments = machine.directory.segments()
    writer._allocation._make_next().size = 0  # as if nothing had been allocated ahead
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(WindowFull):
            writer.append(batch_of(100, size=200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)

    assert writer.shrinks == 0
    assert set(segments) <= set(machine.directory.segments())


@pytest.mark.parametrize("accepted", [0, 1, 30, None])
def test_a_write_that_fails_publishes_nothing(machine, monkeypatch, accepted):
    """The part that was written is no whole entry, and nothing is appended after it."""
    writer = machine.writer()
    writer.append(batch_of(1))
    write = os.pwritev

    def torn(descriptor, parts, offset):
        if accepted is None:
            raise OSError(errno.EIO, "Input/output error")
        return write(descriptor, (b"".join(parts)[:accepted],), offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", torn)
        for _ in range(3):
            with pytest.raises(WindowFull):
                writer.append(batch_of(2, size=100))
    assert [1] == numbers(everything(machine))
    writer.append(batch_of(3))
    successor = machine.writer()
    successor.append(batch_of(4))

    assert [1, 3, 4] == numbers(everything(machine))


def test_the_writer_describes_itself(machine):
    """Instances report the term and the deployment to operators."""
    writer = machine.writer()

    assert (1, 6) == (writer.term, len(writer.deployment))
    assert (2, writer.deployment) == ((second := machine.writer()).term, second.deployment)


async def test_the_lease_is_kept_until_it_is_lost(machine, autojump_clock):
    """A hung instance of its own accord does nothing after it was succeeded."""
    writer = machine.writer()
    renewed = []

    async def watch():
        await trio.sleep(1.1)
        for _ in range(3):
            machine.clock.pass_s(1)
            await trio.sleep(0.5)
            renewed.append(writer._page.heartbeat_ns)
        writer._page.fence()

    with pytest.RaisesGroup(Fenced):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            nursery.start_soon(keep_lease, writer)
    assert 3 == len(set(renewed))


async def test_a_writer_notices_that_its_files_are_gone(machine, autojump_clock):
    """Within 5 s: it would append to files that no follower can open."""
    writer = machine.writer()
    for path in machine.path.iterdir():
        path.unlink()
    with pytest.raises(ReplacedWindow), trio.fail_after(WINDOW_CHECK_S + 1):
        await keep_lease(writer)


def test_an_emptied_directory_begins_another_log_with_one_writer(machine):
    """Candidates that saw the old log, and a new one: all of them agree."""
    writer = machine.writer()
    writer.append(batch_of(1))
    old, new = machine.candidate(), machine.candidate()
    assert not old.look()
    for path in machine.path.iterdir():
        path.unlink()
    with pytest.raises(ReplacedWindow):
        writer.check()
    assert old.look()
    assert new.look()
    successor = machine.window(new.take())
    with pytest.raises(LostLease):
        old.take()
    assert not old.look()
    machine.close(writer)
    assert not old.look()
    successor.append(batch_of(2))

    assert 1 == successor.term
    assert successor.deployment != writer.deployment
    assert [2] == numbers(everything(machine))


def empty(machine):
    for path in machine.path.iterdir():
        path.unlink()


def contents(machine):
    return {path.name: path.read_bytes() for path in machine.path.glob("segment-*")}


def test_a_writer_of_an_emptied_directory_leaves_the_segments_of_the_new_log(machine):
    """Both have term 1: until its next check, the old writer has the names of the new segments."""
    bounds = SMALL._replace(window_s=60.0)
    old = machine.writer(bounds)
    for number in range(12):
        old.append(batch_of(number, size=1000))
    empty(machine)
    new = machine.writer()
    for number in range(100, 112):
        new.append(batch_of(number, size=1000))
    before = contents(machine)
    machine.clock.pass_s(61)
    with pytest.raises(ReplacedWindow, match="term-1 is missing or another log's"):
        old.renew()
    with pytest.raises(ReplacedWindow):
        for number in range(12, 24):
            old.append(batch_of(number, size=1000))
    machine.close(old)
    assert before == contents(machine)
    for number in range(112, 124):
        new.append(batch_of(number, size=1000))

    assert list(range(100, 124)) == numbers(everything(machine))


def test_a_segment_of_another_log_is_neither_overwritten_nor_skipped(machine):
    """The writer ends; the next one removes the segment, because it lies after the seal."""
    writer = machine.writer()
    writer._allocation.close()
    (machine.path / "segment-1-1").write_bytes(b"other")
    with pytest.raises(ReplacedWindow, match="segment-1-1 is another log's"):
        writer.append(batch_of(1))
    assert b"other" == (machine.path / "segment-1-1").read_bytes()
    machine.close(writer)
    machine.writer().append(batch_of(2))

    assert [2] == numbers(everything(machine))


def begin_again(machine, terms=1):
    """Empty the directory; begin another log there, with a segment in each of its terms."""
    empty(machine)
    for number in range(terms):
        writer = machine.writer()
        writer.append(batch_of(100 + number, size=3000))
    return writer


def test_a_writer_that_starts_in_an_emptied_directory_changes_nothing(machine):
    """It was stopped between its takeover and its start: its segments have names of the new log."""
    machine.writer().append(batch_of(1))
    candidate = machine.candidate()
    candidate.look()
    page = candidate.take()
    begin_again(machine, terms=3)
    before, names = contents(machine), sorted(machine.directory.names())
    with pytest.raises(ReplacedWindow):
        machine.window(page)

    assert (before, names) == (contents(machine), sorted(machine.directory.names()))


@pytest.mark.parametrize("step", ["segments", "segment_bytes", "shorten_segment", "_open"])
def test_a_writer_that_is_stopped_in_its_start_shortens_no_segment_of_a_new_log(
    machine, monkeypatch, step
):
    """The directory is emptied between a look at the old log and a change."""
    for number in range(3):
        machine.writer().append(batch_of(number, size=500))
    candidate = machine.candidate()
    candidate.look()
    page = candidate.take()
    plain, before = getattr(Directory, step), {}

    def stopped(*arguments):
        found = plain(*arguments)
        if step != "_open" or "segment-1-1" in arguments:
            monkeypatch.undo()
            begin_again(machine, terms=3)
            before.update(contents(machine))
        return found

    monkeypatch.setattr(Directory, step, stopped)
    with suppress(ReplacedWindow):
        machine.close(machine.window(page))

    assert {"segment-1-1", "segment-2-1", "segment-3-1"} <= set(before)
    assert before == contents(machine)


def test_terms_of_another_log_are_noticed(machine):
    """A candidate saw the old log, and took its lease while the directory was emptied."""
    writer = machine.writer()
    machine.writer()
    writer.check()  # fenced: its successor is of the same log
    writer._page._words[72] = 0
    with pytest.raises(ReplacedWindow, match="terms of another log"):
        writer.check()


def test_a_lease_is_released_when_the_segments_cannot_be_read(machine, monkeypatch):
    """The process lives, so the kernel would not release it."""
    machine.close(machine.writer())

    def refuse(*arguments):
        raise LogError("cannot be read")

    with monkeypatch.context() as patch:
        patch.setattr(Directory, "segments", refuse)
        with pytest.raises(LogError, match="cannot be read"):
            machine.writer()
    assert machine.candidate().look()


def test_nothing_syncs_locks_or_opens_on_the_way_of_an_append(machine, monkeypatch):
    """Each of these calls could wait for a disk or a peer."""
    writer = machine.writer(Bounds())
    writer.append(batch_of(1))

    def refuse(*arguments, **options):
        pytest.fail("a call that waits")

    for name in ("fsync", "fdatasync", "sync", "open", "unlink", "link", "ftruncate"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr("fcntl.flock", refuse)
    for number in range(100):
        writer.append(batch_of(number))
