"""The recorder: one instance writes, the next one continues, after any fault of the files."""

import errno
import os
import random
import shutil
import subprocess
import sys
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
import trio
from structlog.testing import capture_logs

from hedgehogd.arbitration.batch import NoticeKind, TopicNotice
from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import FeedRecord, GapKind, GapRecord, TradeRecord
from hedgehogd.engine.delivery import Delivery
from hedgehogd.log import disk, ending, recorder
from hedgehogd.log.agreement import write_names
from hedgehogd.log.archive import files
from hedgehogd.log.archive.lock import Lock
from hedgehogd.log.directory import Directory
from hedgehogd.log.ending import read_predecessor
from hedgehogd.log.lease import Candidate
from tests.fakes import make_message
from tests.log.instances import (
    BTC,
    FAILED,
    HEARTBEAT,
    LEVEL2,
    MATCHES,
    READING,
    RECORDED,
    STATUS,
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
    payloads,
    run_at_once,
    sizes,
    ticker,
    trade,
    trades,
)


async def test_messages_before_the_start_are_recorded(tmp_path, autojump_clock, nursery):
    """The feed does not wait for the log."""
    here = Instance(tmp_path)
    await here.publish(trade(1), trade(2))
    await here.record(nursery, trade(3))

    assert [1, 2, 3] == trades(tmp_path)


async def test_a_successor_continues_without_gap_and_repeat(tmp_path, autojump_clock, nursery):
    """Whether the last writer appended less than the successor has, or more."""
    first, second = Instance(tmp_path), Instance(tmp_path)
    await nursery.start(first.run)
    await trio.sleep(1)
    await nursery.start(second.run)
    await trio.sleep(1)
    assert (WRITING, READING) == (first.health.state, second.health.state)
    sent = []
    for n in range(1, 40):
        batch = [trade(n), ticker(n), beat(n)]
        sent += [each.payload for each in batch]
        await first.publish(*batch)
        await second.publish(trade(n), ticker(n), beat(n))
        await trio.sleep(0.1)
    await first.stop()
    for n in range(40, 60):
        batch = [trade(n), ticker(n), beat(n)]
        sent += [each.payload for each in batch]
        await second.publish(*batch)
    await trio.sleep(2)
    assert WRITING == second.health.state
    await second.stop()

    assert sent == payloads(tmp_path)
    assert [] == gaps(tmp_path)


@pytest.mark.parametrize(
    "topic",
    [STATUS, HEARTBEAT, *(Topic(channel, BTC) for channel in ("rfq_matches", "auctionfeed"))],
    ids=str,
)
@pytest.mark.parametrize("off_s", [-3600, 3 * 365 * 86_400], ids=["behind", "ahead"])
async def test_a_clock_that_was_set_loses_no_message(
    topic, off_s, tmp_path, autojump_clock, nursery
):
    """After a restart with another time, a message without numbers is no repeat."""
    first, second = Instance(tmp_path, [topic]), Instance(tmp_path, [topic])
    second.off_s = off_s
    sent = [make_message(*topic, text=f"message {n // 2}") for n in range(12)]
    await first.record(nursery, *sent[:6])
    await second.record(nursery, *sent[6:])

    assert [each.payload for each in sent] == payloads(tmp_path)


async def test_receive_times_are_the_clocks(tmp_path, autojump_clock, nursery):
    """A clock that was years ahead for a moment dates no later record; ids rise all the same."""
    ahead, after = Instance(tmp_path), Instance(tmp_path)
    ahead.off_s = 3 * 365 * 86_400
    times = []

    async def record(instance, *numbers):
        await nursery.start(instance.run)
        await trio.sleep(1)
        for number in numbers:
            times.append(instance.wall_us())
            await instance.publish(trade(number))
            await trio.sleep(1)
        await instance.stop()

    await record(ahead, 1)
    await record(after, 2, 3)
    found = messages(tmp_path, MATCHES)

    assert [1, 2, 3] == [each.trade_id for each in found]
    assert times == [each.received_us for each in found]
    assert found[0].id < found[1].id
    assert times[0] > times[1]


async def test_numbers_that_begin_again_are_kept(tmp_path, autojump_clock, nursery):
    """An exchange may reset them, while an instance runs and between two."""
    first, second = Instance(tmp_path), Instance(tmp_path)
    await first.record(nursery, *[trade(n) for n in (5, 6, 1, 2)])
    await second.record(nursery, *[trade(n) for n in (1, 2, 3)])

    assert [5, 6, 1, 2, 1, 2, 3] == trades(tmp_path)
    assert [] == gaps(tmp_path)


