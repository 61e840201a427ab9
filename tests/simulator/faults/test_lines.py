"""Messages that are lost, late or sent twice: effect on the client, and the count."""

from itertools import pairwise

import pytest

from hedgehogd.simulator.faults import KINDS, Outgoing
from hedgehogd.simulator.faults.orders import FaultOrder
from tests.simulator.world import TWO, of_type, receive_all


def numbers(received):
    """Return the sequences of messages of ``full`` or ``level3``, in the order of arrival."""
    arrays = [int(m[2]) for m in received if isinstance(m, list)]
    return arrays or [
        m["sequence"] for m in received if m["type"] not in {"subscriptions", "level3"}
    ]


def missing(numbers):
    return sum(later - before - 1 for before, later in pairwise(numbers))


def trade_ids(received):
    return [m["trade_id"] for m in of_type(received, "last_match", "match")]


@pytest.mark.parametrize("channel", ["full", "level3"])
async def test_sequence_gap_loses_numbers_on_one_connection_only(world, autojump_clock, channel):
    """The other line still has them, so a relay may repair the gap from it."""
    exchange = world(rate=1)
    one, other = [await exchange.client(channel) for _ in range(2)]
    await receive_all(one, 0.5)
    exchange.faults.fire("sequence_gap", 4)
    assert exchange.faults.fired["sequence_gap"] == 0
    (first, _), (second, _) = await receive_all(one, 1), await receive_all(other, 0.1)

    assert sorted([missing(numbers(first)), missing(numbers(second))]) in ([0, 4], [0, 0])
    assert exchange.faults.fired == {"sequence_gap": 1}
    assert exchange.faults.armed("sequence_gap") == 0


async def test_a_sequence_gap_can_be_limited(world, autojump_clock):
    """To one product and one connection; the rest stays complete."""
    exchange = world()
    one, other = [
        await exchange.client("matches", product_ids=["BTC-USD", "ETH-USD"]) for _ in range(2)
    ]
    await receive_all(one, 0.5)
    exchange.faults.fire("sequence_gap", "2", "ETH-USD", client=2)
    (first, _), (second, _) = await receive_all(one, 4), await receive_all(other, 0.1)
    by_product = [
        missing(trade_ids([m for m in received if m.get("product_id") == product_id]))
        for received in (first, second)
        for product_id in ("BTC-USD", "ETH-USD")
    ]

    assert by_product == [0, 0, 0, 2]


async def test_trade_gap_loses_trades_on_all_channels_of_one_connection(world, autojump_clock):
    """A relay must find the gap by trade ids and fill it by REST."""
    exchange = world(rate=1, products=TWO[:1])
    client = await exchange.client("matches", "full", "level3")
    before, _ = await receive_all(client, 1)
    exchange.faults.fire("trade_gap", 3)
    after, _ = await receive_all(client, 3)
    received = [m for m in [*before, *after] if "last_match" not in str(m)]
    arrays = [m for m in received if isinstance(m, list)]
    objects = [m for m in received if isinstance(m, dict)]
    ids = trade_ids(objects)

    assert missing(sorted(set(ids))) == 3
    assert all(ids.count(each) == 2 for each in ids)
    assert len([m for m in arrays if m[0] == "match"]) == len(set(ids))
    assert exchange.faults.fired == {"trade_gap": 1}


async def test_trade_gap_everywhere_leaves_the_trades_only_in_rest(world, autojump_clock):
    """A second line does not help then."""
    exchange = world()
    one, other = [await exchange.client("matches") for _ in range(2)]
    before, _ = await receive_all(one, 1)
    exchange.faults.fire("trade_gap_everywhere", 2, "BTC-USD")
    (after, _), (second, _) = await receive_all(one, 3), await receive_all(other, 0.1)
    first, second = trade_ids([*before, *after]), trade_ids(second)
    _, page = await exchange.get("/products/BTC-USD/trades")
    listed = {trade["trade_id"] for trade in page}

    assert missing(first) == missing(second) == 2
    assert set(range(first[0] + 1, first[-1])) <= listed
    assert exchange.faults.fired == {"trade_gap_everywhere": 1}


