"""Order events: ``full`` and ``level3`` messages are parsed to the same events."""

import json
from collections import Counter

import pytest

from hedgehogd.domain.message import BadMessage
from hedgehogd.domain.order_event import OrderEvent, from_full, from_level3
from tests.recordings import FULL, recording

TIME = "2023-03-28T23:24:03.185394Z"


def full(type_, **fields):
    return json.dumps({"type": type_, "product_id": "BTC-USD", "time": TIME, **fields}).encode()


def level3(type_, *fields):
    return json.dumps([type_, "BTC-USD", "80", *fields, TIME]).encode()


OPEN = OrderEvent("open", 80, "a", "sell", "31572.35", "0.23")
MATCH = OrderEvent("match", 80, "a", size="0.5")
MOVE = OrderEvent("change", 80, "a", price="8", size="2")
DONE = OrderEvent("done", 80, "a")
NOOP = OrderEvent("noop", 80)
MATCH_FIELDS = {"maker_order_id": "a", "taker_order_id": "b", "side": "buy", "price": "9"}

CHANGED = OrderEvent("change", 80, "a", "", "8", "2.50")
UNREADABLE = OrderEvent("unreadable", 80)


@pytest.mark.parametrize(
    ("payload", "event"),
    [
        (full("received", sequence=80, order_id="a", order_type="market", funds="3"), NOOP),
        (full("open", sequence=80, order_id="a", side="sell", price="31572.35",
              remaining_size="0.23"), OPEN),
        (full("match", sequence=80, trade_id=1, size="0.5", **MATCH_FIELDS), MATCH),
        (full("change", sequence=80, order_id="a", reason="STP", side="sell", price="9",
              old_size="3", new_size="2"), MOVE._replace(price="")),
        (full("change", sequence=80, order_id="a", reason="modify_order", side="sell",
              old_size="3", new_size="2", old_price="9", new_price="8"), MOVE),
        (full("change", sequence=80, order_id="a", side="sell", price=None, old_funds="3",
              new_funds="2"), NOOP),
        (full("done", sequence=80, order_id="a", reason="filled", price=None), DONE),
        (full("open", sequence=80), OrderEvent("open", 80)),
        (full("match", sequence=80), OrderEvent("match", 80)),
        (full("last_match", sequence=80, size="0.5", **MATCH_FIELDS), None),
        (full("heartbeat", sequence=80, last_trade_id=7), None),
        (b'{"type":"activate","timestamp":"1483736448.299000","order_id":"a"}', None),
        (b'{"type":"subscriptions","channels":[]}', None),
    ],
)  # fmt: skip
def test_a_message_of_full_is_parsed_to_its_event(payload, event):
    """The cases have one message per kind, and messages that are not engine events."""
    assert event == from_full(payload)


@pytest.mark.parametrize(
    ("payload", "event"),
    [
        (level3("open", "a", "sell", "31572.35", "0.23"), OPEN),
        (level3("match", "a", "b", "9", "0.5"), MATCH),
        (level3("change", "a", "8", "2"), MOVE),
        (level3("done", "a"), DONE),
        (level3("noop"), NOOP),
        (level3("noop", "more", "than", "today"), NOOP),
        (b'{"type":"level3","schema":{}}', None),
    ],
)
def test_a_message_of_level3_is_parsed_to_its_event(payload, event):
    """The cases have one message per kind of the schema (COINBASE §6.13)."""
    assert event == from_level3(payload)


def test_the_recorded_messages_are_events():
    """23 messages of 2017 are parsed in spite of their older fields."""
    lines = recording(f"{FULL}/feed.jsonl").read_bytes().splitlines()
    kinds = Counter(event.kind if event else None for event in map(from_full, lines))

    assert {"done": 8, "noop": 7, "open": 7, None: 1} == kinds


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff", b"[" * 100_000, full("open"), full("done", sequence=-1),
     full("open", sequence=1.5), full("done", sequence="80")],
    ids=lambda payload: payload[:30],
)  # fmt: skip
def test_an_invalid_message_of_full_is_refused(payload):
    """Every fault raises the same kind of error."""
    with pytest.raises(BadMessage):
        from_full(payload)


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"7", b"\xff", b"[" * 100_000, b'["noop","A-B","x","t"]',
     b'["noop","A-B","-1","t"]', '["noop","A-B","²","t"]'.encode(), b'["noop",null,"1","t"]',
     b'["noop","A-B","' + b"1" * 5000 + b'","t"]', b'["noop","A-B",' + b"[" * 100_000],
    ids=lambda payload: payload[:30],
)  # fmt: skip
def test_an_invalid_message_of_level3_is_refused(payload):
    """Every fault raises the same kind of error."""
    with pytest.raises(BadMessage):
        from_level3(payload)


@pytest.mark.parametrize(
    ("payload", "event"),
    [
        (full("open", sequence=80, order_id="a", side="sell", price=1.5, remaining_size=7),
         OrderEvent("open", 80, "a", "sell", "1.5", "7")),
        (full("open", sequence=80, order_id="a", side=None, price="1"),
         OrderEvent("open", 80, "a", "", "1")),
        (full("match", sequence=80, maker_order_id=["a"], size="1"), UNREADABLE),
        (full("received", sequence=80, price=True), UNREADABLE),
        (b'{"type":"heartbeat","price":5}', None),
        (b"[]", None),
        (b'["change","A-B",80,"a",8,2.50,"t",null]', CHANGED),
        (b'["noop","A-B","80"]', UNREADABLE),
        (b'["received","A-B","80","a","t"]', UNREADABLE),
        (b'["open","A-B","80","a","buy",null,"1","t"]', UNREADABLE),
    ],
)  # fmt: skip
def test_json_numbers_are_read_and_an_unreadable_event_has_a_sequence(payload, event):
    """Only the order of such an event is lost; the next event follows without a gap."""
    assert event == (from_level3 if payload[:2] == b'["' else from_full)(payload)
