"""Coinbase's dialect, byte for byte as in captures where these exist."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.domain.channel import (
    HEARTBEAT,
    LEVEL2_BATCH,
    MATCHES,
    STATUS,
    TICKER_BATCH,
    Topic,
)
from hedgehogd.domain.limits import PRODUCTS_PER_REQUEST_MAX
from hedgehogd.domain.message import Head, read_head
from hedgehogd.protocol import coinbase
from hedgehogd.protocol.commands import (
    NO_CHANNELS,
    SUBSCRIBE_FAILED,
    UNSUBSCRIBE_FAILED,
    CommandError,
    parse,
)
from tests.recordings import PRO, recording

ERRORS = [
    (
        coinbase.error(SUBSCRIBE_FAILED, coinbase.not_a_product("ETH-USD")),
        (
            b'{"type":"error","message":"Failed to subscribe",'
            b'"reason":"ETH-USD is not a valid product"}'
        ),
    ),
    (
        coinbase.error(UNSUBSCRIBE_FAILED, NO_CHANNELS),
        b'{"type":"error","message":"Failed to unsubscribe","reason":"No channels provided"}',
    ),
    (
        coinbase.error(SUBSCRIBE_FAILED, coinbase.no_products(HEARTBEAT)),
        (
            b'{"type":"error","message":"Failed to subscribe",'
            b'"reason":"You need to specify at least one product ID for channel heartbeat"}'
        ),
    ),
    (
        coinbase.error(SUBSCRIBE_FAILED, coinbase.no_products(LEVEL2_BATCH)),
        (
            b'{"type":"error","message":"Failed to subscribe",'
            b'"reason":"You need to specify at least one product ID for channel level2_50"}'
        ),
    ),
    (coinbase.error("Malformed JSON"), b'{"type":"error","message":"Malformed JSON"}'),
    (coinbase.error('"\n\0'), b'{"type":"error","message":"\\"\\n\\u0000"}'),
]


@pytest.mark.parametrize(("actual", "expected"), ERRORS)
def test_errors_have_the_texts_of_the_exchange(actual, expected):
    """Client libraries match these texts (COINBASE §6.16)."""
    assert expected == actual


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, b'{"type":"subscriptions","channels":[]}'),
        (  # a capture of 2026-08 (COINBASE §4)
            {LEVEL2_BATCH: ["BTC-USD"], MATCHES: ["BTC-USD"]},
            (
                b'{"type":"subscriptions","channels":['
                b'{"name":"level2_50","product_ids":["BTC-USD"],"account_ids":null},'
                b'{"name":"matches","product_ids":["BTC-USD"],"account_ids":null}]}'
            ),
        ),
        (
            {STATUS: [], TICKER_BATCH: dict.fromkeys(["ETH-USD", "BTC-USD"])},
            (
                b'{"type":"subscriptions","channels":['
                b'{"name":"status","product_ids":[],"account_ids":null},'
                b'{"name":"ticker_1000","product_ids":["ETH-USD","BTC-USD"],"account_ids":null}]}'
            ),
        ),
    ],
)
def test_an_acknowledgement_lists_all_subscriptions_by_canonical_name(state, expected):
    """Strictly typed clients fail on any other form."""
    assert expected == coinbase.subscriptions(state)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("ETH-USD is not a valid product", "ETH-USD"),
        ("LOOM-USDC is delisted", "LOOM-USDC"),
        (" is not a valid product", None),  # an empty id (COINBASE §3.1) is not a product
        ("", None),
        ("No channels provided", None),
        ("ticket is not a valid channel", None),
        ("The product ETH-USD is not a valid product", None),
        ("ETH-USD is not a valid product, nor is X", None),
        ("level2, level3, and full channels now require authentication. https://docs…", None),
    ],
)
def test_a_refusal_of_one_product_is_distinguished_from_other_errors(reason, expected):
    """A refusal concerns the product's subscribers, any other error the operator."""
    assert expected == coinbase.refused_product(Head("error", reason=reason))


def test_our_own_refusals_are_understood_by_the_next_relay():
    """Relays can be chained; the downstream relay must drop exactly the refused product."""
    head = read_head(coinbase.error(SUBSCRIBE_FAILED, coinbase.not_a_product("X-USD")))

    assert coinbase.refused_product(head) == "X-USD"


