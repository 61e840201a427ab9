"""Messages that are lost, late or sent twice: what a client sees of it, and that it is counted."""

from itertools import pairwise

import pytest

from hedgehogd.simulator.faults import KINDS, Outgoing
from hedgehogd.simulator.faults.orders import FaultOrder
from tests.simulator.world import TWO, hear_all, of_type


def numbers(heard):
    """Return the sequences of what ``full`` or ``level3`` told, in the order of arrival."""
    arrays = [int(m[2]) for m in heard if isinstance(m, list)]
    return arrays or [m["sequence"] for m in heard if m["type"] not in {"subscriptions", "level3"}]


def holes(numbers):
    return sum(later - before - 1 for before, later in pairwise(numbers))


def trade_ids(heard):
    return [m["trade_id"] for m in of_type(heard, "last_match", "match")]


@pytest.mark.parametrize("channel", ["full", "level3"])
async def test_sequence_gap_loses_numbers_on_one_connection_only(world, autojump_clock, channel):
    """The other line still has them: that is what a relay may repair itself from."""
    here = world(rate=1)
    one, other = [await here.client(channel) for _ in range(2)]
    await hear_all(one, 0.5)
    here.faults.fire("sequence_gap", 4)
    assert here.faults.fired["sequence_gap"] == 0
    (first, _), (second, _) = await hear_all(one, 1), await hear_all(other, 0.1)

    assert sorted([holes(numbers(first)), holes(numbers(second))]) in ([0, 4], [0, 0])
    assert here.faults.fired == {"sequence_gap": 1}
    assert here.faults.armed("sequence_gap") == 0


async def test_sequence_gap_can_be_aimed(world, autojump_clock):
    """At one product and one connection; the rest stays whole."""
    here = world()
    one, other = [
        await here.client("matches", product_ids=["BTC-USD", "ETH-USD"]) for _ in range(2)
    ]
    await hear_all(one, 0.5)
    here.faults.fire("sequence_gap", "2", "ETH-USD", client=2)
    (first, _), (second, _) = await hear_all(one, 4), await hear_all(other, 0.1)
    by_product = [
        holes(trade_ids([m for m in heard if m.get("product_id") == product_id]))
        for heard in (first, second)
        for product_id in ("BTC-USD", "ETH-USD")
    ]

    assert by_product == [0, 0, 0, 2]


async def test_trade_gap_loses_trades_on_all_channels_of_one_connection(world, autojump_clock):
    """A relay must find the hole by trade ids and fill it by REST."""
    here = world(rate=1, products=TWO[:1])
    client = await here.client("matches", "full", "level3")
    before, _ = await hear_all(client, 1)
    here.faults.fire("trade_gap", 3)
    after, _ = await hear_all(client, 3)
    heard = [m for m in [*before, *after] if "last_match" not in str(m)]
    arrays = [m for m in heard if isinstance(m, list)]
    objects = [m for m in heard if isinstance(m, dict)]
    ids = trade_ids(objects)

    assert holes(sorted(set(ids))) == 3
    assert all(ids.count(each) == 2 for each in ids)
    assert len([m for m in arrays if m[0] == "match"]) == len(set(ids))
    assert here.faults.fired == {"trade_gap": 1}


async def test_trade_gap_everywhere_leaves_them_to_rest(world, autojump_clock):
    """Two lines do not help then."""
    here = world()
    one, other = [await here.client("matches") for _ in range(2)]
    before, _ = await hear_all(one, 1)
    here.faults.fire("trade_gap_everywhere", 2, "BTC-USD")
    (after, _), (second, _) = await hear_all(one, 3), await hear_all(other, 0.1)
    first, second = trade_ids([*before, *after]), trade_ids(second)
    _, page = await here.get("/products/BTC-USD/trades")
    there = {trade["trade_id"] for trade in page}

    assert holes(first) == holes(second) == 2
    assert set(range(first[0] + 1, first[-1])) <= there
    assert here.faults.fired == {"trade_gap_everywhere": 1}


async def test_duplicate_sends_a_numbered_message_twice(world, autojump_clock):
    """At least once is not exactly once."""
    here = world()
    client = await here.client("full")
    await hear_all(client, 0.5)
    here.faults.fire("duplicate")
    heard = numbers((await hear_all(client, 0.5))[0])
    (again,) = [at for at in range(1, len(heard)) if heard[at] == heard[at - 1]]

    assert holes(heard[:again]) == holes(heard[again:]) == 0
    assert here.faults.fired == {"duplicate": 1}