async def test_a_candidate_of_days_begins_a_window_after_the_archive(
    tmp_path, autojump_clock, nursery
):
    """It looked before the archive existed, and its clock is slow: no id is below the archive."""
    first, second = Instance(tmp_path), Instance(tmp_path)
    second.off_s = -3600
    await nursery.start(first.run)
    await nursery.start(second.run)
    for n in (1, 2):
        await first.publish(trade(n))
        await second.publish(trade(n))
        await trio.sleep(2)
    first.scope.cancel()
    empty_window(first.place)
    await trio.sleep(5)
    await second.publish(trade(3))
    await trio.sleep(5)
    assert (WRITING, "") == (second.health.state, second.health.reason)
    await second.stop()

    assert [1, 2, 3] == trades(tmp_path)


async def test_an_instance_that_has_just_started_repeats_nothing(tmp_path, autojump_clock, nursery):
    """The writer ended before its first look, but after the first message of its tape."""
    first, second = Instance(tmp_path), Instance(tmp_path)
    await nursery.start(first.run)
    await trio.sleep(1)
    for n in (5, 6, 7):
        await first.publish(trade(n), beat(n))
        await second.publish(trade(n), beat(n))
    await trio.sleep(0.5)
    await first.stop()
    await second.record(nursery, trade(8), beat(8))

    assert [5, 6, 7, 8] == trades(tmp_path)
    assert [beat(n).payload for n in (5, 6, 7, 8)] == payloads(tmp_path, HEARTBEAT)


async def test_a_window_that_begins_is_left_to_an_older_tape(tmp_path, autojump_clock, nursery):
    """Also one that was removed: the new instance does not have the last messages."""
    first, second = Instance(tmp_path), Instance(tmp_path)
    await nursery.start(first.run)
    await trio.sleep(1)
    await nursery.start(second.run)
    await trio.sleep(1)
    for n in (1, 2):
        await second.publish(trade(n))
    await first.publish(trade(1))
    await trio.sleep(1)
    first.scope.cancel()
    empty_window(first.place)
    third = Instance(tmp_path)
    await nursery.start(third.run)
    await trio.sleep(1)
    assert (READING, WRITING) == (third.health.state, second.health.state)
    await trio.sleep(2)
    await third.stop()
    await second.stop()

    assert [1, 2] == trades(tmp_path)


@pytest.mark.parametrize("phase_s", [0.0, 0.01, 0.02, 0.03, 0.04])
async def test_a_lease_is_left_to_an_older_tape(tmp_path, autojump_clock, nursery, phase_s):
    """Also by an instance that has seen the writer: its tape began after the log's end.

    The two candidates look one after the other; the writer ends before either of the looks.
    """
    first, older, fresh = Instance(tmp_path), Instance(tmp_path), Instance(tmp_path)
    await nursery.start(first.run)
    await trio.sleep(1)
    await first.publish(trade(1))
    await nursery.start(older.run)
    await trio.sleep(0.025)
    await nursery.start(fresh.run)
    for n in (1, 2):
        await older.publish(trade(n))
        await trio.sleep(2)
    for instance in (older, fresh):
        await instance.publish(trade(3))
    await trio.sleep(0.2 + phase_s)
    first.scope.cancel()
    await trio.sleep(2)
    assert (WRITING, READING) == (older.health.state, fresh.health.state)
    await trio.sleep(2)
    await fresh.stop()
    await older.stop()

    assert [1, 2, 3] == trades(tmp_path)
    assert [] == gaps(tmp_path)


RFQ = Topic("rfq_matches", BTC)


async def test_a_stop_is_a_gap_of_topics_without_numbers(tmp_path, autojump_clock, nursery):
    """A reader of a quiet topic knows that no instance listened; one gap for all restarts."""
    sent = [make_message(*RFQ, text="1"), beat(1), make_message(*STATUS, text="1")]
    await Instance(tmp_path, RECORDED | {RFQ}).record(nursery, book(10), change(11), *sent)
    await trio.sleep(600)
    for _ in range(2):
        await Instance(tmp_path, RECORDED | {RFQ}).record(nursery)

    expected = [(topic, GapKind.MISSING, None, None) for topic in (HEARTBEAT, LEVEL2, RFQ, STATUS)]
    assert [*expected[:2], *sorted(expected[2:])] == [
        each for each in gaps(tmp_path) if each[0].channel != "level2_batch"
    ]


