"""The store when the wall clock steps: no message is dropped in silence, and times are the clock's.

A clock is behind after a start without a battery, or years ahead for a moment until NTP sets
it. Places in the store are an order and no times: they rise whatever the clock does.
"""

import pytest
import trio

from hedgehogd.domain.channel import Topic
from hedgehogd.history.recorder import Retention
from tests.fakes import make_message
from tests.history.conftest import MATCHES, NOW
from tests.history.test_recorder import Instance, run_at_once, trade, what_is_kept

HOUR_S = 3600
YEARS_S = 3 * 365 * 86_400
UNNUMBERED = [
    Topic(channel, "BTC-USD" if channel != "status" else "")
    for channel in ("rfq_matches", "auctionfeed", "heartbeat", "status")
]


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    """Run at once what goes to threads: a clock that jumps would jump while they work."""
    monkeypatch.setattr(trio.to_thread, "run_sync", run_at_once)


class Stepping(Instance):
    """An instance whose wall clock is wrong by ``off_s`` seconds."""

    def __init__(self, directory, recorded, off_s=0, **more):
        self.off_s = off_s
        super().__init__(directory, recorded, **more)

    def wall_us(self):
        return super().wall_us() + self.off_s * 1_000_000


async def record(nursery, instance, *messages):
    """Run ``instance`` for some seconds, and publish one message after the other."""
    await nursery.start(instance.run)
    for message in messages:
        await instance.publish(message)
        await trio.sleep(0.1)
    await trio.sleep(2)
    instance.scope.cancel()
    await trio.sleep(1)


@pytest.mark.xfail(strict=True, reason="The log")
@pytest.mark.parametrize("topic", UNNUMBERED, ids=lambda topic: topic.channel)
async def test_unnumbered_messages_after_the_clock_went_back_are_kept(
    topic, tmp_path, autojump_clock, nursery
):
    """After a restart with a clock an hour behind, a message without numbers is no repeat."""
    first, second = (
        [make_message(*topic, text=f"{era} {n}") for n in range(6)] for era in ("before", "after")
    )
    await record(nursery, Stepping(tmp_path, [topic]), *first)
    await record(nursery, Stepping(tmp_path, [topic], -HOUR_S), *second)
    messages, _ = what_is_kept(tmp_path, topic)

    assert [m.payload for m in messages] == [m.payload for m in (*first, *second)]


@pytest.mark.xfail(strict=True, reason="The log")
async def test_times_of_what_is_kept_are_the_clocks(tmp_path, autojump_clock, nursery):
    """A clock that was years ahead for a moment must not date all that is recorded later."""
    await record(nursery, Stepping(tmp_path, [MATCHES], YEARS_S), trade(1))
    began_us = NOW + int(trio.current_time() * 1e6)
    await record(nursery, Stepping(tmp_path, [MATCHES]), trade(2), trade(3))
    messages, _ = what_is_kept(tmp_path, MATCHES)

    assert [m.trade_id for m in messages] == [1, 2, 3]
    assert [m.received_us // 10**6 for m in messages[1:]] == [began_us // 10**6] * 2


@pytest.mark.xfail(strict=True, reason="The log")
async def test_a_clock_that_runs_ahead_removes_nothing(tmp_path, autojump_clock, nursery):
    """A minute of history is not seven days old because the clock jumped three years."""
    here = Stepping(tmp_path, [MATCHES], retention=Retention(7 * 86_400.0))
    await nursery.start(here.run)
    for n in range(1, 5):
        await here.publish(trade(n))
        await trio.sleep(15)
    here.off_s = YEARS_S
    await here.publish(trade(5))
    await trio.sleep(70)

    messages, gaps = what_is_kept(tmp_path, MATCHES)
    assert [m.trade_id for m in messages] == [1, 2, 3, 4, 5]
    assert gaps == []
