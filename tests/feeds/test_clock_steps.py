"""A step of the wall clock changes no duration, age or rate of the feed, and dates signatures.

The machine's clock is set by an hour back or a day ahead while the feed runs, as by NTP after a
start without network or by an operator. Every test replaces ``time.time`` and ``time.time_ns``,
so that it fails if a duration is read from either of them.
"""

import time
from random import Random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hedgehogd.app.daemon import wall_us
from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.feed_address import parse_url
from hedgehogd.engine.health import FeedState
from hedgehogd.fanout.broker import Broker
from hedgehogd.feeds.dialer import Dialer
from hedgehogd.protocol.signing import Credentials
from tests.feeds.script import heartbeat, ticker
from tests.feeds.upstream import Upstream, rest_client

BEGIN_S = 1_790_000_000.0
STEPS_S = (-3600.0, 86_400.0)
pytestmark = pytest.mark.parametrize("step_s", STEPS_S)


class Wall:
    """The wall clock: it runs with the loop's clock, and steps.

    Attributes:
        stepped_s: the sum of its steps.
    """

    def __init__(self):
        self.stepped_s = 0.0

    def time(self):
        return BEGIN_S + trio.current_time() + self.stepped_s

    def time_ns(self):
        return int(self.time() * 1e9)

    def step(self, step_s):
        before = wall_us()
        self.stepped_s += step_s
        assert wall_us() - before == pytest.approx(step_s * 1e6, abs=10)


@pytest.fixture
def wall(monkeypatch):
    wall = Wall()
    monkeypatch.setattr(time, "time", wall.time)
    monkeypatch.setattr(time, "time_ns", wall.time_ns)
    return wall


async def test_a_step_makes_no_feed_stale_and_hides_no_silence(
    autojump_clock, wall, exchange, serve, step_s
):
    """Staleness is a duration: 10 s without data, before and after the step."""
    running = await serve(stale_after_s=10)
    (line,) = await exchange.lines_with("ticker")
    await line.send(heartbeat())
    await trio.sleep(5)
    wall.step(step_s)
    await trio.sleep(4.5)
    assert running.instance.readiness() == (True, "live")
    assert (running.notices(), running.health.losses, len(exchange.dialled_at)) == ([], {}, 1)

    await line.send(ticker())
    await trio.sleep(9.5)
    wall.step(-step_s)
    await wait_all_tasks_blocked()
    assert running.health.state is FeedState.LIVE
    await trio.sleep(0.6)
    assert running.health.losses == {"silent": 1}
    assert [notice["stale"] for notice in running.notices()] == [True]