def test_a_real_match_becomes_a_last_match_by_its_type_only():
    """A late joiner gets it first; its prices keep the exchange's text."""
    matches = [
        line
        for line in recording(f"{PRO}/feed.jsonl").read_bytes().splitlines()
        if b'"match"' in line
    ]

    assert len(matches) == 97
    for match in matches:
        last = coinbase.last_match(match)

        assert json.loads(match) | {"type": "last_match"} == json.loads(last)
        assert len(match) + len("last_") == len(last)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"type":"last_match","trade_id":1}', b'{"type":"last_match","trade_id":1}'),
        (b'{"trade_id":1, "type" : "match"}', b'{"trade_id":1, "type":"last_match"}'),
        (b'{"type":"match","x":{"type":"match"}}', b'{"type":"last_match","x":{"type":"match"}}'),
    ],
)
def test_a_last_match_is_unchanged_and_white_space_is_allowed(payload, expected):
    """After a reconnect the newest trade is a ``last_match``."""
    assert expected == coinbase.last_match(payload)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"type":"last_match","trade_id":1}', b'{"type":"match","trade_id":1}'),
        (b'{"a":1, "type" : "last_match"}', b'{"a":1, "type":"match"}'),
        (b'{"type":"match"}', b'{"type":"match"}'),
    ],
)
def test_a_last_match_becomes_the_original_match(payload, expected):
    """The two differ only in their type."""
    assert expected == coinbase.match_of(payload)


def products(count):
    return [f"P{number:05}-USD" for number in range(count)]


@pytest.mark.parametrize(
    ("topics", "expected"),
    [
        ([], []),
        ([("status", "")], [b'{"type":"subscribe","channels":[{"name":"status"}]}']),
        (
            [("level2", "BTC-USD"), ("ticker", "ETH-USD"), ("ticker", "BTC-USD"), ("status", "")],
            [
                (
                    b'{"type":"subscribe","channels":['
                    b'{"name":"status"},{"name":"ticker","product_ids":["BTC-USD","ETH-USD"]}]}'
                ),
                (b'{"type":"subscribe","channels":[{"name":"level2","product_ids":["BTC-USD"]}]}'),
            ],
        ),
        (
            [("level2_batch", "BTC-USD"), ("rfq_matches", "")],
            [
                (
                    b'{"type":"subscribe","channels":['
                    b'{"name":"level2_batch","product_ids":["BTC-USD"]},{"name":"rfq_matches"}]}'
                )
            ],
        ),
    ],
)
def test_requests_have_the_form_that_the_exchange_expects(topics, expected):
    """Equal topics give equal bytes, so that logs can be compared."""
    assert expected == coinbase.requests("subscribe", {Topic(*topic) for topic in topics})


@pytest.mark.parametrize(
    "count", [n + d for n in (0, 400, 800, 1200) for d in (-1, 0, 1) if n + d > 0]
)
@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
def test_requests_are_as_few_as_the_limit_allows(count, kind):
    """The exchange counts messages and limits their size (COINBASE §10)."""
    made = coinbase.requests(kind, [Topic("ticker", product) for product in products(count)])
    sizes = [len(channel["product_ids"]) for m in made for channel in json.loads(m)["channels"]]

    assert count == sum(sizes)
    assert -(-count // PRODUCTS_PER_REQUEST_MAX) == len(made)
    assert max(sizes) <= PRODUCTS_PER_REQUEST_MAX


held = st.dictionaries(
    st.sampled_from(["ticker", "matches", "heartbeat", "level2", "full"]),
    st.integers(min_value=1, max_value=900),
)


@settings(deadline=None, max_examples=30)
@given(held, st.booleans(), st.sampled_from(["subscribe", "unsubscribe"]))
def test_our_requests_are_parsed_to_the_same_topics(counts, has_status, kind):
    """Each topic is requested exactly once; the simulated exchange uses ``parse``."""
    topics = {Topic(channel, p) for channel, count in counts.items() for p in products(count)}
    if has_status:
        topics.add(Topic("status", ""))
    commands = [parse(request) for request in coinbase.requests(kind, topics)]
    requested = [
        request.channel.topic(product_id)
        for command in commands
        for request in command.requests
        for product_id in request.product_ids or ("",)
    ]

    assert sorted(topics) == sorted(requested)
    assert all(command.failure == f"Failed to {kind}" for command in commands)
    assert all(
        sum(len(request.product_ids) for request in command.requests) <= PRODUCTS_PER_REQUEST_MAX
        for command in commands
    )


@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
def test_channels_that_need_a_key_are_requested_separately_and_signed(kind):
    """A refused key must not affect other channels; each message has a new signature."""
    topics = [Topic(c, p) for c in ("full", "level3", "matches") for p in products(300)]
    stamps = iter("abc")
    made = coinbase.requests(kind, topics, lambda: {"timestamp": next(stamps)})
    messages = [json.loads(each) for each in made]

    assert [None, "a", "b"] == [message.get("timestamp") for message in messages]
    assert [["matches"], ["full", "level3"], ["level3"]] == [
        [channel["name"] for channel in message["channels"]] for message in messages
    ]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("ticket is not a valid channel", "ticket"),
        (" is not a valid channel", None),
        ("the ticket is not a valid channel", None),
        ("X-USD is not a valid product", None),
        ("user is private to one account and is not relayed", None),
    ],
)
def test_a_refusal_of_a_channel_is_distinguished_from_other_errors(reason, expected):
    """An exchange, or another relay, may have fewer channels than hedgehogd."""
    assert expected == coinbase.refused_channel(Head("error", reason=reason))