async def test_a_takeover_is_no_gap(tmp_path, autojump_clock, nursery):
    """The successor listened all the time; the last loss of the feed is older than the log's end.

    A quiet ticker has no gap either, though the successor's tape has no message of it.
    """
    first, second = Instance(tmp_path, RECORDED | {RFQ}), Instance(tmp_path, RECORDED | {RFQ})
    await nursery.start(first.run)
    await first.publish(
        make_message(*RFQ, text="1"), ticker(1), make_message("ticker", "ETH-USD", sequence=3)
    )
    await trio.sleep(1)
    await nursery.start(second.run)
    stale = TopicNotice(None, b"stale", NoticeKind.STALE)
    for here in (second, first):
        await here.publish(beat(1), ticker(2))
        await trio.sleep(1)
    await second.broker.publish([Delivery([], [stale])])
    for here in (second, first):
        await here.publish(ticker(5), beat(2))
        await trio.sleep(1)
    await first.stop()
    await second.publish(ticker(9), beat(3), make_message("ticker", "ETH-USD", sequence=9))
    await trio.sleep(2)
    await second.stop()

    assert [] == gaps(tmp_path)


async def test_a_topic_that_the_successor_did_not_hold_has_a_gap(tmp_path, autojump_clock, nursery):
    """Subscribers of the last writer alone demanded it."""
    first, second = Instance(tmp_path, RECORDED | {RFQ}), Instance(tmp_path, RECORDED | {RFQ})
    await nursery.start(first.run)
    await trio.sleep(1)
    await second.broker.publish([Delivery([], flows=frozenset({HEARTBEAT}))])
    await nursery.start(second.run)
    for here in (first, second):
        await here.publish(beat(1))
    await first.publish(make_message(*RFQ, text="1"), beat(2))
    await trio.sleep(1)
    await first.stop()
    await trio.sleep(2)
    await second.stop()

    assert [(RFQ, GapKind.MISSING, None, None)] == gaps(tmp_path)


async def test_trades_that_were_backfilled_before_a_term_are_recorded(
    tmp_path, autojump_clock, nursery
):
    """The daemon backfills as soon as its feed is live; the lease comes later."""
    here = Instance(tmp_path)
    here.recorder.keep_trades(BTC, [{"trade_id": n} for n in (2, 3)])
    await here.record(nursery, trade(1), trade(4))
    here = Instance(tmp_path)
    here.recorder.keep_trades(BTC, [{"trade_id": n} for n in (2, 3)])
    await here.record(nursery)
    found = [each.trade_id for each in archived(tmp_path) if isinstance(each, TradeRecord)]

    assert [2, 3] == found


async def test_the_lease_is_free_while_the_rest_is_archived(
    tmp_path, autojump_clock, nursery, monkeypatch
):
    """A slow disk at a stop delays no successor; nor does a disk that hangs delay the stop."""
    first, second = Instance(tmp_path), Instance(tmp_path)
    await nursery.start(first.run)
    await trio.sleep(1)
    await nursery.start(second.run)
    await first.publish(trade(1))
    await trio.sleep(2)

    async def run_or_hang(function, limiter=None, abandon_on_cancel=False):
        assert abandon_on_cancel or limiter is None
        if limiter is first.recorder._archiver._limiter:
            await trio.sleep_forever()
        return await run_at_once(function)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_or_hang)
    with capture_logs() as lines:
        first.scope.cancel()
        await trio.sleep(1)
        assert WRITING == second.health.state
        await trio.sleep(limits.FAREWELL_S + limits.ARCHIVER_CLOSE_S)
    assert first.recorder._archiver.hangs
    assert "history is not written" not in [line["event"] for line in lines]
    first.recorder._archiver._close()
    await second.publish(trade(2))
    await trio.sleep(limits.ARCHIVE_LOCK_WAIT_S)
    await second.stop()

    assert [1, 2] == trades(tmp_path)


async def test_the_gap_of_a_restart_is_recorded(tmp_path, autojump_clock, nursery):
    """Between the last number in the log and the first on the tape: dense channels and tickers."""
    await Instance(tmp_path).record(nursery, trade(1), ticker(1))
    await Instance(tmp_path).record(nursery, trade(5), ticker(5), ticker(9))

    assert [(TICKER, GapKind.MISSING, 11, None), (MATCHES, GapKind.MISSING, 2, 4)] == gaps(tmp_path)


async def test_a_greeting_is_no_new_message(tmp_path, autojump_clock, nursery):
    """The exchange greets each connection with the last trade."""
    await Instance(tmp_path).record(nursery, trade(1), trade(2))
    await Instance(tmp_path).record(nursery, trade(2), trade(3))

    assert [1, 2, 3] == trades(tmp_path)


async def test_a_successor_begins_books_again(tmp_path, autojump_clock, nursery):
    """It cannot know whether it has the change after the last one in the log."""
    first, second = Instance(tmp_path), Instance(tmp_path)
    for here in (first, second):
        await here.publish(book(10))
        await nursery.start(here.run)
        await trio.sleep(1)
    for n in (11, 12):
        await first.publish(change(n))
        await second.publish(change(n))
    await trio.sleep(1)
    await first.stop()
    await trio.sleep(1)
    await second.publish(change(13))
    await trio.sleep(2)
    await second.stop()
    found = messages(tmp_path, LEVEL2)

    assert ["snapshot", "l2update", "l2update", "snapshot", "l2update"] == [m.type for m in found]
    assert [sizes(book(n).payload) for n in (10, 11, 12, 12, 13)] == books_of(found)


