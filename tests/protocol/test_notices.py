"""Notices: hedgehogd's own messages, byte for byte, distinct from Coinbase's."""

import json

import pytest

from hedgehogd.arbitration.connection_state import DATA_TYPES
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.gap import Gap
from hedgehogd.protocol import notices

BTC, ETH = Topic("matches", "BTC-USD"), Topic("ticker", "ETH-USD")

NOTICES = {
    "session": (
        notices.session("1.q3Zk", 1),
        b'{"type":"session","session":"1.q3Zk","instance":1}',
    ),
    "gap": (
        notices.gap(BTC, Gap(8, 9)),
        (
            b'{"type":"gap","channel":"matches","product_id":"BTC-USD",'
            b'"first_trade_id":8,"last_trade_id":9}'
        ),
    ),
    "gap in sequences": (
        notices.gap(Topic("full", "BTC-USD"), Gap(8, 9)),
        (
            b'{"type":"gap","channel":"full","product_id":"BTC-USD",'
            b'"first_sequence":8,"last_sequence":9}'
        ),
    ),
    "lost": (
        notices.lost(BTC, 8, 9),
        (
            b'{"type":"gap","channel":"matches","product_id":"BTC-USD",'
            b'"first_sequence":8,"last_sequence":9}'
        ),
    ),
    "lost, with unknown bounds": (
        notices.lost(BTC, None, None),
        (
            b'{"type":"gap","channel":"matches","product_id":"BTC-USD",'
            b'"first_sequence":null,"last_sequence":null}'
        ),
    ),
    "resumed": (
        notices.resumed([ETH, BTC], 7),
        b'{"type":"resumed","topics":["matches:BTC-USD","ticker:ETH-USD"],"messages":7}',
    ),
    "backfilled": (
        notices.backfilled("BTC-USD", [{"trade_id": 8, "price": "1.0"}]),
        b'{"type":"backfilled","product_id":"BTC-USD","trades":[{"trade_id":8,"price":"1.0"}]}',
    ),
    "stale products": (
        notices.stale(is_stale=True, reason="no heartbeat", product_ids=["ETH-USD", "BTC-USD"]),
        (
            b'{"type":"stale","stale":true,"reason":"no heartbeat",'
            b'"product_ids":["BTC-USD","ETH-USD"]}'
        ),
    ),
    "stale": (
        notices.stale(is_stale=True, reason="silent: no byte for 10.0 s"),
        b'{"type":"stale","stale":true,"reason":"silent: no byte for 10.0 s"}',
    ),
    "no longer stale": (
        notices.stale(is_stale=False, reason="the feed is back"),
        b'{"type":"stale","stale":false,"reason":"the feed is back"}',
    ),
    "skipped": (
        notices.skipped({ETH: 3, BTC: 4}),
        b'{"type":"skipped","messages":7,"topics":{"matches:BTC-USD":4,"ticker:ETH-USD":3}}',
    ),
    "closing": (
        notices.closing("restart", {BTC: 5, Topic("matches", "ETH-USD"): 6}, 1.0),
        (
            b'{"type":"closing","reason":"restart",'
            b'"position":{"matches":{"BTC-USD":5,"ETH-USD":6}},"retry_after_s":1.0}'
        ),
    ),
    "closing, nothing sent yet": (
        notices.closing("restart", {}, 0.5),
        b'{"type":"closing","reason":"restart","position":{},"retry_after_s":0.5}',
    ),
    "slow consumer": (
        notices.slow_consumer(4001, "4.0 MiB were waiting", {BTC: 5}),
        (
            b'{"type":"error","code":4001,"name":"slow_consumer","message":"4.0 MiB were waiting",'
            b'"position":{"matches":{"BTC-USD":5}}}'
        ),
    ),
    "a reason from outside": (
        notices.stale(is_stale=True, reason='closed: 1001 "go\n away" é\0'),
        '{"type":"stale","stale":true,"reason":"closed: 1001 \\"go\\n away\\" é\\u0000"}'.encode(),
    ),
}


@pytest.mark.parametrize(("actual", "expected"), NOTICES.values(), ids=NOTICES)
def test_a_notice_has_the_documented_bytes(actual, expected):
    """Clients parse notices; docs/PROTOCOL.md is their reference."""
    assert expected == actual


@pytest.mark.parametrize(("notice", "_"), NOTICES.values(), ids=NOTICES)
def test_a_notice_is_one_line_and_not_a_message_of_coinbase(notice, _):
    """A notice is sent between data, for example in SSE, and must be distinct from data."""
    assert b"\n" not in notice
    assert b"\r" not in notice
    assert json.loads(notice)["type"] not in DATA_TYPES


@pytest.mark.parametrize(
    ("channel", "first", "expected"),
    [
        ("matches", 9, {"first_trade_id": None, "last_trade_id": 8}),
        ("ticker", 9, {"first_sequence": None, "last_sequence": 8}),
        ("matches", 0, {"first_trade_id": None, "last_trade_id": None}),
    ],
)
def test_a_reset_of_the_numbers_is_a_gap_without_a_first_number(channel, first, expected):
    """The first missing number is unknown, and no number is below 0."""
    notice = json.loads(notices.restarted(Topic(channel, "BTC-USD"), first))

    assert expected.items() <= notice.items()
    assert "gap" == notice["type"]
