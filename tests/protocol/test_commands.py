"""Commands: clients' messages are parsed as Coinbase parses them (docs/COINBASE.md §3.1)."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.domain.channel import BY_ALIAS, CHANNELS, Topic
from hedgehogd.domain.errors import SubscriberError
from hedgehogd.domain.position import Start
from hedgehogd.protocol.commands import (
    DEFAULT_CHANNELS,
    ChannelRequest,
    Command,
    CommandError,
    channel_requests,
    drop_pair,
    parse,
)

BTC, ETH = "BTC-USD", "ETH-USD"
DEEP = '{"type":"subscribe","channels":' + "[" * 100_000


def subscribe(**keys):
    return json.dumps({"type": "subscribe", **keys})


def requests(*rows):
    return tuple(ChannelRequest(BY_ALIAS[name], tuple(ids), *policy) for name, ids, *policy in rows)


ACCEPTED = {
    "a name, products at the root": (
        {"channels": ["ticker"], "product_ids": [BTC]},
        requests(("ticker", [BTC])),
    ),
    "an object with its own products": (
        {"channels": [{"name": "ticker", "product_ids": [BTC]}]},
        requests(("ticker", [BTC])),
    ),
    "root and own together, each once": (  # the documentation's own example
        {
            "product_ids": [ETH, "ETH-EUR"],
            "channels": [
                "level2",
                "heartbeat",
                {"name": "ticker", "product_ids": ["ETH-BTC", ETH]},
            ],
        },
        requests(
            ("level2", [ETH, "ETH-EUR"]),
            ("heartbeat", [ETH, "ETH-EUR"]),
            ("ticker", [ETH, "ETH-EUR", "ETH-BTC"]),
        ),
    ),
    "repeated ids": (
        {"channels": ["ticker"], "product_ids": [BTC, ETH, BTC]},
        requests(("ticker", [BTC, ETH])),
    ),
    "a channel named twice": (
        {
            "channels": [
                {"name": "ticker", "product_ids": [BTC]},
                "ticker",
                {"name": "ticker", "product_ids": [ETH]},
            ]
        },
        requests(("ticker", [BTC, ETH])),
    ),
    "a channel by both of its names": (
        {"channels": ["ticker_batch", "ticker_1000"], "product_ids": [BTC]},
        requests(("ticker_batch", [BTC])),
    ),
    "two channels that share a topic": (
        {"channels": ["level2", "level2_batch"], "product_ids": [BTC]},
        requests(("level2", [BTC]), ("level2_batch", [BTC])),
    ),
    "no products at all": ({"channels": ["status"]}, requests(("status", []))),
    "products that are null": (
        {"channels": [{"name": "status", "product_ids": None}], "product_ids": None},
        requests(("status", [])),
    ),
    "products that are an empty text": (
        {"channels": ["status"], "product_ids": ""},
        requests(("status", [])),
    ),
    "all rfq_matches": (
        {"channels": [{"name": "rfq_matches", "product_ids": "ALL"}]},
        requests(("rfq_matches", [])),
    ),
    "all rfq_matches, at the root": (
        {"channels": ["rfq_matches"], "product_ids": "ALL"},
        requests(("rfq_matches", [])),
    ),
    "invalid ids are not checked here": (
        {"channels": ["ticker"], "product_ids": ["", "btc\0", "x" * 1000]},
        requests(("ticker", ["", "btc\0", "x" * 1000])),
    ),
    "keys for signing, as cbpro sends them": (
        {
            "channels": ["ticker"],
            "product_ids": [BTC],
            "signature": "c2ln",
            "key": "k",
            "passphrase": "p",
            "timestamp": "1700000000.123",
        },
        requests(("ticker", [BTC])),
    ),
    "keys for signing, empty, as coinbase-pro-node sends them": (
        {
            "channels": ["ticker"],
            "product_ids": [BTC],
            "signature": "",
            "key": "",
            "passphrase": "",
            "timestamp": 1795384488.5607824,
        },
        requests(("ticker", [BTC])),
    ),
    "unknown keys": (
        {"channels": [{"name": "ticker", "zoom": 7}], "product_ids": [BTC], "jwt": {"a": [1]}},
        requests(("ticker", [BTC])),
    ),
    "a policy": (
        {"channels": [{"name": "ticker", "product_ids": [BTC], "policy": "conflate"}]},
        requests(("ticker", [BTC], "conflate")),
    ),
    "a policy that is null": (
        {"channels": [{"name": "ticker", "product_ids": [BTC], "policy": None}]},
        requests(("ticker", [BTC])),
    ),
    "the last policy of one channel": (
        {
            "channels": [
                {"name": "ticker", "policy": "conflate"},
                {"name": "ticker", "policy": "close"},
                "ticker",
            ],
            "product_ids": [BTC],
        },
        requests(("ticker", [BTC], "close")),
    ),
}


@pytest.mark.parametrize(("keys", "expected"), ACCEPTED.values(), ids=ACCEPTED)
@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
def test_every_form_in_use_is_parsed(kind, keys, expected):
    """Coinbase clients must work unmodified, with another URL only."""
    command = Command(kind == "subscribe", expected)

    assert command == parse(json.dumps({"type": kind, **keys}))
    assert command == parse(json.dumps({**keys, "type": kind}, indent=1).encode())


@pytest.mark.parametrize(
    ("channels", "expected", "errors"),
    [
        (["ticket"], (), ("ticket is not a valid channel",)),
        (["ticker", "ticket"], requests(("ticker", [BTC])), ("ticket is not a valid channel",)),
        (
            ["a", {"name": "b", "product_ids": [ETH]}, "a", "ticker"],
            requests(("ticker", [BTC])),
            ("a is not a valid channel", "b is not a valid channel"),
        ),
        (["Ticker", ""], (), ("Ticker is not a valid channel", " is not a valid channel")),
        (["a\0b"], (), ("a\0b is not a valid channel",)),
        (
            ["full", "user", {"name": "balance", "account_ids": ["a"]}],
            requests(("full", [BTC])),
            (
                "user is private to one account and is not relayed",
                "balance is private to one account and is not relayed",
            ),
        ),
    ],
)
def test_an_unknown_channel_causes_one_error_and_no_other_effect(channels, expected, errors):
    """The valid channels are subscribed: first the error, then the answer (COINBASE §6.16)."""
    assert Command(True, expected, errors) == parse(subscribe(channels=channels, product_ids=[BTC]))


MALFORMED = ("Malformed JSON", "")
NO_OBJECT = ("Malformed message", "a message is a JSON object")
NO_TYPE = ("Type has to be either subscribe or unsubscribe", "")
NO_CHANNELS = ("Failed to subscribe", "No channels provided")
BAD_CHANNELS = ("Failed to subscribe", "channels is a list of names or objects")
BAD_CHANNEL = ("Failed to subscribe", "a channel is a name, or an object with a name")
BAD_PRODUCTS = ("Failed to subscribe", "product_ids is a list of strings")
BAD_SINCE = ("Failed to subscribe", "since is an object of products and their last sequence")
BAD_POLICY = ("Failed to subscribe", "policy is close or conflate")

REFUSED = [
    ("", MALFORMED),
    ("\0", MALFORMED),
    ("hello", MALFORMED),
    ('{"type":"subscribe"', MALFORMED),
    ("{'type':'subscribe'}", MALFORMED),
    (subscribe(channels=["ticker"]) + "\0", MALFORMED),
    (subscribe(channels=["ticker"]) * 2, MALFORMED),
    ('{"type":"subscribe","channels":["\0"]}', MALFORMED),
    ('{"type":"subscribe","channels":["\\ud800"]}', MALFORMED),
    ('{"type":"subscribe","channels":[NaN]}', MALFORMED),
    (b'{"type":"subscribe","channels":["\xff"]}', MALFORMED),
    ("\ud800", MALFORMED),
    (DEEP, MALFORMED),
    ('{"a":' * 100_000, MALFORMED),
    ("1" + "0" * 5000, MALFORMED),
    ("null", NO_OBJECT),
    ("7", NO_OBJECT),
    ('"subscribe"', NO_OBJECT),
    ("[]", NO_OBJECT),
    ('[{"type":"subscribe","channels":["ticker"]}]', NO_OBJECT),
    ("{}", NO_TYPE),
    ('{"type":null}', NO_TYPE),
    ('{"type":[]}', NO_TYPE),
    ('{"type":{"subscribe":1}}', NO_TYPE),
    ('{"type":"Subscribe","channels":["ticker"]}', NO_TYPE),
    ('{"type":"subscribe\\u0000","channels":["ticker"]}', NO_TYPE),
    ('{"type":"heartbeat","on":true}', NO_TYPE),  # 2016 to 2017
    # Before 2017-09 these subscribed to ``full``; since 2019 they are refused.
    (subscribe(product_ids=[BTC]), NO_CHANNELS),
    (subscribe(product_id=BTC), NO_CHANNELS),
    (subscribe(), NO_CHANNELS),
    (subscribe(channels=[]), NO_CHANNELS),
    (subscribe(channels=None), NO_CHANNELS),
    (subscribe(channels=""), NO_CHANNELS),
    ('{"type":"unsubscribe"}', ("Failed to unsubscribe", "No channels provided")),
    (subscribe(channels="ticker", product_ids=[BTC]), BAD_CHANNELS),
    (subscribe(channels={"name": "ticker"}), BAD_CHANNELS),
    (subscribe(channels=7), BAD_CHANNELS),
    (subscribe(channels=True), BAD_CHANNELS),
    (subscribe(channels=[7]), BAD_CHANNEL),
    (subscribe(channels=["ticker", None]), BAD_CHANNEL),
    (subscribe(channels=[["ticker"]]), BAD_CHANNEL),
    (subscribe(channels=[{}]), BAD_CHANNEL),
    (subscribe(channels=[{"name": None}]), BAD_CHANNEL),
    (subscribe(channels=[{"name": ["ticker"]}]), BAD_CHANNEL),
    (subscribe(channels=[{"channel": "ticker"}]), BAD_CHANNEL),
    (subscribe(channels=["ticker"], product_ids=BTC), BAD_PRODUCTS),
    (subscribe(channels=["ticker"], product_ids={BTC: 1}), BAD_PRODUCTS),
    (subscribe(channels=["ticker"], product_ids=7), BAD_PRODUCTS),
    (subscribe(channels=["ticker"], product_ids=False), BAD_PRODUCTS),
    (subscribe(channels=["ticker"], product_ids=[BTC, None]), BAD_PRODUCTS),
    (subscribe(channels=["ticker"], product_ids=[[BTC]]), BAD_PRODUCTS),
    (subscribe(channels=[{"name": "ticker", "product_ids": BTC}]), BAD_PRODUCTS),
    (subscribe(channels=[{"name": "ticker", "policy": "drop"}]), BAD_POLICY),
    (subscribe(channels=[{"name": "ticker", "policy": []}]), BAD_POLICY),
    (subscribe(channels=[{"name": "ticker", "since": 7}]), BAD_SINCE),
    (subscribe(channels=[{"name": "ticker", "since": [BTC]}]), BAD_SINCE),
    (subscribe(channels=[{"name": "ticker", "since": {BTC: "7"}}]), BAD_SINCE),
    (subscribe(channels=[{"name": "ticker", "since": {BTC: True}}]), BAD_SINCE),
    (subscribe(channels=[{"name": "ticker", "since": {BTC: -1}}]), BAD_SINCE),
    (subscribe(channels=[{"name": "ticker", "since": {BTC: 2**53}}]), BAD_SINCE),
    (subscribe(channels=[{"name": "ticker", "policy": False}]), BAD_POLICY),
]


def test_a_position_applies_to_one_topic():
    """One channel may be at an older position than another; a channel without one starts live."""
    command = parse(
        subscribe(
            channels=[
                {"name": "matches", "product_ids": [BTC], "since": {BTC: 7}, "strict": True},
                {"name": "ticker", "product_ids": [BTC], "since": {BTC: 0, "ETH-USD": 9}},
                {"name": "heartbeat", "product_ids": [BTC], "since": None},
            ]
        )
    )

    assert command.since == {
        Topic("matches", BTC): Start(7),
        Topic("ticker", BTC): Start(0),
        Topic("ticker", "ETH-USD"): Start(9),
    }
    assert command.is_strict
    assert not parse(subscribe(channels=["matches"], product_ids=[BTC])).is_strict


@pytest.mark.parametrize(
    ("text", "expected"), REFUSED, ids=[repr(text)[:60] for text, _ in REFUSED]
)
def test_an_invalid_message_is_refused_and_the_connection_stays(text, expected):
    """Any exception other than ``CommandError`` would close the client's connection."""
    with pytest.raises(CommandError) as caught:
        parse(text)

    message, reason = expected
    assert expected == (caught.value.message, caught.value.reason)
    assert (f"{message}: {reason}" if reason else message) == str(caught.value)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["ticker", "level2", BTC, "", "\0"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "name", "channels", "product_ids", "policy", "since"]), inner
        )
    ),
    max_leaves=8,
)
near_commands = st.fixed_dictionaries(
    {"type": st.sampled_from(["subscribe", "unsubscribe"]) | json_values},
    optional={"channels": json_values, "product_ids": json_values},
)


