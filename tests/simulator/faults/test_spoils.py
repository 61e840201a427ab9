"""Messages that are not what they should be: what a client sees, and that it is counted."""

import json
from decimal import Decimal

import pytest
from trio_websocket import ConnectionClosed

from tests.simulator.peers import SUBSCRIBE, UPGRADE, masked
from tests.simulator.world import hear_all, of_type


def books(heard):
    """Return the levels as a client of good faith would hold them, and its complaints."""
    sides, complaints = {}, []
    for m in of_type(heard, "snapshot", "l2update"):
        if m["type"] == "snapshot":
            sides = {
                "buy": {Decimal(price): size for price, size in m["bids"]},
                "sell": {Decimal(price): size for price, size in m["asks"]},
            }
        for side, price, size in m.get("changes", ()):
            if Decimal(size):
                sides[side][Decimal(price)] = size
            elif sides[side].pop(Decimal(price), None) is None:
                complaints.append("bare removal")
        if max(sides["buy"]) >= min(sides["sell"]):
            complaints.append("crossed")
    return sides, complaints


async def heard_with(here, name, param=None, channel="level2"):
    """Return what a client hears that has the fault in the midst of it."""
    client = await here.client(channel)
    before, _ = await hear_all(client, 0.3)
    here.faults.fire(name, param, "BTC-USD")
    assert here.faults.fired == {}
    after, is_open = await hear_all(client, 0.3)
    assert here.faults.fired == {name: 1}
    return before, after, is_open


async def test_without_a_fault_there_is_nothing_to_complain_of(world, autojump_clock):
    """Or the tests below would prove nothing."""
    client = await world().client("level2")
    assert books((await hear_all(client, 0.6))[0])[1] == []


@pytest.mark.parametrize("channel", ["level2", "level2_batch"])
async def test_year_one_is_the_time_of_one_update(world, autojump_clock, channel):
    """Real ones said so (FEED §6.6)."""
    _, after, _ = await heard_with(world(), "year_one", channel=channel)
    times = [m["time"] for m in of_type(after, "l2update")]

    assert times.count("0001-01-01T00:00:00.000000Z") == 1


async def test_malformed_amount_is_a_size_that_is_no_number(world, autojump_clock):
    """A relay passes it on and does not crash (FEED §6.6)."""
    _, after, is_open = await heard_with(world(), "malformed_amount")
    sizes = [size for m in of_type(after, "l2update") for _, _, size in m["changes"]]

    assert sizes.count("0.-10000") == 1
    assert is_open


async def test_malformed_amount_can_be_in_a_snapshot(world, autojump_clock):
    """Where the real one was."""
    here = world()
    here.faults.fire("malformed_amount")
    client = await here.client("level2_batch")
    (snapshot,) = of_type((await hear_all(client, 0.01))[0], "snapshot")

    assert snapshot["asks"][0][1] == "0.-10000"


@pytest.mark.parametrize(
    ("name", "complaint"), [("crossed_book", "crossed"), ("bare_removal", "bare removal")]
)
@pytest.mark.parametrize("channel", ["level2", "level2_batch"])
async def test_a_book_that_follows_the_lie_is_wrong(
    world, autojump_clock, name, complaint, channel
):
    """Clients depend on its not happening (FEED §6.6)."""
    before, after, _ = await heard_with(world(), name, channel=channel)

    assert set(books([*before, *after])[1]) == {complaint}


@pytest.mark.parametrize(
    ("name", "param", "text"),
    [
        ("garbage", None, "<html>502 Bad Gateway</html>"),
        ("unknown_type", None, '{"type":"surprise","product_id":"BTC-USD"}'),
        ("binary", None, b"\x00\x01\x02\x03"),
    ],
)
async def test_nonsense_beside_the_messages_takes_nothing_away(
    world, autojump_clock, name, param, text
):
    """Whoever passes over it has lost nothing."""
    here = world()
    client = await here.client("full")
    await hear_all(client, 0.3)
    here.faults.fire(name, param)
    raw = [await client.websocket.get_message() for _ in range(20)]
    messages = [json.loads(m)["sequence"] for m in raw if m != text and '"sequence"' in m]

    assert raw.count(text) == 1
    assert messages == list(range(messages[0], messages[0] + 19))
    assert here.faults.fired == {name: 1}


async def test_garbage_can_be_half_a_message(world, autojump_clock):
    """Then the message is lost."""
    here = world()
    client = await here.client("full")
    await hear_all(client, 0.3)
    here.faults.fire("garbage", "truncated")
    half = await client.websocket.get_message()
    after = json.loads(await client.websocket.get_message())

    assert half.startswith('{"')
    with pytest.raises(json.JSONDecodeError):
        json.loads(half)
    assert '"sequence":' not in half or f'"sequence":{after["sequence"] - 1}' not in half
    assert here.faults.fired == {"garbage": 1}


async def test_bad_frame_is_refused_by_every_library(world, autojump_clock):
    """RSV bits that nobody agreed on: the client must fail the connection."""
    here = world()
    client = await here.client("heartbeat")
    here.faults.fire("bad_frame")
    with pytest.raises(ConnectionClosed):
        while True:
            await client.websocket.get_message()

    assert here.faults.fired == {"bad_frame": 1}


async def test_bad_frame_is_a_text_frame_with_a_reserved_bit(world, autojump_clock):
    """On the wire, byte for byte."""
    here = world()
    stream = here.stream()
    await stream.send_all(UPGRADE)
    await stream.receive_some()
    here.faults.fire("bad_frame")
    await stream.send_all(masked(0x1, json.dumps(SUBSCRIBE).encode()))
    data = b""
    while b'{"type":"snapshot"' not in data:
        data += await stream.receive_some()
    at = data.index(b'{"type":"snapshot"')

    assert data[at - 4] == 0xC1