def delete_archive(place):
    shutil.rmtree(place.archive)


def delete_files(place):
    for path in place.archive.iterdir():
        path.unlink()


def delete_catalogue(place):
    (place.archive / files.CATALOGUE).unlink()


def move_archive(place):
    place.archive.rename(place.archive.with_name("elsewhere"))
    place.archive.mkdir()


def restore_archive(place):
    """Put a copy in its place, as a restored backup does."""
    copy = place.archive.with_name("copy")
    shutil.copytree(place.archive, copy)
    delete_archive(place)
    copy.rename(place.archive)


def delete_lock(place):
    (place.archive / files.LOCK).unlink()


def delete_window(place):
    shutil.rmtree(place.window)


def empty_window(place):
    for path in place.window.iterdir():
        path.unlink()


def delete_both(place):
    delete_archive(place)
    delete_window(place)


FAULTS = [delete_archive, delete_files, delete_catalogue, delete_lock, move_archive,
    restore_archive, delete_window, empty_window, delete_both]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_a_changed_directory_is_noticed_and_replaced(
    fault, tmp_path, autojump_clock, nursery
):
    """Within 5 s: reported, begun again, with one writer, and nothing of the tape is lost."""
    here, other = Instance(tmp_path), Instance(tmp_path)
    await nursery.start(here.run)
    await trio.sleep(1)
    await nursery.start(other.run)
    await here.publish(trade(1), beat(1))
    await other.publish(trade(1), beat(1))
    await trio.sleep(3)
    assert WRITING == here.health.state
    with capture_logs() as lines:
        fault(here.place)
        await here.publish(trade(2), beat(2))
        await other.publish(trade(2), beat(2))
        await trio.sleep(5)
    assert [] != [line for line in lines if line["log_level"] in ("warning", "error")]
    states = [each.health.state for each in (here, other)]
    assert sorted([READING, WRITING]) == sorted(states)
    for n in (3, 4):
        await here.publish(trade(n), beat(n))
        await other.publish(trade(n), beat(n))
    await trio.sleep(3)
    await here.stop()
    await other.stop()

    assert [1, 2, 3, 4] == trades(tmp_path)
    assert [beat(n).payload for n in (1, 2, 3, 4)] == payloads(tmp_path, HEARTBEAT)
    assert [] == gaps(tmp_path)


async def test_a_fenced_writer_continues_as_a_candidate(tmp_path, autojump_clock, nursery):
    """It hung for longer than the lease; another instance may or may not have appended since."""
    here, other = Instance(tmp_path), Instance(tmp_path)
    await nursery.start(here.run)
    await trio.sleep(1)
    await nursery.start(other.run)
    for n in range(1, 60):
        if n % 20 == 0:
            directory = Directory(here.place.window)
            page = directory.page(directory.terms()[-1])
            page.fence()
            page.close()
            directory.close()
        await here.publish(trade(n), beat(n))
        await other.publish(trade(n), beat(n))
        await trio.sleep(0.1)
    await trio.sleep(3)
    assert {WRITING, READING} == {here.health.state, other.health.state}
    await here.stop()
    await other.stop()
    begun = [each for each in archived(tmp_path) if isinstance(each, FeedRecord)]

    assert [*range(1, 60)] == trades(tmp_path)
    assert [beat(n).payload for n in range(1, 60)] == payloads(tmp_path, HEARTBEAT)
    assert [] == gaps(tmp_path)
    assert 3 <= len(begun)


async def test_a_writer_that_hangs_is_not_waited_for(tmp_path, autojump_clock, nursery):
    """It holds the archive, and its window is gone: the log begins again, and is archived later."""
    here = Instance(tmp_path)
    here.place.archive.mkdir()
    lock = Lock(here.place.archive)
    await nursery.start(here.run)
    await here.publish(trade(1))
    await trio.sleep(2 * limits.ARCHIVE_LOCK_WAIT_S + 3)
    assert (FAILED, True) == (here.health.state, "another process" in here.health.reason)
    assert [trade(1).payload] == [m.payload for m in logged(tmp_path) if isinstance(m, Message)]
    lock.release()
    await trio.sleep(3)
    assert WRITING == here.health.state
    await here.stop()

    assert [1] == trades(tmp_path)