async def test_late_sends_a_numbered_message_after_later_ones(world, autojump_clock):
    """Order is not to be relied on either (FEED §7)."""
    here = world()
    client = await here.client("full")
    await hear_all(client, 0.5)
    here.faults.fire("late", 5)
    heard = numbers((await hear_all(client, 0.5))[0])
    (at,) = [at for at in range(1, len(heard)) if heard[at] < heard[at - 1]]

    assert heard[at] == heard[at - 1] - 5
    assert sorted(heard) == list(range(min(heard), max(heard) + 1))
    assert here.faults.fired == {"late": 1}


async def test_ack_after_data_lets_data_go_first(world, autojump_clock):
    """The acknowledgement is not the first message (FEED §4)."""
    here = world()
    here.faults.fire("ack_after_data", 4, "BTC-USD")
    client = await here.client("matches", "heartbeat")
    heard, _ = await hear_all(client, 5)

    assert [m["type"] for m in heard].index("subscriptions") == 4
    assert here.faults.fired == {"ack_after_data": 1}


async def test_a_held_acknowledgement_never_comes_after_a_newer_one(world, autojump_clock):
    """It would tell of a state that is over."""
    here = world()
    here.faults.fire("ack_after_data", 1000)
    client = await here.client("heartbeat")
    await client.say("unsubscribe", ["heartbeat"])
    heard, _ = await hear_all(client, 1)

    assert [len(m["channels"]) for m in of_type(heard, "subscriptions")] == [1, 0]
    assert here.faults.fired == {}
    assert here.faults.armed("ack_after_data") == 0


async def test_quiet_product_stops_heartbeats_too_on_one_connection(world, autojump_clock):
    """Only its own silence tells; the other products and connections go on."""
    here = world(rate=1)
    both = ["BTC-USD", "ETH-USD"]
    one, other = [await here.client("heartbeat", "matches", product_ids=both) for _ in range(2)]
    await hear_all(other, 1)
    await hear_all(one, 0.1)
    here.faults.fire("quiet_product", product_id="BTC-USD", client=1)
    (first, _), (second, _) = await hear_all(one, 5), await hear_all(other, 0.1)

    assert {m["product_id"] for m in of_type(first, "heartbeat", "match")} == {"ETH-USD"}
    assert {m["product_id"] for m in of_type(second, "heartbeat")} == set(both)
    assert here.faults.fired == {"quiet_product": 1}


async def test_what_is_at_work_on_a_connection_ends_with_it(world, autojump_clock):
    """The next connection is not to inherit it."""
    here = world()
    here.faults.fire("quiet_product")
    first = await here.client("heartbeat")
    await hear_all(first, 2)
    assert here.faults.armed("quiet_product") == 1
    await first.websocket.aclose()
    second = await here.client("heartbeat")
    heard, _ = await hear_all(second, 2)

    assert here.faults.armed("quiet_product") == 0
    assert of_type(heard, "heartbeat")


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
    """A fault that spoils something else than it says would make a test of nothing."""
    outgoing = Outgoing(channel, "BTC-USD", payload, payload)

    assert (outgoing.sequence, outgoing.is_trade) == (sequence, is_trade)


class Line:
    """A connection that nothing is done to."""

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
def test_what_does_not_suit_passes_untouched(name, first, then):
    """Or a test would look for a fault where there is none."""
    fired = []
    order = FaultOrder(name, 2 if name == "sequence_gap" else 1, None, None, None, fired.append)
    fault, line = KINDS[name].make(order), Line(1)
    order.fired = lambda: fired.append(name)
    if first is not None:
        fault.see(line, Outgoing(*first, b""))
    before, outgoing = len(fired), Outgoing(*then, b"")

    assert list(fault.see(line, outgoing)) == [outgoing]
    assert len(fired) == before


def test_an_acknowledgement_can_be_aimed_at_by_what_it_lists():
    """It is about no product, but it names some."""
    order = FaultOrder("ack_after_data", 1, "BTC-USD", None, None, lambda: None)
    fault, line = KINDS["ack_after_data"].make(order), Line(1)
    other, wanted = Outgoing("", "", ACK, b""), Outgoing("", "", ACK.replace(b"ETH", b"BTC"), b"")

    assert list(fault.see(line, other)) == [other]
    assert list(fault.see(line, wanted)) == []