async def test_duplicate_sends_a_numbered_message_twice(world, autojump_clock):
    """A feed delivers at least once, not exactly once."""
    exchange = world()
    client = await exchange.client("full")
    await receive_all(client, 0.5)
    exchange.faults.fire("duplicate")
    received = numbers((await receive_all(client, 0.5))[0])
    (again,) = [at for at in range(1, len(received)) if received[at] == received[at - 1]]

    assert missing(received[:again]) == missing(received[again:]) == 0
    assert exchange.faults.fired == {"duplicate": 1}


async def test_late_sends_a_numbered_message_after_later_ones(world, autojump_clock):
    """The order of messages is not guaranteed either (docs/COINBASE.md §7)."""
    exchange = world()
    client = await exchange.client("full")
    await receive_all(client, 0.5)
    exchange.faults.fire("late", 5)
    received = numbers((await receive_all(client, 0.5))[0])
    (at,) = [at for at in range(1, len(received)) if received[at] < received[at - 1]]

    assert received[at] == received[at - 1] - 5
    assert sorted(received) == list(range(min(received), max(received) + 1))
    assert exchange.faults.fired == {"late": 1}


async def test_ack_after_data_sends_data_first(world, autojump_clock):
    """The acknowledgement need not be the first message (docs/COINBASE.md §4)."""
    exchange = world()
    exchange.faults.fire("ack_after_data", 4, "BTC-USD")
    client = await exchange.client("matches", "heartbeat")
    received, _ = await receive_all(client, 5)

    assert [m["type"] for m in received].index("subscriptions") == 4
    assert exchange.faults.fired == {"ack_after_data": 1}


async def test_a_delayed_acknowledgement_never_comes_after_a_newer_one(world, autojump_clock):
    """It would report an outdated state."""
    exchange = world()
    exchange.faults.fire("ack_after_data", 1000)
    client = await exchange.client("heartbeat")
    await client.send("unsubscribe", ["heartbeat"])
    received, _ = await receive_all(client, 1)

    assert [len(m["channels"]) for m in of_type(received, "subscriptions")] == [1, 0]
    assert exchange.faults.fired == {}
    assert exchange.faults.armed("ack_after_data") == 0


async def test_quiet_product_stops_heartbeats_too_on_one_connection(world, autojump_clock):
    """Only the product's own silence reveals it; other products and connections continue."""
    exchange = world(rate=1)
    both = ["BTC-USD", "ETH-USD"]
    one, other = [await exchange.client("heartbeat", "matches", product_ids=both) for _ in range(2)]
    await receive_all(other, 1)
    await receive_all(one, 0.1)
    exchange.faults.fire("quiet_product", product_id="BTC-USD", client=1)
    (first, _), (second, _) = await receive_all(one, 5), await receive_all(other, 0.1)

    assert {m["product_id"] for m in of_type(first, "heartbeat", "match")} == {"ETH-USD"}
    assert {m["product_id"] for m in of_type(second, "heartbeat")} == set(both)
    assert exchange.faults.fired == {"quiet_product": 1}


async def test_a_fault_in_effect_on_a_connection_ends_with_it(world, autojump_clock):
    """The next connection must not be affected."""
    exchange = world()
    exchange.faults.fire("quiet_product")
    first = await exchange.client("heartbeat")
    await receive_all(first, 2)
    assert exchange.faults.armed("quiet_product") == 1
    await first.websocket.aclose()
    second = await exchange.client("heartbeat")
    received, _ = await receive_all(second, 2)

    assert exchange.faults.armed("quiet_product") == 0
    assert of_type(received, "heartbeat")