async def test_a_damaged_page_begins_the_window_again(tmp_path, autojump_clock, nursery):
    """A loss of power: the log continues from the archive."""
    await Instance(tmp_path).record(nursery, trade(1), trade(2))
    (page,) = (tmp_path / "window").glob("term-*")
    page.write_bytes(bytes(4096))
    await Instance(tmp_path).record(nursery, trade(2), trade(3))

    assert [1, 2, 3] == trades(tmp_path)
    assert [] == gaps(tmp_path)


async def test_a_window_in_memory_ends_with_the_machine(tmp_path, autojump_clock, nursery):
    """The archive continues: the same deployment, larger ids and terms, with any clock."""
    await Instance(tmp_path).record(nursery, trade(1), trade(2))
    shutil.rmtree(tmp_path / "window")
    after = Instance(tmp_path)
    after.off_s = -3600
    await after.record(nursery, trade(4), trade(5))
    begun = [each.detail for each in archived(tmp_path) if isinstance(each, FeedRecord)]

    assert [1, 2, 4, 5] == trades(tmp_path)
    assert [(MATCHES, GapKind.MISSING, 3, 3)] == gaps(tmp_path)
    assert ["term 1", "term 2"] == begun


def newer_window(place):
    (path,) = place.window.glob("term-*")
    data = bytearray(path.read_bytes())
    data[12] = 2
    path.write_bytes(data)


def newer_archive(place):
    path = max(place.archive.glob("*.tail"))
    data = bytearray(path.read_bytes())
    data[8] = 2
    path.write_bytes(data)


def other_window(place):
    shutil.rmtree(place.window)
    directory = Directory(place.window)
    candidate = Candidate(directory)
    candidate.look()
    candidate.take().close()
    directory.close()


@pytest.mark.parametrize(
    "fault", [newer_window, newer_archive, other_window], ids=lambda f: f.__name__
)
async def test_an_unusable_log_is_an_error_of_the_start(fault, tmp_path, autojump_clock, nursery):
    """Exit status 78, before anything is written; while it runs it is reported."""
    here = Instance(tmp_path)
    here.place.check()
    await here.record(nursery, trade(1))
    here.place.check()
    fault(here.place)
    with pytest.raises(OperatorError) as raised:
        here.place.check()
    after = Instance(tmp_path)
    await nursery.start(after.run)
    await trio.sleep(2)

    assert EXIT_CONFIG == raised.value.exit_status
    assert FAILED == after.health.state
    await after.stop()


RECORDING = """\
import signal, sys, time
from pathlib import Path
import trio
from tests.log.instances import Instance, beat, trade

EACH_S = 0.002

class Real(Instance):
    def wall_us(self):
        return time.time_ns() // 1000

async def feed(here, begin, scope):
    sent = int((time.monotonic() - begin) / EACH_S)
    while True:
        now = int((time.monotonic() - begin) / EACH_S)
        if now > sent:
            numbers = range(sent + 1, now + 1)
            await here.publish(*[each for n in numbers for each in (trade(n), beat(n))])
            sent = now
        await trio.sleep(EACH_S)

async def main():
    path, begin = Path(sys.argv[1]), float(sys.argv[2])
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            here = Real(path)
            nursery.start_soon(here.run)
            nursery.start_soon(feed, here, begin, nursery.cancel_scope)
            async for _ in signals:
                here.scope.cancel()
                await trio.sleep(0)
                nursery.cancel_scope.cancel()
                break

trio.run(main)
"""


def kill(child):
    child.kill()
    child.wait()


@pytest.mark.e2e
@pytest.mark.random
def test_writers_killed_at_any_instant_lose_nothing_in_silence(tmp_path):
    """Two instances with one feed: each trade is in the archive once, or in a gap; beats once."""
    seed = random.randrange(2**32)
    sys.stdout.write(f"seed {seed}\n")
    chance = Random(seed)
    command = [sys.executable, "-c", RECORDING, str(tmp_path), str(time.monotonic())]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with ExitStack() as stack:
        children = deque()

        def start():
            child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
            stack.callback(kill, child)
            children.append(child)

        for _ in range(6):
            while len(children) < 2:
                start()
                time.sleep(chance.uniform(1.0, 2.5))
            if chance.random() < 0.3:
                children.rotate()
            if chance.random() < 0.2:  # both at once
                kill(children.popleft())
            kill(children.popleft())
        while not children:
            start()
        time.sleep(5)
        for child in children:
            child.terminate()
            assert 0 == child.wait(20)
    found = archived(tmp_path)
    numbers = [m.trade_id for m in found if isinstance(m, Message) and m.topic == MATCHES]
    declared = [each for each in found if isinstance(each, GapRecord)]
    # Where both were killed, a topic without numbers may have a gap of unknown size.
    missing = [n for g in declared if g.first is not None for n in range(g.first, g.last + 1)]
    beats = [m.payload for m in found if isinstance(m, Message) and m.topic == HEARTBEAT]

    assert sorted(numbers) == numbers
    assert [*range(numbers[0], numbers[-1] + 1)] == sorted([*numbers, *missing])
    assert len(numbers) > 1000
    assert {g.topic for g in declared if g.first is None} <= {HEARTBEAT}
    assert len(set(beats)) == len(beats)
    assert [beat(n).payload for n in numbers] == beats


