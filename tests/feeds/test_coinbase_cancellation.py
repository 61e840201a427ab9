"""Cancelled at whatever await: the stream is closed, the inbox is closed, nothing hangs."""

from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.protocol.frames import encode_ping, encode_text
from tests.feeds.script import CLOSE, PING, heartbeat, ticker

TICKER = Topic("ticker", "BTC-USD")


async def refuse_dial(running):
    """In the pause before the next dial."""
    await trio.sleep(0.1)
    assert running.health.losses


async def dial(running):
    """While connecting."""


async def shake_hands(running):
    """While the handshake's answer is awaited."""
    await (await running.exchange.dialled()).hear_head()


async def subscribe(running):
    """While the first request is being written."""
    line = await running.exchange.dialled()

    async def full():
        await trio.sleep_forever()

    await line.shake_hands()
    line.far_end.send_stream.send_all_hook = full


async def listen(running):
    """While nothing happens: the usual case."""
    line, _ = await running.exchange.subscribed()
    await line.say(heartbeat())


async def fill_inbox(running):
    """While the inbox is full."""
    line, _ = await running.exchange.subscribed()
    await line.say(ticker())
    await line.say(ticker(sequence=2))


async def wait_for_tokens(running):
    """While the exchange's rate limit makes us wait."""
    line, _ = await running.exchange.subscribed()
    running.demand.want([Topic("ticker", f"{n}-USD") for n in range(11_000)])
    for _ in range(50):
        await line.hear()


async def ping(running):
    """While a pong is awaited."""
    line, _ = await running.exchange.subscribed()
    while (await line.hear_frame())[0] != PING:
        pass


async def pong(running):
    """While a ping is being answered."""
    line, _ = await running.exchange.subscribed()

    async def full():
        await trio.sleep_forever()

    line.far_end.send_stream.send_all_hook = full
    await line.stream.send_all(encode_ping(b"x"))


async def hang_up(running):
    """While our close waits for the exchange's."""
    line, _ = await running.exchange.subscribed()
    running.demand.release([TICKER], trio.current_time() - limits.LINGER_S)
    while (await line.hear_frame())[0] != CLOSE:
        pass


async def idle(running):
    """While nothing is wanted."""
    line, _ = await running.exchange.subscribed()
    running.demand.release([TICKER], trio.current_time() - limits.LINGER_S)
    await line.hear_end()


async def tell_of_a_loss(running):
    """While the notice of a loss waits for the inbox."""
    line, _ = await running.exchange.subscribed()
    await line.say(ticker())
    await wait_all_tasks_blocked()
    await line.stream.send_eof()


async def assert_all_closed(running, streams):
    """Every stream of the feed is closed, and its inbox has come to an end."""
    for stream in streams:
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()
    with trio.fail_after(1):
        async for _ in running.inbox:
            pass


def keep_streams(exchange):
    """Remember the feed's ends of all streams."""
    streams, open_stream = [], exchange.open_stream

    async def opening(address):
        streams.append(await open_stream(address))
        return streams[-1]

    return streams, opening


@pytest.mark.parametrize(
    "reach",
    [
        refuse_dial,
        dial,
        shake_hands,
        subscribe,
        listen,
        fill_inbox,
        wait_for_tokens,
        ping,
        pong,
        hang_up,
        idle,
        tell_of_a_loss,
    ],
    ids=lambda reach: reach.__name__,
)
async def test_cancelled_there_it_leaves_nothing_open(autojump_clock, make_feed, exchange, reach):
    """A drain cancels the feed wherever it is; an open socket would outlive the daemon."""
    running = make_feed(pairs=(), inbox=1)
    streams, running.feed._open_stream = keep_streams(exchange)
    running.demand.want([TICKER])
    if reach is refuse_dial:
        exchange.failures = [OSError("no route")] * 9
    if reach is dial:
        hang = partial(trio.sleep, 1000)
        running.feed._open_stream = lambda address: hang()
    begun = 0.0
    async with trio.open_nursery() as nursery:
        await nursery.start(running.run)
        await reach(running)
        await wait_all_tasks_blocked()
        begun = trio.current_time()
        nursery.cancel_scope.cancel()

    assert trio.current_time() - begun <= limits.FAREWELL_S / 4
    await assert_all_closed(running, streams)


@pytest.mark.parametrize("steps", range(60))
async def test_cancelled_after_any_number_of_steps_it_leaves_nothing_open(
    autojump_clock, make_feed, exchange, steps
):
    """The moments nobody thought of, between the ones above."""
    running = make_feed(inbox=1)
    streams, running.feed._open_stream = keep_streams(exchange)

    async def be_an_exchange():
        while True:
            line = await exchange.connected()
            await line.hear()
            await line.stream.send_all(encode_ping(b"x") + encode_text(ticker()))
            await line.say(heartbeat(), ticker(sequence=2))
            await line.stream.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_an_exchange)
        nursery.start_soon(running.run)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()

    await assert_all_closed(running, streams)


async def test_a_cancelled_feed_says_goodbye(autojump_clock, make_feed, exchange):
    """The exchange frees our place at once instead of finding a dead line later."""
    running = make_feed()
    frames = []

    async def hear_end():
        line, _ = await exchange.subscribed()
        frames.extend(await line.hear_end())

    async with trio.open_nursery() as outside:
        outside.start_soon(hear_end)
        async with trio.open_nursery() as nursery:
            await nursery.start(running.run)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()

    assert frames[-1] == (CLOSE, (1001).to_bytes(2, "big"))
    assert trio.current_time() == 1
