"""Arming faults, and counting what they really did."""

import pytest
import trio
from trio_websocket import ConnectionClosed, HandshakeError, wrap_client_stream

from hedgehogd.simulator.faults import KINDS, FaultError
from hedgehogd.simulator.faults.board import ARMED_MAX
from tests.simulator.conftest import Talk
from tests.simulator.world import TWO, hear_all, numbers_of


async def test_nothing_goes_wrong_by_itself(world, autojump_clock):
    """A demo without faults is one without faults."""
    here = world(rate=1)
    client = await here.client("full", "level2", "ticker", "matches", "heartbeat")
    assert not here.faults.watches_lines
    heard, is_open = await hear_all(client, 3)
    numbers = numbers_of(heard)

    assert is_open
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert here.faults.fired == {}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nothing",), "no fault 'nothing'"),
        (("trade_gap", 0), "found '0', expected a whole number"),
        (("trade_gap", 1, "NO-USD"), "fault trade_gap: there is no product 'NO-USD'"),
        (("trade_gap", 1, None, 7), "fault trade_gap: there is no connection 7"),
    ],
)
async def test_what_cannot_be_armed_is_refused_at_once(world, autojump_clock, arguments, says):
    """Not when it fails to strike."""
    here = world()
    with pytest.raises(FaultError, match=says):
        here.faults.fire(*arguments)

    assert not here.faults.watches_lines


async def test_faults_that_meet_nothing_do_not_pile_up_for_ever(world, autojump_clock):
    """Everything has a limit."""
    faults = world().faults
    for _ in range(ARMED_MAX):
        faults.fire("binary")
    with pytest.raises(FaultError, match="1000 are armed and have met nothing yet"):
        faults.fire("binary")

    assert faults.armed("binary") == ARMED_MAX
    assert faults.fired == {}


async def test_two_faults_can_strike_one_message(world, autojump_clock):
    """In the order in which they were armed: first doubled, then one of the two lost."""
    here = world()
    client = await here.client("full")
    await hear_all(client, 0.5)
    here.faults.fire("duplicate")
    here.faults.fire("sequence_gap")
    heard, _ = await hear_all(client, 0.5)
    numbers = numbers_of(heard)

    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert here.faults.fired == {"duplicate": 1, "sequence_gap": 1}


async def test_recurring_faults_recur_the_same_way_for_a_seed(world, autojump_clock):
    """``--fault``; a soak that found something must find it again."""

    async def times(seed):
        here, struck = world(rate=0.01, products=TWO[:1]), []
        client = await here.client("heartbeat")
        begin = trio.current_time()
        here.nursery.start_soon(here.faults.run, [("unknown_type", None), ("binary", "")], seed)
        with trio.move_on_after(40):
            while True:
                message = await client.websocket.get_message()
                if isinstance(message, bytes) or "surprise" in message:
                    struck.append((type(message), round(trio.current_time() - begin)))
        assert here.faults.fired["unknown_type"] in range(2, 8)
        assert here.faults.fired["binary"] in range(1, 3)
        return struck

    first, again, other = [await times(seed) for seed in (1, 1, 2)]

    assert first == again != other


async def test_a_recurring_fault_that_cannot_be_is_refused_at_the_start(world, autojump_clock):
    """Not after a minute."""
    faults = world().faults
    with pytest.raises(ExceptionGroup) as caught:
        await faults.run([("late", "x")], 1)

    assert caught.group_contains(FaultError, match="found 'x'")


async def test_one_that_waits_is_not_armed_again(world, autojump_clock):
    """Otherwise an hour without a client would end in a storm."""
    here = world(rate=0.1)
    here.nursery.start_soon(here.faults.run, [("duplicate", None)], 1)
    await trio.sleep(30)

    assert here.faults.armed("duplicate") == 1


async def test_every_fault_strikes_a_client_that_comes_again(world, autojump_clock):
    """The campaign in small: all of them, one after the other, and the exchange lives on."""
    here = world(rate=0.25)
    both = ["BTC-USD", "ETH-USD"]
    channels = ["full", "level2_batch", "matches", "heartbeat"]

    async def come_again():
        while True:
            try:
                async with trio.open_nursery() as nursery:
                    stream = here.stream()
                    websocket = await wrap_client_stream(nursery, stream, "x", "/")
                    await Talk(websocket).say(channels=channels, product_ids=both)
                    while True:
                        await websocket.get_message()
            except* (ConnectionClosed, HandshakeError, trio.BrokenResourceError):
                await trio.sleep(0.1)

    async def ask():
        while True:
            await here.get("/products/BTC-USD/trades")
            await trio.sleep(1)

    here.nursery.start_soon(come_again)
    here.nursery.start_soon(ask)
    soon_over = {"silence": 1, "slow_drip": 2000, "big_snapshot": 50_000, "rest_slow": 0.5}
    for name in KINDS:
        await trio.sleep(0.5)
        here.faults.fire(name, soon_over.get(name))
        if here.faults.armed(name):
            here.faults.fire("close")  # so that whoever waits for a handshake meets one
        with trio.fail_after(60):
            while not here.faults.fired[name]:
                await trio.sleep(0.1)

    assert set(here.faults.fired) == set(KINDS)


async def test_what_nobody_will_see_cannot_be_spoilt(world, autojump_clock):
    """A connection that is being closed still has topics for a moment."""
    here = world()
    client = await here.client("full")
    await hear_all(client, 0.5)
    here.faults.fire("close")
    here.faults.fire("reset")
    await hear_all(client, 3)

    assert here.faults.fired == {"close": 1}
    assert here.faults.armed("reset") == 1