class World:
    """Two instances that receive one feed, each with a delay and losses of its own.

    Attributes:
        sent: all messages, in order.
    """

    def __init__(self, path, chance, nursery):
        self.sent = []
        self._path, self._chance, self._nursery = path, chance, nursery
        self._lines = []  # each instance and its messages on the way
        self._trade = self._ticker = self._beat = 0

    async def start(self):
        here = Instance(self._path)
        here.off_s = self._chance.choice([0, 0, -3600, 86_400, 1e8])
        await self._nursery.start(here.run)
        self._lines.append((here, deque()))
        return here

    async def send(self):
        """Send some messages; each instance receives them up to a second later."""
        for _ in range(self._chance.randrange(30)):
            self._trade += 1
            self._ticker += self._chance.randrange(1, 9)
            self._beat += 1
            self.sent += [trade(self._trade), ticker(self._ticker), beat(self._beat)]
            for _, line in self._lines:
                copies = [trade(self._trade), ticker(self._ticker), beat(self._beat)]
                line.extend(copies[self._chance.random() < 0.02 :])  # it may miss the trade
            for here, line in self._lines:
                count = self._chance.randrange(len(line) + 1)
                await here.publish(*[line.popleft() for _ in range(count)])
            await trio.sleep(self._chance.random() / 10)

    async def stop(self, *, is_killed, is_oldest=False):
        """End an instance, any or the oldest; the other one has been there for a while."""
        count = 1 if is_oldest else len(self._lines)
        here, _ = self._lines.pop(self._chance.randrange(count))
        if is_killed:
            kill_in_process(here)
        await here.stop()

    async def deliver_all(self):
        for here, line in self._lines:
            await here.publish(*line)
            line.clear()


def kill_in_process(here):
    """End it as SIGKILL does: nothing more is appended or synced, and all locks are free."""
    appender, archive = here.recorder._appender, here.recorder._archiver._archive
    if appender is not None:
        appender.append_nowait = lambda: None
    if archive is not None:
        archive._has_failed = True


@pytest.mark.random
@pytest.mark.parametrize("turn", range(2))
async def test_any_succession_of_instances_loses_nothing(
    turn, tmp_path, autojump_clock, nursery, monkeypatch
):
    """With clocks that differ, a disk that is full now and then, and writers that are killed."""
    seed = random.randrange(2**32)
    sys.stdout.write(f"seed {seed}\n")
    chance = Random(seed)
    is_full = False
    write_all = files.write_all

    def write_some(descriptor, data):
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_all(descriptor, data)

    monkeypatch.setattr(files, "write_all", write_some)
    world = World(tmp_path, chance, nursery)
    await world.start()
    for number in range(12):
        await world.start()
        for _ in range(3):
            is_full = chance.random() < 0.2
            await world.send()
            await trio.sleep(chance.random() * 2)
        is_lagging = chance.random() < 0.5  # the successor receives the rest in its own term
        if not is_lagging:
            await world.deliver_all()
            await trio.sleep(7 if chance.random() < 0.5 else 0)
        # The first to end is the one that writes, so that there is a successor in every run.
        await world.stop(is_killed=chance.random() < 0.6, is_oldest=number == 0)
        await world.deliver_all()
    is_full = False
    await world.deliver_all()
    await trio.sleep(5)
    await world.stop(is_killed=False)
    found = archived(tmp_path, MATCHES, TICKER, HEARTBEAT)
    numbers = trades(tmp_path)
    missing = [n for g in found if isinstance(g, GapRecord) and g.topic == MATCHES
        for n in range(g.first, g.last + 1)]  # fmt: skip
    others = [each.payload for each in world.sent if each.topic != MATCHES]

    assert sorted(numbers) == numbers
    assert sorted([*numbers, *missing]) == [
        *range(numbers[0], numbers[-1] + 1)
    ]  # all may miss the first
    assert [each for each in payloads(tmp_path) if b"match" not in each] == others
    assert {each[0] for each in gaps(tmp_path)} <= {MATCHES}
    begun = [each for each in archived(tmp_path) if isinstance(each, FeedRecord)]
    assert 1 < len(begun) < 14


