"""The recorder with an archive on a disk that is full, late, or fails or hangs at the end."""

import errno
import os
import threading
from random import Random

import pytest
import trio
from structlog.testing import capture_logs

from hedgehogd.domain import limits
from hedgehogd.domain.message import Message
from hedgehogd.log.archive import files
from hedgehogd.log.archive.errors import ArchiveLocked
from hedgehogd.log.archive.lock import Lock
from hedgehogd.log.archive.tail import Tail
from hedgehogd.log.archiver import Archiver, Kept
from tests.disks import small_disk
from tests.fakes import make_message
from tests.log.instances import (
    BTC,
    FAILED,
    MATCHES,
    NOW,
    WRITING,
    Instance,
    gaps,
    logged,
    payloads,
    run_at_once,
    trade,
    trades,
)
from tests.log.test_archiver import no_space

RUN_SYNC = trio.to_thread.run_sync  # tests with a clock that jumps replace it


async def test_a_real_full_disk_is_written_again_when_there_is_space(
    tmp_path, autojump_clock, nursery
):
    """At the start as well as meanwhile; nothing is lost, and delivery does not wait."""
    random = Random(7)  # text that does not shrink to less than a page
    sent = [
        make_message("matches", BTC, 10 * n, "match", trade_id=n, x=random.randbytes(500).hex())
        for n in range(1, 101)
    ]

    async def publish(some):
        for message in some:
            await here.publish(message)
            await trio.sleep(0.1)
        await trio.sleep(3)

    with small_disk(tmp_path / "archive") as disk:
        disk.fill()
        here = Instance(tmp_path)
        await nursery.start(here.run)
        for begin in (0, 50):
            await publish(sent[begin : begin + 40])
            assert FAILED == here.health.state
            assert "No space left" in here.health.reason
            disk.clear()
            await publish(sent[begin + 40 : begin + 50])
            assert (WRITING, "") == (here.health.state, here.health.reason)
            assert [*range(1, begin + 51)] == trades(tmp_path)
            disk.fill()
        disk.clear()
        await here.stop()

        assert [each.payload for each in sent] == payloads(tmp_path, MATCHES)
        assert [] == gaps(tmp_path)


@pytest.mark.parametrize("earlier", [0, 1])
async def test_a_disk_that_fails_for_a_while_is_two_lines(
    earlier, tmp_path, autojump_clock, nursery, monkeypatch
):
    """The archive is opened again each second, and written only after the disk works."""

    def fail(tail, *_):
        raise files.failed(tail.path, OSError(errno.EIO, os.strerror(errno.EIO)))

    here = Instance(tmp_path)
    with capture_logs() as lines:
        with monkeypatch.context() as patch:
            if not earlier:
                patch.setattr(Tail, "write", fail)
            await nursery.start(here.run)
            await here.publish(trade(1))
            await trio.sleep(3)
            patch.setattr(Tail, "write", fail)
            await here.publish(trade(2))
            await trio.sleep(10)
            assert FAILED == here.health.state
        await trio.sleep(3)
        assert WRITING == here.health.state
    await here.stop()
    events = [line["event"] for line in lines if line["event"].startswith("history is")]

    assert [1, 2] == trades(tmp_path)
    first = ["history is written"] * earlier
    assert [*first, "history is not written", "history is written again"] == events


async def test_an_archive_may_come_later(tmp_path, autojump_clock, nursery):
    """A disk that is not mounted yet is no reason not to start."""
    (tmp_path / "archive").write_text("a mount point that is no directory yet")
    here = Instance(tmp_path)
    await nursery.start(here.run)
    await here.publish(trade(1))
    await trio.sleep(3)
    assert FAILED == here.health.state
    assert "Not a directory" in here.health.reason
    (tmp_path / "archive").unlink()
    await here.publish(trade(2))
    await trio.sleep(3)
    assert (WRITING, "") == (here.health.state, here.health.reason)
    await here.stop()

    assert [1, 2] == trades(tmp_path)


async def test_a_disk_that_fails_at_the_end_leaves_the_rest_to_the_next_writer(
    tmp_path, autojump_clock, nursery, monkeypatch
):
    """The window has it; the end raises nothing."""
    here = Instance(tmp_path)
    await nursery.start(here.run)
    await trio.sleep(1)
    await here.publish(trade(1))
    await trio.sleep(2)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", no_space)
        await here.publish(trade(2))
        await here.stop()
    assert [1] == trades(tmp_path)
    await Instance(tmp_path).record(nursery, trade(3))

    assert [1, 2, 3] == trades(tmp_path)
    assert [] == gaps(tmp_path)


async def test_the_end_does_not_wait_for_a_disk_that_hangs(
    tmp_path, autojump_clock, nursery, monkeypatch
):
    """It takes the farewell and the close at most; the window has the rest."""
    here = Instance(tmp_path)

    async def hang(function, limiter=None, abandon_on_cancel=False):
        await trio.sleep(1_000)

    async with trio.open_nursery() as running:
        await running.start(here.run)
        await trio.sleep(1)
        await here.publish(trade(1))
        await trio.sleep(2)
        monkeypatch.setattr(trio.to_thread, "run_sync", hang)
        await here.publish(trade(2))
        began = trio.current_time()
        here.scope.cancel()
    monkeypatch.setattr(trio.to_thread, "run_sync", run_at_once)
    assert trio.current_time() - began < limits.FAREWELL_S + limits.ARCHIVER_CLOSE_S + 1
    assert [1, 2] == [m.trade_id for m in logged(tmp_path) if isinstance(m, Message)]


async def test_an_archive_is_closed_when_the_disk_no_longer_hangs(
    tmp_path, machine, autojump_clock, nursery, monkeypatch
):
    """The instance is a candidate by then, and the next writer waits for the archive's lock."""
    hangs, write = threading.Event(), Tail.write

    def write_late(*arguments):
        assert hangs.wait(60)
        write(*arguments)

    directory = machine.directory
    archiver = Archiver(tmp_path / "archive", Kept(frozenset({MATCHES})), lambda: NOW)
    window = machine.writer()
    with trio.move_on_after(1.5):
        await archiver.run(directory)
    window.append([trade(1)])
    monkeypatch.setattr(trio.to_thread, "run_sync", RUN_SYNC)
    monkeypatch.setattr(Tail, "write", write_late)
    with trio.move_on_after(limits.FAREWELL_S):
        await archiver.finish(directory)
    assert archiver.hangs
    with pytest.raises(ArchiveLocked):
        Lock(tmp_path / "archive")
    hangs.set()
    async with archiver._limiter:  # the thread has ended
        Lock(tmp_path / "archive").release()

    assert [1] == trades(tmp_path)


async def test_a_candidate_leaves_at_once(tmp_path, autojump_clock, nursery):
    """It has nothing to append or to archive; the writer goes on."""
    here, other = Instance(tmp_path), Instance(tmp_path)
    await nursery.start(here.run)
    await trio.sleep(1)
    async with trio.open_nursery() as running:
        await running.start(other.run)
        await here.publish(trade(1))
        await other.publish(trade(1))
        await trio.sleep(2)
        began = trio.current_time()
        other.scope.cancel()
    assert began == pytest.approx(trio.current_time(), abs=0.1)
    await here.publish(trade(2))
    await trio.sleep(2)
    await here.stop()

    assert [trade(n).payload for n in (1, 2)] == payloads(tmp_path, MATCHES)