async def test_a_step_neither_ends_a_silent_connection_nor_keeps_it(
    autojump_clock, wall, exchange, start_feed, step_s
):
    """No byte for 10 s, not even a pong, is a dead connection; a step alone is not."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    await trio.sleep(4)
    await line.send(ticker())
    wall.step(step_s)
    await trio.sleep(limits.STALE_AFTER_S - 0.1)
    assert running.health.losses == {}
    wall.step(-step_s)
    await trio.sleep(0.2)

    assert running.health.losses == {"silent": 1}
    assert running.health.reason.startswith("silent: no byte for ")


async def test_a_step_makes_no_product_stale_and_hides_no_missing_heartbeats(
    autojump_clock, wall, exchange, serve, step_s
):
    """A product is stale ``STALE_AFTER_S`` after its last heartbeat, as it is without a step."""
    running = await serve(["BTC-USD", "ETH-USD"], stale_after_s=limits.STALE_AFTER_S)
    (line,) = await exchange.lines_with("ticker")
    quiet = {}
    for second in range(36):
        quiet[second] = running.health.quiet_products
        wall.step(step_s * (-1) ** second if second in {3, 4, 25, 26} else 0.0)
        products = ("BTC-USD", "ETH-USD") if second < 20 else ("BTC-USD",)
        await line.send(*[heartbeat(product, second + 1) for product in products])
        await trio.sleep(1)

    stale_from = [second for second, count in quiet.items() if count]
    assert stale_from[0] == pytest.approx(20 + limits.STALE_AFTER_S, abs=1.5)
    assert stale_from == list(range(stale_from[0], 36))


async def test_a_step_neither_ends_nor_extends_the_age_of_a_cached_answer(
    autojump_clock, wall, nursery, step_s
):
    """A price of two seconds ago is wrong at any time of day."""
    upstream = Upstream()
    rest = rest_client(upstream)
    await nursery.start(rest.run)
    for pause_s, asked in ((0, 1), (0.9, 1), (0.2, 2)):
        await trio.sleep(pause_s)
        wall.step(step_s)
        await rest.get("/products", keeping=lambda answer: 1.0)
        assert len(upstream.seen) == asked

    assert rest.cache_hits == 1


async def test_a_step_changes_no_rate(autojump_clock, wall, step_s):
    """The tokens of dials: a step ahead adds none, a step back stops none."""
    dialer = Dialer(parse_url("ws://exchange.test/"), Random(1), wall_us)
    times = []
    for _ in range(limits.DIALS_BURST + 3):
        await dialer.wait_for_a_dial()
        times.append(trio.current_time())
        wall.step(step_s)

    expected = [0.0] * limits.DIALS_BURST + [each / limits.DIALS_PER_S for each in (1, 2, 3)]
    assert times == pytest.approx(expected)


async def test_a_step_extends_and_ends_no_pause_after_a_refused_dial(autojump_clock, wall, step_s):
    """The exchange's own rate limit is a pause from now, not a time of day."""
    dialer = Dialer(parse_url("ws://exchange.test/"), Random(1), wall_us)
    dialer.not_before = trio.current_time() + 30
    wall.step(step_s)
    await dialer.wait_for_a_dial()

    assert trio.current_time() == pytest.approx(30)
    assert dialer.is_news("refused")
    wall.step(step_s)
    assert not dialer.is_news("refused")


async def test_a_message_has_the_time_of_its_read_however_long_it_waits(
    autojump_clock, wall, exchange, start_feed, step_s
):
    """The inbox is full for 3 s, and the clock steps: the time of publication is another one."""
    running = await start_feed(inbox=1, wall_us=wall_us)
    line, _ = await exchange.subscribed()
    sent = (ticker(sequence=number) for number in range(1, 4))
    await line.send(next(sent), next(sent))
    await trio.sleep(1)
    await line.send(next(sent))  # the feed reads it and waits with it
    await trio.sleep(3)
    wall.step(step_s)

    broker = Broker(running.instance.pipe, running.instance.sessions)
    for _ in range(3):
        await broker.publish([await running.inbox.receive()])
        await trio.lowlevel.checkpoint()
    messages = running.instance.pipe.tape.newest(Topic("ticker", "BTC-USD"), 10)[::-1]
    read_us, began_us = [each.received_us for each in messages], int(BEGIN_S * 1e6)

    assert [(each - began_us) / 1e6 for each in read_us] == pytest.approx([0, 0, 1], abs=0.3)
    assert read_us[0] == read_us[1]
    published_s = {(each.published_us - began_us) / 1e6 for each in messages}
    assert list(published_s) == pytest.approx([4 + step_s], abs=0.3)


async def test_a_signature_has_the_time_after_the_step(autojump_clock, wall, step_s):
    """The exchange accepts 30 s of difference: a corrected clock must be used at the next dial."""
    key = Credentials("key", "c2VjcmV0", "phrase")
    dialer = Dialer(parse_url("ws://exchange.test/"), Random(1), wall_us, credentials=key)
    before = dialer.sign()
    wall.step(step_s)

    assert dialer.sign() == key.sign(BEGIN_S + step_s)
    assert float(dialer.sign()["timestamp"]) - float(before["timestamp"]) == step_s