async def test_the_last_messages_are_appended_at_a_stop(tmp_path, autojump_clock, nursery):
    """Without a successor they are in no other tape."""
    here = Instance(tmp_path)
    await nursery.start(here.run)
    await here.publish(trade(1))
    await trio.sleep(1)
    await here.publish(trade(2))
    await here.stop()

    assert [1, 2] == trades(tmp_path)


async def test_terms_rise_after_both_directories_are_gone(tmp_path, autojump_clock, nursery):
    """The process knows its last term."""
    here = Instance(tmp_path)
    await nursery.start(here.run)
    await trio.sleep(1)
    delete_both(here.place)
    await trio.sleep(6)
    await here.stop()

    assert "term 2" in [each.detail for each in archived(tmp_path) if isinstance(each, FeedRecord)]


class Hanging:
    """Threads of which those that read or lock the archive hang, once ``begins`` is called.

    A thread that hangs keeps its place in its limiter until ``end``.
    """

    def __init__(self, monkeypatch):
        self._monkeypatch = monkeypatch
        self._places = []

    def begin(self):
        def hang(*_, **__):
            raise NeverReturns

        self._monkeypatch.setattr(recorder, "read_predecessor", hang)
        self._monkeypatch.setattr(disk, "Lock", hang)
        self._monkeypatch.setattr(
            ending, "_note_archive", lambda path, *_: hang() if path.name == "archive" else None
        )
        self._monkeypatch.setattr(trio.to_thread, "run_sync", self._run_sync)

    def end(self):
        self._monkeypatch.undo()
        self._monkeypatch.setattr(trio.to_thread, "run_sync", run_at_once)
        for limiter, place in self._places:
            limiter.release_on_behalf_of(place)

    async def _run_sync(self, function, limiter=None, abandon_on_cancel=False):
        place = object()
        if limiter is not None:
            await limiter.acquire_on_behalf_of(place)
        try:
            result = await run_at_once(function)
        except NeverReturns:
            assert abandon_on_cancel
            self._places.append((limiter, place))
            await trio.sleep_forever()
        except BaseException:
            if limiter is not None:
                limiter.release_on_behalf_of(place)
            raise
        if limiter is not None:
            limiter.release_on_behalf_of(place)
        return result


class NeverReturns(BaseException):
    """A call never returns; the test handles it."""


async def test_a_successor_writes_although_the_archives_disk_hangs(
    tmp_path, autojump_clock, nursery, monkeypatch
):
    """It waits for the disk for some seconds; then the window alone has the ends of topics."""
    first, second = Instance(tmp_path), Instance(tmp_path)
    await nursery.start(first.run)
    await trio.sleep(1)
    for each in (first, second):
        await each.publish(trade(1))
    await trio.sleep(2)
    hanging = Hanging(monkeypatch)
    hanging.begin()
    await nursery.start(second.run)
    await trio.sleep(limits.DISK_ANSWER_S + 1)
    assert (FAILED, "the disk of the history does not answer") == (
        second.health.state, second.health.reason
    )  # fmt: skip
    first.scope.cancel()
    await second.publish(trade(2))
    with capture_logs() as lines:
        await trio.sleep(limits.DISK_ANSWER_S + 1)
    assert [1, 2] == [each.trade_id for each in logged(tmp_path) if isinstance(each, Message)]
    assert 1 == [line["event"] for line in lines].count("the end of the archive is not readable")
    assert "the disk of the history does not answer" in second.health.reason
    hanging.end()
    await trio.sleep(1)
    assert WRITING == second.health.state
    await second.stop()


async def test_a_term_waits_for_the_archives_disk_only_for_some_seconds(
    tmp_path, autojump_clock, nursery, monkeypatch
):
    """The disk begins to hang after the candidate has looked at it."""
    await Instance(tmp_path).record(nursery, trade(1))
    here = Instance(tmp_path)
    read = ending._note_archive
    hanging = Hanging(monkeypatch)
    hanging.begin()
    monkeypatch.setattr(recorder, "read_predecessor", read_predecessor)
    await nursery.start(here.run)
    await here.publish(trade(1), trade(2))
    await trio.sleep(limits.DISK_ANSWER_S + 2)

    assert [1, 2] == [each.trade_id for each in logged(tmp_path) if isinstance(each, Message)]
    assert FAILED == here.health.state
    hanging.end()
    await trio.sleep(2)
    assert (ending._note_archive, WRITING) == (read, here.health.state)
    await here.stop()
    assert [1, 2] == trades(tmp_path)


@pytest.mark.parametrize("after_s", [0.1, limits.DISK_ANSWER_S + 1])
async def test_a_stop_does_not_wait_for_the_archives_disk(
    after_s, tmp_path, autojump_clock, nursery, monkeypatch
):
    """While a candidate begins, and while a window begins."""
    here = Instance(tmp_path)
    hanging = Hanging(monkeypatch)
    hanging.begin()
    async with trio.open_nursery() as running:
        await running.start(here.run)
        await trio.sleep(after_s)
        began = trio.current_time()
        here.scope.cancel()
    assert began == pytest.approx(trio.current_time(), abs=0.1)
    assert [] == [path for path in here.place.window.iterdir() if path.name.startswith("term-")]
    hanging.end()


