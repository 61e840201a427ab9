"""Cancelled at any await, the feed closes its streams and its inbox, and ends."""

from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.protocol.frames import encode_ping, encode_text
from tests.feeds.script import CLOSE, PING, heartbeat, match, ticker

TICKER = Topic("ticker", "BTC-USD")


async def refuse_dial(running):
    """In the pause before the next dial."""
    await trio.sleep(0.1)
    assert running.health.losses


async def dial(running):
    """While connecting."""


async def shake_hands(running):
    """While the handshake's answer is awaited."""
    await (await running.exchange.dialled()).receive_head()


async def subscribe(running):
    """While the first request is being written."""
    line = await running.exchange.dialled()

    async def full():
        await trio.sleep_forever()

    await line.shake_hands()
    line.far_end.send_stream.send_all_hook = full


async def listen(running):
    """While no message arrives: the usual case."""
    line, _ = await running.exchange.subscribed()
    await line.send(heartbeat())


async def fill_inbox(running):
    """While the inbox is full."""
    line, _ = await running.exchange.subscribed()
    await line.send(ticker())
    await line.send(ticker(sequence=2))


async def wait_for_tokens(running):
    """While a request waits for the exchange's rate limit."""
    line, _ = await running.exchange.subscribed()
    running.demand.want([Topic("ticker", f"{n}-USD") for n in range(11_000)])
    for _ in range(50):
        await line.receive_request()


async def ping(running):
    """While a pong is awaited."""
    line, _ = await running.exchange.subscribed()
    while (await line.receive_frame())[0] != PING:
        pass


async def pong(running):
    """While a ping is being answered."""
    line, _ = await running.exchange.subscribed()

    async def full():
        await trio.sleep_forever()

    line.far_end.send_stream.send_all_hook = full
    await line.stream.send_all(encode_ping(b"x"))


async def hang_up(running):
    """While the feed waits for the exchange's close frame."""
    line, _ = await running.exchange.subscribed()
    running.demand.release([TICKER], trio.current_time() - limits.LINGER_S)
    while (await line.receive_frame())[0] != CLOSE:
        pass


async def idle(running):
    """While no topic is in demand."""
    line, _ = await running.exchange.subscribed()
    running.demand.release([TICKER], trio.current_time() - limits.LINGER_S)
    await line.receive_until_closed()


async def wait_for_a_dial(running):
    """While a dial waits for the exchange's rate limit."""
    running.feed.dialer.not_before = 1000.0


async def tell_of_a_loss(running):
    """While the notice of a disconnect waits for the inbox."""
    line, _ = await running.exchange.subscribed()
    await line.send(ticker())
    await wait_all_tasks_blocked()
    await line.stream.send_eof()


async def assert_all_closed(running, streams):
    """Check that every stream of the feed is closed, and that its inbox has ended."""
    assert running.inbox_ended
    for stream in streams:
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()


async def read_to_the_end(running):
    """Read as the broker does, until the feed has closed the inbox."""
    with trio.fail_after(1):
        async for delivery in running.inbox:
            running.read += [message.payload for message in delivery.messages]
    running.inbox_ended = True


def keep_streams(exchange):
    """Return a list of the feed's streams, and the function that opens them."""
    streams, original = [], exchange.open_stream

    async def opening(address):
        streams.append(await original(address))
        return streams[-1]

    return streams, opening


@pytest.mark.random
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
        wait_for_a_dial,
        ping,
        pong,
        hang_up,
        idle,
        tell_of_a_loss,
    ],
    ids=lambda reach: reach.__name__,
)
async def test_a_feed_cancelled_in_any_state_leaves_nothing_open(
    autojump_clock, make_feed, exchange, reach
):
    """A drain cancels the feed in any state; every socket has to be closed."""
    running = make_feed(pairs=(), inbox=1)
    streams, running.feed.dialer.open_stream = keep_streams(exchange)
    running.demand.want([TICKER])
    if reach is refuse_dial:
        exchange.failures = [OSError("no route")] * 9
    if reach is dial:
        hang = partial(trio.sleep, 1000)
        running.feed.dialer.open_stream = lambda address: hang()
    begun = 0.0
    async with trio.open_nursery() as outside, trio.open_nursery() as nursery:
        await nursery.start(running.run)
        await reach(running)
        await wait_all_tasks_blocked()
        begun = trio.current_time()
        nursery.cancel_scope.cancel()
        outside.start_soon(read_to_the_end, running)

    assert trio.current_time() - begun <= limits.FAREWELL_S / 4
    await assert_all_closed(running, streams)