@pytest.mark.parametrize(
    ("message", "reason", "is_about_keys", "is_about_ours"),
    [
        (SUBSCRIBE_FAILED, "level2, level3, and full channels now require authentication. …", 1, 0),
        ("Authentication Failed", '{"message":"Invalid API Key"}', 1, 1),
        ("Sorry, you could not be authenticated: Bad Request", "invalid signature", 1, 1),
        (SUBSCRIBE_FAILED, "X-USD is not a valid product", 0, 0),
        (SUBSCRIBE_FAILED, NO_CHANNELS, 0, 0),
        ("", "", 0, 0),
    ],
)
def test_errors_about_keys_are_recognised(message, reason, is_about_keys, is_about_ours):
    """A missing key is a choice; a rejected key is an alarm (COINBASE §5, §6.16)."""
    head = Head("error", message=message, reason=reason)

    assert is_about_keys == coinbase.is_about_keys(head)
    assert is_about_ours == coinbase.is_about_our_key(head)


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ("[]", []),
        ('[{"name":"level2_50","product_ids":["A","B"],"account_ids":null}]',
         [("level2_batch", "A"), ("level2_batch", "B")]),
        ('[{"name":"ticker_1000","product_ids":["A"]}]', [("ticker_batch", "A")]),
        ('[{"name":"status","product_ids":[]}]', [("status", "")]),
        ('[{"name":"status"}]', [("status", "")]),
        ('[{"name":"rfq_matches","product_ids":null}]', [("rfq_matches", "")]),
        ('[{"name":"rfq_matches","product_ids":["A"]}]',
         [("rfq_matches", ""), ("rfq_matches", "A")]),
        ('[{"name":"ticker","product_ids":[]}]', []),
        ('[{"name":"user","product_ids":["A"]},{"product_ids":["A"]}]', []),
        ('[7,{"name":7},"ticker",{"name":"ticker","product_ids":[7,"A"]}]', [("ticker", "A")]),
    ],
)  # fmt: skip
def test_an_acknowledgement_is_read_with_every_name(channels, expected):
    """Topics that it does not list are requested again (COINBASE §4)."""
    payload = f'{{"type":"subscriptions","channels":{channels}}}'.encode()

    assert {Topic(*topic) for topic in expected} == coinbase.acknowledged(payload)


@pytest.mark.parametrize("channels", [b"7", b'"x"', b"{}", b"null"])
def test_an_invalid_acknowledgement_is_a_decode_error(channels):
    """The caller needs to handle one exception only."""
    with pytest.raises(msgspec.DecodeError):
        coinbase.acknowledged(b'{"type":"subscriptions","channels":%b}' % channels)


def test_an_acknowledgement_is_not_a_command():
    """An echo of our own acknowledgement must not cause a subscription."""
    with pytest.raises(CommandError):
        parse(coinbase.subscriptions({MATCHES: ["BTC-USD"]}))