@pytest.mark.parametrize(
    ("channel", "payload", "sequence", "is_trade"),
    [
        ("full", b'{"type":"match","trade_id":1,"sequence":7,"time":"x"}', 7, True),
        ("full", b'{"price":"1","type":"open","sequence":8}', 8, False),
        ("matches", b'{"type":"last_match","trade_id":1,"sequence":7}', 7, False),
        ("level3", b'["match","BTC-USD","9","a","b","1","2","x"]', 9, True),
        ("level3", b'{"type":"level3","schema":{}}', None, False),
        ("level2", b'{"type":"l2update"}', None, False),
    ],
)
def test_numbers_and_trades_are_recognised_in_every_form(channel, payload, sequence, is_trade):
    """Otherwise a fault might affect the wrong messages and invalidate a test."""
    outgoing = Outgoing(channel, "BTC-USD", payload, payload)

    assert (outgoing.sequence, outgoing.is_trade) == (sequence, is_trade)


class Line:
    """A connection without behaviour."""

    def __init__(self, number):
        self.number = number


MATCH = b'{"type":"match","trade_id":1,"sequence":%d}'
ACK = b'{"type":"subscriptions","channels":[{"product_ids":["ETH-USD"]}]}'


@pytest.mark.parametrize(
    ("name", "first", "then"),
    [
        ("sequence_gap", None, ("matches", "BTC-USD", b'{"type":"last_match","sequence":1}')),
        ("sequence_gap", None, ("level3", "", b'{"type":"level3"}')),
        ("sequence_gap", ("full", "BTC-USD", MATCH % 1), ("full", "ETH-USD", MATCH % 2)),
        ("trade_gap", None, ("full", "BTC-USD", b'{"price":"1","type":"open","sequence":1}')),
        ("trade_gap", ("full", "BTC-USD", MATCH % 1), ("full", "ETH-USD", MATCH % 2)),
        ("duplicate", None, ("ticker", "BTC-USD", b"{}")),
        ("duplicate", None, ("level2", "BTC-USD", b'{"sequence":1}')),
        ("late", None, ("matches", "BTC-USD", b'{"type":"last_match","sequence":1}')),
        ("late", ("full", "BTC-USD", MATCH % 1), ("", "", ACK)),
        ("ack_after_data", None, ("heartbeat", "BTC-USD", b"{}")),
        ("quiet_product", ("full", "BTC-USD", MATCH % 1), ("full", "ETH-USD", MATCH % 2)),
        ("quiet_product", None, ("status", "", b"{}")),
        ("year_one", None, ("level2", "BTC-USD", b'{"type":"snapshot"}')),
        ("malformed_amount", None, ("level2", "BTC-USD", b'{"type":"snapshot","asks":[]}')),
        ("unknown_type", None, ("", "", ACK)),
        ("reset", None, ("", "", ACK)),
    ],
)
def test_a_message_that_does_not_match_passes_unchanged(name, first, then):
    """Otherwise a test would expect an effect where listed is none."""
    fired = []
    order = FaultOrder(name, 2 if name == "sequence_gap" else 1, None, None, None, fired.append)
    fault, line = KINDS[name].make(order), Line(1)
    order.fired = lambda: fired.append(name)
    if first is not None:
        fault.apply(line, Outgoing(*first, b""))
    before, outgoing = len(fired), Outgoing(*then, b"")

    assert list(fault.apply(line, outgoing)) == [outgoing]
    assert len(fired) == before


def test_an_acknowledgement_matches_by_the_products_that_it_lists():
    """It has no product of its own, but it names some."""
    order = FaultOrder("ack_after_data", 1, "BTC-USD", None, None, lambda: None)
    fault, line = KINDS["ack_after_data"].make(order), Line(1)
    other, wanted = Outgoing("", "", ACK, b""), Outgoing("", "", ACK.replace(b"ETH", b"BTC"), b"")

    assert list(fault.apply(line, other)) == [other]
    assert list(fault.apply(line, wanted)) == []