async def test_a_lock_that_a_thread_takes_after_a_stop_is_released(
    tmp_path, autojump_clock, nursery, monkeypatch
):
    """The recorder was cancelled while the thread took it."""
    here = Instance(tmp_path)
    taking = []

    async def run_sync(function, limiter=None, abandon_on_cancel=False):
        if getattr(function, "__name__", "") == "take":
            taking.append(function)
            await trio.sleep_forever()
        return await run_at_once(function)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    await nursery.start(here.run)
    await trio.sleep(1)
    await here.stop()
    taking[0]()
    Lock(here.place.archive).release()


async def test_a_directory_that_a_thread_uses_stays_open(
    tmp_path, autojump_clock, nursery, monkeypatch
):
    """The thread hangs, and may read the window afterwards."""
    await Instance(tmp_path).record(nursery, trade(1))
    here = Instance(tmp_path)
    calls, closed = [], []

    async def run_sync(function, limiter=None, abandon_on_cancel=False):
        if limiter is here.recorder._archive_disk._turn:
            calls.append(function)
            if len(calls) > 1:  # after the archive's end
                await trio.sleep_forever()
        return await run_at_once(function)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    monkeypatch.setattr(Directory, "close", closed.append)
    await nursery.start(here.run)
    await trio.sleep(1)
    await here.stop()
    monkeypatch.undo()
    assert [] == closed

    calls[1]()  # the thread goes on
    assert here.recorder._users == set()


async def test_a_writer_that_was_succeeded_reports_no_error(tmp_path, autojump_clock, nursery):
    """The log is written, by the other one."""
    here, other = Instance(tmp_path), Instance(tmp_path)
    await nursery.start(here.run)
    await trio.sleep(1)
    await nursery.start(other.run)
    await trio.sleep(1)
    page = Directory(here.place.window).page(1)
    with capture_logs() as lines:
        page.fence()
        await trio.sleep(limits.LEASE_S)
    page.close()
    ours = "another instance writes the log"
    assert [("info", ours)] == [
        (line["log_level"], line["event"]) for line in lines
        if line["event"] in {ours, "the log is not written"}
    ]  # fmt: skip
    assert ((READING, ""), WRITING) == ((here.health.state, here.health.reason), other.health.state)
    await here.stop()
    await other.stop()


async def test_an_archive_that_does_not_follow_the_log_is_a_fault(
    tmp_path, autojump_clock, nursery, monkeypatch
):
    """Its disk hangs in a step; an idle log is no fault, nor is one after the disk answers."""
    here = Instance(tmp_path)
    await nursery.start(here.run)
    await here.publish(trade(1))
    await trio.sleep(2 * limits.ARCHIVER_SILENT_MAX_S)  # idle
    assert WRITING == here.health.state
    answers = trio.Event()

    async def run_sync(function, limiter=None, abandon_on_cancel=False):
        if limiter is here.recorder._archiver._limiter:
            await answers.wait()
        return await run_at_once(function)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    with capture_logs() as lines:
        states = []
        for n in range(2, 26):
            await here.publish(trade(n))
            await trio.sleep(1)
            states.append((here.health.state, here.health.reason))
        answers.set()
        await here.publish(trade(26))
        await trio.sleep(2)
    wrong = (FAILED, "nothing was archived for 15 s: the disk may hang")
    assert (WRITING, "") == states[10]
    assert wrong == states[-1]
    assert WRITING == here.health.state
    assert ["the archive does not follow the log", "the archive follows the log again"] == [
        line["event"] for line in lines if "follow" in line["event"]
    ]
    await here.stop()
    assert [*range(1, 27)] == trades(tmp_path)


async def test_a_term_does_not_wait_for_its_names(tmp_path, autojump_clock, nursery, monkeypatch):
    """They have the archive's inode, whose disk may hang; a stop does not wait either."""
    here = Instance(tmp_path)

    async def run_sync(function, limiter=None, abandon_on_cancel=False):
        if getattr(function, "func", None) is write_names:
            assert abandon_on_cancel
            await trio.sleep_forever()
        return await run_at_once(function)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    await nursery.start(here.run)
    await here.publish(trade(1))
    await trio.sleep(limits.DISK_ANSWER_S + 1)
    assert WRITING == here.health.state
    assert [1] == [each.trade_id for each in logged(tmp_path) if isinstance(each, Message)]
    await here.stop()