@settings(deadline=None)
@given(st.text() | st.binary() | near_commands.map(json.dumps))
def test_any_message_is_a_command_or_is_refused(text):
    """A client's invalid input must not look like a bug of the daemon."""
    try:
        command = parse(text)
    except CommandError:
        return
    assert command.requests or command.errors
    for request in command.requests:
        assert len(set(request.product_ids)) == len(request.product_ids)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(sorted(BY_ALIAS)), min_size=1),
    st.lists(st.sampled_from([BTC, ETH, "X-Y"])),
    st.lists(st.sampled_from([BTC, ETH, "X-Y"])),
)
def test_strings_and_objects_are_equivalent(names, root, own):
    """Clients mix the forms; products at the root apply to each channel."""
    as_objects = [{"name": name, "product_ids": root + own} for name in names]
    mixed = [{"name": name, "product_ids": own} for name in names]

    assert parse(subscribe(channels=as_objects)) == parse(
        subscribe(channels=mixed, product_ids=root)
    )


@pytest.mark.parametrize(
    ("subscribes", "expected"), [(True, "Failed to subscribe"), (False, "Failed to unsubscribe")]
)
def test_a_failure_is_named_after_the_command(subscribes, expected):
    """Clients use it to find the request that failed."""
    assert expected == Command(subscribes, ()).failure


