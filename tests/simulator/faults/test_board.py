"""Arming faults, and counting those that had an effect."""

import pytest
import trio
from trio_websocket import ConnectionClosed, HandshakeError, wrap_client_stream

from hedgehogd.simulator.faults import KINDS, FaultError
from hedgehogd.simulator.faults.board import ARMED_MAX
from tests.simulator.conftest import Talk
from tests.simulator.world import TWO, numbers_of, receive_all


async def test_without_faults_nothing_is_wrong(world, autojump_clock):
    """A demo without faults must be correct."""
    exchange = world(rate=1)
    client = await exchange.client("full", "level2", "ticker", "matches", "heartbeat")
    assert not exchange.faults.watches_lines
    heard, is_open = await receive_all(client, 3)
    numbers = numbers_of(heard)

    assert is_open
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert exchange.faults.fired == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "no fault 'nothing'"),
        (("trade_gap", 0), "found '0', expected a whole number"),
        (("trade_gap", 1, "NO-USD"), "fault trade_gap: there is no product 'NO-USD'"),
        (("trade_gap", 1, None, 7), "fault trade_gap: there is no connection 7"),
    ],
)
async def test_an_invalid_fault_is_refused_at_once(world, autojump_clock, arguments, message):
    """Not only when it would take effect."""
    exchange = world()
    with pytest.raises(FaultError, match=message):
        exchange.faults.fire(*arguments)

    assert not exchange.faults.watches_lines


async def test_the_number_of_armed_faults_is_limited(world, autojump_clock):
    """Every queue has a limit."""
    faults = world().faults
    for _ in range(ARMED_MAX):
        faults.fire("binary")
    with pytest.raises(FaultError, match="1000 are armed and have not fired yet"):
        faults.fire("binary")

    assert faults.armed("binary") == ARMED_MAX
    assert faults.fired == {}


async def test_two_faults_can_apply_to_one_message(world, autojump_clock):
    """In the order of arming: first the message is doubled, then one copy is lost."""
    exchange = world()
    client = await exchange.client("full")
    await receive_all(client, 0.5)
    exchange.faults.fire("duplicate")
    exchange.faults.fire("sequence_gap")
    heard, _ = await receive_all(client, 0.5)
    numbers = numbers_of(heard)

    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert exchange.faults.fired == {"duplicate": 1, "sequence_gap": 1}


@pytest.mark.random
async def test_recurring_faults_recur_the_same_way_for_a_seed(world, autojump_clock):
    """``--fault``: a soak run that found a bug must reproduce it."""

    async def times(seed):
        exchange, effects = world(rate=0.01, products=TWO[:1]), []
        client = await exchange.client("heartbeat")
        begin = trio.current_time()
        exchange.nursery.start_soon(
            exchange.faults.run, [("unknown_type", None), ("binary", "")], seed
        )
        with trio.move_on_after(40):
            while True:
                message = await client.websocket.get_message()
                if isinstance(message, bytes) or "surprise" in message:
                    effects.append((type(message), round(trio.current_time() - begin)))
        assert exchange.faults.fired["unknown_type"] in range(2, 8)
        assert exchange.faults.fired["binary"] in range(1, 3)
        return effects

    first, again, other = [await times(seed) for seed in (1, 1, 2)]

    assert first == again != other


async def test_an_invalid_recurring_fault_is_refused_at_the_start(world, autojump_clock):
    """Not only after a minute."""
    faults = world().faults
    with pytest.raises(ExceptionGroup) as caught:
        await faults.run([("late", "x")], 1)

    assert caught.group_contains(FaultError, match="found 'x'")


async def test_an_armed_fault_is_not_armed_again(world, autojump_clock):
    """Otherwise an hour without a client would end with many faults at once."""
    exchange = world(rate=0.1)
    exchange.nursery.start_soon(exchange.faults.run, [("duplicate", None)], 1)
    await trio.sleep(30)

    assert exchange.faults.armed("duplicate") == 1


@pytest.mark.random
async def test_every_fault_takes_effect_on_a_client_that_reconnects(world, autojump_clock):
    """A small campaign: all faults, one after the other, and the exchange continues."""
    exchange = world(rate=0.25)
    both = ["BTC-USD", "ETH-USD"]
    channels = ["full", "level2_batch", "matches", "heartbeat"]

    async def reconnect():
        while True:
            try:
                async with trio.open_nursery() as nursery:
                    stream = exchange.stream()
                    websocket = await wrap_client_stream(nursery, stream, "x", "/")
                    await Talk(websocket).send(channels=channels, product_ids=both)
                    while True:
                        await websocket.get_message()
            except* (ConnectionClosed, HandshakeError, trio.BrokenResourceError):
                await trio.sleep(0.1)

    async def ask():
        while True:
            await exchange.get("/products/BTC-USD/trades")
            await trio.sleep(1)

    exchange.nursery.start_soon(reconnect)
    exchange.nursery.start_soon(ask)
    short = {"silence": 1, "slow_drip": 2000, "big_snapshot": 50_000, "rest_slow": 0.5}
    for name in KINDS:
        await trio.sleep(0.5)
        exchange.faults.fire(name, short.get(name))
        if exchange.faults.armed(name):
            exchange.faults.fire("close")  # a handshake follows, for faults that wait for one
        with trio.fail_after(60):
            while not exchange.faults.fired[name]:
                await trio.sleep(0.1)

    assert set(exchange.faults.fired) == set(KINDS)


async def test_a_message_that_is_not_sent_does_not_count(world, autojump_clock):
    """A connection that is being closed still has topics for a moment."""
    exchange = world()
    client = await exchange.client("full")
    await receive_all(client, 0.5)
    exchange.faults.fire("close")
    exchange.faults.fire("reset")
    await receive_all(client, 3)

    assert exchange.faults.fired == {"close": 1}
    assert exchange.faults.armed("reset") == 1
