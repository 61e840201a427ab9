"""Messages of ticker_batch: those of the ticker, at other times."""

import pytest
import trio

from hedgehogd.domain.limits import TICKER_BATCH_S
from hedgehogd.fanout.ticker_batch import TickerBatch
from tests.fakes import make_message


@pytest.fixture
def batch(plumbing):
    return TickerBatch(plumbing.pipe.hub, plumbing.pipe.latest)


def due(batch):
    return [(str(message.topic), message.sequence) for message in batch.due()]


async def test_the_newest_ticker_is_due_once_for_each_topic_in_demand(plumbing, batch):
    """A client of ticker_batch gets fewer messages, and the same bytes."""
    plumbing.join("ticker_batch", pairs=["BTC-USD", "ETH-USD", "XRP-USD"])
    plumbing.join("ticker", pairs=["SOL-USD"])
    tickers = [
        make_message("ticker", "BTC-USD", 1),
        make_message("ticker", "BTC-USD", 2),
        make_message("ticker", "ETH-USD", 3),
        make_message("ticker", "SOL-USD", 4),
    ]
    await plumbing.publish(*tickers)
    found = batch.due()
    found.sort(key=lambda message: message.topic)

    assert [str(m.topic) for m in found] == ["ticker_batch:BTC-USD", "ticker_batch:ETH-USD"]
    assert [(m.frame, m.payload, m.sequence) for m in found] == [
        (m.frame, m.payload, m.sequence) for m in tickers[1:3]
    ]


async def test_a_ticker_that_has_not_changed_is_not_due(plumbing, batch):
    """Also when a reconnection repeats it, or the exchange leaves its number out."""
    plumbing.join("ticker_batch")
    await plumbing.publish(make_message("ticker", price="1"))
    assert due(batch) == [("ticker_batch:BTC-USD", None)]

    await plumbing.publish(make_message("ticker", price="1"))
    assert due(batch) == []
    await plumbing.publish(make_message("ticker", price="2"))
    assert due(batch) == [("ticker_batch:BTC-USD", None)]


async def test_a_subscriber_after_all_had_left_gets_the_ticker(plumbing, batch):
    """Tickers sent to earlier subscribers do not count for a new one."""
    session, _ = plumbing.join("ticker_batch")
    await plumbing.publish(make_message("ticker", sequence=1))
    assert due(batch) == [("ticker_batch:BTC-USD", 1)]

    session.close()
    assert due(batch) == []
    plumbing.join("ticker_batch")
    assert due(batch) == [("ticker_batch:BTC-USD", 1)]


async def test_the_rate_is_at_most_one_message_in_five_seconds(
    plumbing, batch, nursery, autojump_clock
):
    """Coinbase promises it for the channel."""
    _, member = plumbing.join("ticker_batch")
    times = []
    member.on_write = lambda chunk: times.append(
        (trio.current_time(), member.messages[-1].sequence)
    )
    send, inbox = trio.open_memory_channel(1)
    nursery.start_soon(plumbing.broker.run, inbox)
    nursery.start_soon(batch.run, send)
    start = trio.current_time()
    for sequence in range(1, 5):
        await trio.sleep(TICKER_BATCH_S * 0.4)
        await plumbing.publish(make_message("ticker", sequence=sequence))
    await trio.sleep(TICKER_BATCH_S * 10)

    assert [(t - start, n) for t, n in times] == [(TICKER_BATCH_S, 2), (TICKER_BATCH_S * 2, 4)]


async def test_its_end_closes_the_inbox(plumbing, batch, nursery):
    """The broker ends when the last producer has; this one must not hold it up."""
    send, inbox = trio.open_memory_channel(1)
    nursery.start_soon(batch.run, send)
    await trio.testing.wait_all_tasks_blocked()
    nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        assert [delivery async for delivery in inbox] == []