@pytest.mark.parametrize(
    ("names", "policy", "expected"),
    [
        ([], None, ()),
        (["ticker", "matches"], None, requests(("ticker", [BTC]), ("matches", [BTC]))),
        (["ticker_batch", "ticker_1000"], None, requests(("ticker_batch", [BTC]))),
        # A URL has one policy for all channels; trades and books cannot be conflated.
        (
            ["ticker", "matches", "level2"],
            "conflate",
            requests(
                ("ticker", [BTC], "conflate"), ("matches", [BTC]), ("level2", [BTC], "conflate")
            ),
        ),
        (["ticker"], "close", requests(("ticker", [BTC], "close"))),
        (
            ["full", "level3", "rfq_matches"],
            None,
            requests(("full", [BTC]), ("level3", [BTC]), ("rfq_matches", [BTC])),
        ),
    ],
)
def test_a_url_requests_each_channel_once(names, policy, expected):
    """The names and the policy come from ``?channels=ticker,matches&policy=conflate``."""
    assert expected == channel_requests(names, (BTC,), policy)


@pytest.mark.parametrize(
    ("names", "policy", "code", "text"),
    [
        (
            ["ticket"],
            None,
            "unknown_channel",
            r"'ticket' is not a channel; the channels are auctionfeed, full, heartbeat, .*",
        ),
        (["ticker", ""], None, "unknown_channel", r"'' is not a channel; .*"),
        (["ticker"], "drop", "bad_request", r"policy 'drop' is neither close nor conflate"),
        (["ticker"], "", "bad_request", r"policy '' is neither close nor conflate"),
    ],
)
def test_an_invalid_url_is_refused_with_the_valid_values(names, policy, code, text):
    """The error must help a person without the documentation at hand."""
    with pytest.raises(SubscriberError, match=f"^{text}$") as caught:
        channel_requests(names, (BTC,), policy)

    assert {"code": code, "status": 400} == vars(caught.value)


