"""The clock of the loop: a pause of the process does not count as silence of a peer."""

import socket
import sys

import pytest
import trio

from hedgehogd.app.clock import AwakeClock
from hedgehogd.commands import replay as replay_command
from hedgehogd.commands import serve as serve_command
from hedgehogd.domain.limits import (
    BACKLOG_AGE_MAX_S,
    HEAD_TIMEOUT_S,
    PAUSE_MIN_S,
    STALE_AFTER_S,
    THREAD_TURN_S,
)
from hedgehogd.engine.chunk import Chunk
from hedgehogd.fanout.instance import StreamCounts
from hedgehogd.feeds.tap import FrameTap
from hedgehogd.logs import setup
from hedgehogd.protocol.wire import WEBSOCKET
from hedgehogd.streaming.outlet import Outlet, OutletSettings


class Steady:
    """A steady clock that a test moves."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def steady():
    return Steady()


@pytest.fixture
def clock(steady):
    clock = AwakeClock(steady)
    steady.now += 500  # between creation and run
    clock.start_clock()
    return clock


def test_a_running_process_reads_a_plain_clock(clock, steady):
    """Turns of the loop and announced sleeps of any length are no pauses."""
    begun = clock.current_time()
    for step_s in (0.0, 0.001, PAUSE_MIN_S):
        steady.now += step_s
        clock.current_time()
    assert clock.deadline_to_sleep_time(clock.current_time() + 600) == pytest.approx(600)
    steady.now += 600

    assert clock.current_time() - begun == pytest.approx(600 + 0.001 + PAUSE_MIN_S)
    assert clock.paused_s == 0


@pytest.mark.parametrize("sleep_s", [-5.0, 0.0, 1.0])
def test_a_pause_counts_as_the_shortest_one(clock, steady, sleep_s):
    """This holds whether the loop slept or worked when the process was stopped."""
    begun = clock.current_time()
    clock.deadline_to_sleep_time(begun + sleep_s)
    steady.now += 30
    passed_s = max(sleep_s, 0) + PAUSE_MIN_S

    assert clock.current_time() - begun == pytest.approx(passed_s)
    assert clock.paused_s == pytest.approx(30 - passed_s)
    steady.now += 0.5
    assert clock.current_time() - begun == pytest.approx(passed_s + 0.5)


def test_time_never_goes_back(clock, steady):
    """Trio keeps deadlines in order of this clock."""
    read = []
    for step_s in (0, 3, 0, 0.1, 40, 0, 1.1):
        steady.now += step_s
        read.append(clock.current_time())

    assert read == sorted(read)


def paused_for(steady, clock, main):
    """Run ``main``; return its result."""
    return trio.run(main, clock=clock)


def test_a_pause_does_not_use_up_a_peers_deadline(steady, clock):
    """A head that arrives in two parts, before and after the pause."""

    async def main():
        with trio.move_on_after(HEAD_TIMEOUT_S) as scope:
            steady.now += 30  # the process is stopped here
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
        return scope.cancelled_caught

    assert not paused_for(steady, clock, main)


def test_a_pause_makes_no_feed_silent(steady, clock):
    """Data that waits in the socket is read before the silence is measured."""

    async def main():
        near, far = trio.testing.memory_stream_pair()
        tap = FrameTap(near, lambda frames, received_us: None, 1000, lambda: 0)
        await far.send_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        steady.now += 30
        await trio.lowlevel.checkpoint()
        return trio.current_time() - tap.heard_at

    assert paused_for(steady, clock, main) < STALE_AFTER_S


def test_a_pause_makes_no_subscriber_slow(steady, clock):
    """The age of its backlog does not include the pause."""
    counts = StreamCounts()

    async def main():
        near, far = socket.socketpair()
        near.setblocking(False)
        with near, far:
            async with trio.open_nursery() as nursery:
                outlet = Outlet(near, WEBSOCKET, OutletSettings(nursery, counts))
                while not outlet.waiting_bytes:
                    outlet.write(Chunk([b"x" * 60_000], [None], [1]))
                steady.now += 30
                for _ in range(5):
                    await trio.lowlevel.checkpoint()
                age_s = outlet.oldest_s(trio.current_time())
                is_ending = outlet.is_ending
                nursery.cancel_scope.cancel()
        return age_s, is_ending

    age_s, is_ending = paused_for(steady, clock, main)
    assert age_s < BACKLOG_AGE_MAX_S
    assert not is_ending


@pytest.mark.parametrize(
    ("module", "argv"),
    [(serve_command, ["--feed", "demo"]), (replay_command, None)],
)
def test_the_daemon_and_a_replay_run_on_this_clock(monkeypatch, tmp_path, module, argv):
    """Trio's own clock includes pauses."""
    clocks, turns = [], []
    monkeypatch.setattr(sys, "setswitchinterval", turns.append)
    monkeypatch.setattr(setup, "configure_logs", lambda *_: None)
    monkeypatch.setattr(trio, "run", lambda *_, clock: clocks.append(clock))
    module.run(argv or ["--history", str(tmp_path), "--since", "-5m", "--port", "1"])

    assert [AwakeClock] == [type(clock) for clock in clocks]
    assert turns == ([THREAD_TURN_S] if module is serve_command else [])
