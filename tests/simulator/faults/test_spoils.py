"""Messages that are wrong: effect on the client, and the count."""

import json
from decimal import Decimal

import pytest
from trio_websocket import ConnectionClosed

from tests.simulator.peers import SUBSCRIBE, UPGRADE, masked
from tests.simulator.world import of_type, receive_all


def books(messages):
    """Return the levels as a trusting client would hold them, and the errors found."""
    sides, errors = {}, []
    for m in of_type(messages, "snapshot", "l2update"):
        if m["type"] == "snapshot":
            sides = {
                "buy": {Decimal(price): size for price, size in m["bids"]},
                "sell": {Decimal(price): size for price, size in m["asks"]},
            }
        for side, price, size in m.get("changes", ()):
            if Decimal(size):
                sides[side][Decimal(price)] = size
            elif sides[side].pop(Decimal(price), None) is None:
                errors.append("bare removal")
        if max(sides["buy"]) >= min(sides["sell"]):
            errors.append("crossed")
    return sides, errors


async def around_fault(exchange, name, param=None, channel="level2"):
    """Return the messages of a client before and after it is affected by the fault."""
    client = await exchange.client(channel)
    before, _ = await receive_all(client, 0.3)
    exchange.faults.fire(name, param, "BTC-USD")
    assert exchange.faults.fired == {}
    after, is_open = await receive_all(client, 0.3)
    assert exchange.faults.fired == {name: 1}
    return before, after, is_open


async def test_without_a_fault_there_are_no_errors(world, autojump_clock):
    """Otherwise the tests below would prove nothing."""
    client = await world().client("level2")
    assert books((await receive_all(client, 0.6))[0])[1] == []


@pytest.mark.parametrize("channel", ["level2", "level2_batch"])
async def test_year_one_is_the_time_of_one_update(world, autojump_clock, channel):
    """Real updates had this time (docs/COINBASE.md §6.6)."""
    _, after, _ = await around_fault(world(), "year_one", channel=channel)
    times = [m["time"] for m in of_type(after, "l2update")]

    assert times.count("0001-01-01T00:00:00.000000Z") == 1


async def test_malformed_amount_is_a_size_that_is_no_number(world, autojump_clock):
    """A relay must pass it on and must not crash (docs/COINBASE.md §6.6)."""
    _, after, is_open = await around_fault(world(), "malformed_amount")
    sizes = [size for m in of_type(after, "l2update") for _, _, size in m["changes"]]

    assert sizes.count("0.-10000") == 1
    assert is_open


async def test_malformed_amount_can_be_in_a_snapshot(world, autojump_clock):
    """The real one was in a snapshot."""
    exchange = world()
    exchange.faults.fire("malformed_amount")
    client = await exchange.client("level2_batch")
    (snapshot,) = of_type((await receive_all(client, 0.01))[0], "snapshot")

    assert snapshot["asks"][0][1] == "0.-10000"


@pytest.mark.parametrize(
    ("name", "error"), [("crossed_book", "crossed"), ("bare_removal", "bare removal")]
)
@pytest.mark.parametrize("channel", ["level2", "level2_batch"])
async def test_a_book_that_applies_the_false_update_is_wrong(
    world, autojump_clock, name, error, channel
):
    """Clients depend on correct updates (docs/COINBASE.md §6.6)."""
    before, after, _ = await around_fault(world(), name, channel=channel)

    assert set(books([*before, *after])[1]) == {error}


@pytest.mark.parametrize(
    ("name", "param", "text"),
    [
        ("garbage", None, "<html>502 Bad Gateway</html>"),
        ("unknown_type", None, '{"type":"surprise","product_id":"BTC-USD"}'),
        ("binary", None, b"\x00\x01\x02\x03"),
    ],
)
async def test_an_additional_invalid_message_replaces_none(
    world, autojump_clock, name, param, text
):
    """A client that ignores it misses nothing."""
    exchange = world()
    client = await exchange.client("full")
    await receive_all(client, 0.3)
    exchange.faults.fire(name, param)
    raw = [await client.websocket.get_message() for _ in range(20)]
    messages = [json.loads(m)["sequence"] for m in raw if m != text and '"sequence"' in m]

    assert raw.count(text) == 1
    assert messages == list(range(messages[0], messages[0] + 19))
    assert exchange.faults.fired == {name: 1}


async def test_garbage_can_be_half_a_message(world, autojump_clock):
    """Then the message itself is lost."""
    exchange = world()
    client = await exchange.client("full")
    await receive_all(client, 0.3)
    exchange.faults.fire("garbage", "truncated")
    half = await client.websocket.get_message()
    after = json.loads(await client.websocket.get_message())

    assert half.startswith('{"')
    with pytest.raises(json.JSONDecodeError):
        json.loads(half)
    assert '"sequence":' not in half or f'"sequence":{after["sequence"] - 1}' not in half
    assert exchange.faults.fired == {"garbage": 1}


async def test_bad_frame_is_refused_by_every_library(world, autojump_clock):
    """RSV bits without a negotiated extension: the client must fail the connection."""
    exchange = world()
    client = await exchange.client("heartbeat")
    exchange.faults.fire("bad_frame")
    with pytest.raises(ConnectionClosed):
        while True:
            await client.websocket.get_message()

    assert exchange.faults.fired == {"bad_frame": 1}


async def test_bad_frame_is_a_text_frame_with_a_reserved_bit(world, autojump_clock):
    """Checked on the wire, byte for byte."""
    exchange = world()
    stream = exchange.stream()
    await stream.send_all(UPGRADE)
    await stream.receive_some()
    exchange.faults.fire("bad_frame")
    await stream.send_all(masked(0x1, json.dumps(SUBSCRIBE).encode()))
    data = b""
    while b'{"type":"snapshot"' not in data:
        data += await stream.receive_some()
    at = data.index(b'{"type":"snapshot"')

    assert data[at - 4] == 0xC1