@pytest.mark.parametrize("name", ["user", "balance"])
def test_a_url_for_a_private_channel_is_refused(name):
    """Private channels are never relayed, for any upstream key."""
    with pytest.raises(SubscriberError, match=f"^{name} is private to one account") as caught:
        channel_requests(["ticker", name], (BTC,))

    assert {"code": "private_channel", "status": 403} == vars(caught.value)


def test_the_default_channels_of_a_url_exist():
    """GET and POST without channels use the same, valid default."""
    assert requests(("ticker", [BTC]), ("matches", [BTC])) == channel_requests(
        DEFAULT_CHANNELS, (BTC,)
    )


def test_dropping_a_pair_drops_it_from_every_channel_of_pairs():
    """DELETE without channels removes all topics of the pair, but not ``status``."""
    command = drop_pair("BTC-USD")

    assert not command.subscribes
    assert {"status"} == {c.name for c in CHANNELS} - {r.channel.name for r in command.requests}
    assert {("BTC-USD",)} == {request.product_ids for request in command.requests}


def test_the_weight_of_a_command_is_its_number_of_topics():
    """A channel without products counts as one topic."""
    text = '{"type":"subscribe","product_ids":["A-B","C-D"],"channels":["ticker","full","status"]}'

    assert parse(text).weight == 6
    assert parse('{"type":"subscribe","channels":["status"]}').weight == 1
