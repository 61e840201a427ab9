"""Messages of level2_batch, made from level2: 50 ms of changes in one message."""

import json

import pytest
import trio

from hedgehogd.books.level2_batch import Level2Batch
from hedgehogd.domain.limits import LEVEL2_BATCH_S
from hedgehogd.engine.delivery import Delivery
from tests.fakes import make_message


@pytest.fixture
def producer(plumbing):
    return Level2Batch(plumbing.pipe.books)


async def change(plumbing, price, size):
    await plumbing.publish(make_message("level2", changes=[["buy", str(price), str(size)]]))


async def test_a_window_s_changes_are_one_message(plumbing, producer, nursery, autojump_clock):
    """A client of level2_batch receives fewer messages, at the end of 50 ms, and the same book."""
    send, inbox = trio.open_memory_channel(1)
    nursery.start_soon(plumbing.broker.run, inbox)
    nursery.start_soon(producer.run, send)
    _, member = plumbing.join("level2_batch")
    _, fine = plumbing.join("level2")
    times = []
    member.on_write = lambda chunk: times.append(trio.current_time() - begin)
    begin = trio.current_time()
    await plumbing.publish(make_message("level2", kind="snapshot", bids=[], asks=[]))
    for n in range(4):
        await change(plumbing, 100 + n % 2, n + 1)
    await trio.sleep(LEVEL2_BATCH_S * 1.5)
    await change(plumbing, 100, 0)
    await trio.sleep(LEVEL2_BATCH_S * 9)

    assert times == pytest.approx([0, LEVEL2_BATCH_S, 2 * LEVEL2_BATCH_S])
    assert [json.loads(m.payload)["changes"] for m in member.messages[1:]] == [
        [["buy", "100", "3"], ["buy", "101", "4"]],
        [["buy", "100", "0"]],
    ]
    assert len(fine.messages) == 6


async def test_without_subscribers_no_window_ends(plumbing, producer, nursery, autojump_clock):
    """It would be twenty deliveries a second for nothing."""
    send, inbox = trio.open_memory_channel(1)
    nursery.start_soon(producer.run, send)
    plumbing.join("level2")
    await plumbing.publish(make_message("level2", kind="snapshot", bids=[], asks=[]))
    await trio.sleep(1)
    with pytest.raises(trio.WouldBlock):
        inbox.receive_nowait()

    plumbing.join("level2_batch")
    assert await inbox.receive() == Delivery([], ends_window=True)


async def test_its_end_closes_the_inbox(producer, nursery):
    """The broker ends when the last producer has; this one must not hold it up."""
    send, inbox = trio.open_memory_channel(1)
    nursery.start_soon(producer.run, send)
    await trio.testing.wait_all_tasks_blocked()
    nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        assert [delivery async for delivery in inbox] == []