@pytest.mark.random
@pytest.mark.parametrize("steps", range(60))
async def test_a_feed_cancelled_after_any_number_of_steps_leaves_nothing_open(
    autojump_clock, make_feed, exchange, steps
):
    """This covers the moments between the cases above."""
    running = make_feed(inbox=1)
    streams, running.feed.dialer.open_stream = keep_streams(exchange)

    async def be_an_exchange():
        while True:
            line = await exchange.connected()
            await line.receive_request()
            await line.stream.send_all(encode_ping(b"x") + encode_text(ticker()))
            await line.send(heartbeat(), ticker(sequence=2))
            await line.stream.send_eof()

    async with trio.open_nursery() as outside, trio.open_nursery() as nursery:
        nursery.start_soon(be_an_exchange)
        nursery.start_soon(running.run)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
        outside.start_soon(read_to_the_end, running)

    await assert_all_closed(running, streams)


async def test_a_cancelled_feed_sends_a_close_frame(autojump_clock, make_feed, exchange):
    """With a close frame the exchange frees the connection at once."""
    running = make_feed()
    frames = []

    async def receive_until_closed():
        line, _ = await exchange.subscribed()
        frames.extend(await line.receive_until_closed())

    async with trio.open_nursery() as outside:
        outside.start_soon(receive_until_closed)
        async with trio.open_nursery() as nursery:
            await nursery.start(running.run)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()

    assert frames[-1] == (CLOSE, (1001).to_bytes(2, "big"))
    assert trio.current_time() == 1


async def test_counted_messages_are_delivered_although_the_feed_is_cancelled(
    autojump_clock, make_feed, exchange
):
    """A number that is counted and not delivered would be a gap without a notice."""
    running = make_feed(inbox=1, channels=("matches",))
    async with trio.open_nursery() as outside, trio.open_nursery() as nursery:
        await nursery.start(running.run)
        line, _ = await exchange.subscribed()
        for number in (1, 2, 3):
            await line.send(match(number))
            await wait_all_tasks_blocked()
        counted = running.feed.session.products["BTC-USD"].numbers["matches"].highest
        nursery.cancel_scope.cancel()
        outside.start_soon(read_to_the_end, running)

    assert counted == 2
    assert running.read == [match(1), match(2)]


async def test_a_feed_does_not_wait_for_a_broker_that_has_ended(
    autojump_clock, make_feed, exchange
):
    """After a bug in the pipe the process has to end, not to wait for a reader that has ended."""
    running = make_feed(inbox=1)
    streams, running.feed.dialer.open_stream = keep_streams(exchange)
    async with trio.open_nursery() as nursery:
        await nursery.start(running.run)
        line, _ = await exchange.subscribed()
        await line.send(ticker())
        await line.send(ticker(sequence=2))
        await wait_all_tasks_blocked()
        running.inbox.close()
        await wait_all_tasks_blocked()
        assert running.ended_by is None
        nursery.cancel_scope.cancel()

    running.inbox_ended = True
    await assert_all_closed(running, streams)


async def test_messages_after_a_gap_are_delivered_although_the_feed_is_cancelled(
    autojump_clock, make_feed, exchange
):
    """A drain ends the wait for the other line: the trades and a gap notice are delivered."""
    running = make_feed(channels=("matches",), lines=2, gap_patience_s=5)
    async with trio.open_nursery() as outside, trio.open_nursery() as nursery:
        await nursery.start(running.run)
        line, _ = await exchange.subscribed()
        await exchange.subscribed()
        await line.send(match(1), match(4))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        outside.start_soon(read_to_the_end, running)

    assert running.read == [match(1), match(4)]
    assert running.health.gaps == 1


async def test_a_feed_cancelled_in_the_middle_of_a_move_leaves_nothing_open(
    autojump_clock, make_feed, exchange
):
    """During a move two connections hold one product."""
    running = make_feed(channels=("matches",))
    streams, running.feed.dialer.open_stream = keep_streams(exchange)
    async with trio.open_nursery() as outside, trio.open_nursery() as nursery:
        await nursery.start(running.run)
        line, _ = await exchange.subscribed()
        await line.send(match(1))
        running.demand.want([Topic("full", "BTC-USD")])
        await exchange.subscribed()
        nursery.cancel_scope.cancel()
        outside.start_soon(read_to_the_end, running)

    assert len(streams) == 2
    assert running.read == [match(1)]
    await assert_all_closed(running, streams)
