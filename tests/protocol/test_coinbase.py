"""Coinbase's dialect, byte for byte where a capture exists."""

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
def test_errors_are_worded_as_the_exchange_words_them(actual, expected):
    """Client libraries match these texts (FEED §6.16)."""
    assert expected == actual


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, b'{"type":"subscriptions","channels":[]}'),
        (  # a capture of 2026-08 (FEED §4)
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
def test_an_acknowledgement_states_everything_by_canonical_names(state, expected):
    """Strictly typed clients fail on anything else."""
    assert expected == coinbase.subscriptions(state)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("ETH-USD is not a valid product", "ETH-USD"),
        ("LOOM-USDC is delisted", "LOOM-USDC"),
        (" is not a valid product", None),  # an empty id (FEED §3.1) names nobody
        ("", None),
        ("No channels provided", None),
        ("ticket is not a valid channel", None),
        ("The product ETH-USD is not a valid product", None),
        ("ETH-USD is not a valid product, nor is X", None),
        ("level2, level3, and full channels now require authentication. https://docs…", None),
    ],
)
def test_a_refusal_of_one_product_is_told_from_other_complaints(reason, expected):
    """The one concerns who asked for it; the other is an alarm for the operator."""
    assert expected == coinbase.refused_product(Head("error", reason=reason))


def test_our_own_refusals_are_understood_by_the_next_relay():
    """Relays can be chained; the lower one must drop exactly the refused product."""
    head = read_head(coinbase.error(SUBSCRIBE_FAILED, coinbase.not_a_product("X-USD")))

    assert coinbase.refused_product(head) == "X-USD"


def test_a_real_match_becomes_a_last_match_in_its_type_alone():
    """A late joiner is greeted with it; prices stay the exchange's own text."""
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
def test_a_last_match_stays_and_spaces_do_not_matter(payload, expected):
    """A reconnection brings ``last_match`` as the latest trade there is."""
    assert expected == coinbase.last_match(payload)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"type":"last_match","trade_id":1}', b'{"type":"match","trade_id":1}'),
        (b'{"a":1, "type" : "last_match"}', b'{"a":1, "type":"match"}'),
        (b'{"type":"match"}', b'{"type":"match"}'),
    ],
)
def test_a_last_match_becomes_the_match_that_it_was(payload, expected):
    """The two differ in their type alone."""
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
def test_requests_are_made_as_the_exchange_reads_them(topics, expected):
    """Same wishes, same bytes: a log can be compared with a log."""
    assert expected == coinbase.requests("subscribe", {Topic(*topic) for topic in topics})


@pytest.mark.parametrize(
    "count", [n + d for n in (0, 400, 800, 1200) for d in (-1, 0, 1) if n + d > 0]
)
@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
def test_requests_are_the_fewest_that_keep_the_limit(count, kind):
    """The exchange counts messages and limits their size (FEED §10)."""
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
def test_what_we_ask_is_what_our_own_grammar_reads(counts, has_status, kind):
    """Each topic once, none too many, whatever is wanted: the simulator reads with ``parse``."""
    topics = {Topic(channel, p) for channel, count in counts.items() for p in products(count)}
    if has_status:
        topics.add(Topic("status", ""))
    commands = [parse(request) for request in coinbase.requests(kind, topics)]
    asked = [
        request.channel.topic(product_id)
        for command in commands
        for request in command.requests
        for product_id in request.product_ids or ("",)
    ]

    assert sorted(topics) == sorted(asked)
    assert all(command.failure == f"Failed to {kind}" for command in commands)
    assert all(
        sum(len(request.product_ids) for request in command.requests) <= PRODUCTS_PER_REQUEST_MAX
        for command in commands
    )


@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
def test_what_needs_a_key_is_asked_for_apart_and_signed(kind):
    """A refusal of the key must not void what needs none; each signature is a fresh one."""
    asked = [Topic(c, p) for c in ("full", "level3", "matches") for p in products(300)]
    stamps = iter("abc")
    made = coinbase.requests(kind, asked, lambda: {"timestamp": next(stamps)})
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
def test_a_refusal_of_a_channel_is_told_from_other_complaints(reason, expected):
    """An exchange, or another relay, may have fewer than we."""
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
def test_complaints_about_keys_are_understood(message, reason, is_about_keys, is_about_ours):
    """No key is a choice; a bad one is an alarm (FEED §5, §6.16)."""
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
def test_an_acknowledgement_is_read_by_every_name(channels, expected):
    """What it does not list is asked for anew (FEED §4)."""
    payload = f'{{"type":"subscriptions","channels":{channels}}}'.encode()

    assert {Topic(*topic) for topic in expected} == coinbase.acknowledged(payload)


@pytest.mark.parametrize("channels", [b"7", b'"x"', b"{}", b"null"])
def test_another_acknowledgement_is_one_kind_of_error(channels):
    """The caller has one thing to catch."""
    with pytest.raises(msgspec.DecodeError):
        coinbase.acknowledged(b'{"type":"subscriptions","channels":%b}' % channels)


def test_what_the_relay_answers_is_not_what_a_client_may_say():
    """An echo of our own acknowledgement must not subscribe anybody to anything."""
    with pytest.raises(CommandError):
        parse(coinbase.subscriptions({MATCHES: ["BTC-USD"]}))
