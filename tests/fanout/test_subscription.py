"""Coinbase's semantics of subscribe and unsubscribe (COINBASE §3, §4)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.channel import (
    BY_ALIAS,
    CHANNELS,
    LEVEL2_BATCH,
    MATCHES,
    RFQ_MATCHES,
    TICKER,
    Topic,
)
from hedgehogd.domain.product import Catalogue
from hedgehogd.fanout.subscription import Subscription
from hedgehogd.protocol.commands import ChannelRequest, Command, parse

BTC, ETH = "BTC-USD", "ETH-USD"
BTC_TICKER = TICKER.topic(BTC)


@pytest.fixture
def subscription():
    return Subscription(100)


def apply(subscription, text, may_conflate=True):
    """Apply a client's command; return the reasons of the parts that were not executed."""
    listed = Catalogue()
    listed.replace(frozenset({BTC, ETH}))
    command = parse(text.replace("'", '"'))
    return subscription.apply(command, listed, may_conflate=may_conflate)


def state(subscription):
    return {channel.name: list(ids) for channel, ids in subscription.state.items()}


SUBSCRIBE_BOTH = "{'type':'subscribe','product_ids':['BTC-USD','ETH-USD'],'channels':['ticker']}"


def test_subscribing_is_cumulative_and_keeps_the_order(subscription):
    """A client that adds a product must not lose the earlier ones."""
    apply(subscription, SUBSCRIBE_BOTH)
    apply(subscription, "{'type':'subscribe','product_ids':['ETH-USD'],'channels':['matches']}")
    apply(subscription, SUBSCRIBE_BOTH)

    assert state(subscription) == {"ticker": [BTC, ETH], "matches": [ETH]}
    assert subscription.topics() == {BTC_TICKER, TICKER.topic(ETH), MATCHES.topic(ETH)}


def test_unsubscribing_drops_products_or_the_whole_channel(subscription):
    """Without products Coinbase drops the channel; the last product drops it too."""
    apply(subscription, SUBSCRIBE_BOTH.replace("['ticker']", "['ticker','matches','level2']"))
    apply(subscription, "{'type':'unsubscribe','product_ids':['BTC-USD'],'channels':['ticker']}")
    apply(subscription, "{'type':'unsubscribe','channels':['matches']}")
    assert state(subscription) == {"ticker": [ETH], "level2": [BTC, ETH]}

    apply(subscription, "{'type':'unsubscribe','product_ids':['ETH-USD'],'channels':['ticker']}")
    assert state(subscription) == {"level2": [BTC, ETH]}


def test_unsubscribing_from_an_absent_topic_is_no_error(subscription):
    """It is idempotent."""
    apply(subscription, SUBSCRIBE_BOTH)
    unsubscribe = "{'type':'unsubscribe','product_ids':['XRP-USD'],'channels':['ticker','matches']}"

    assert apply(subscription, unsubscribe) == []
    assert state(subscription) == {"ticker": [BTC, ETH]}


def test_status_needs_no_products_and_ignores_them(subscription):
    """It is about all of them."""
    subscribe = "{'type':'subscribe','product_ids':['BTC-USD'],'channels':['status']}"
    assert apply(subscription, subscribe) + apply(subscription, subscribe) == []
    assert state(subscription) == {"status": []}
    assert subscription.topics() == {Topic("status", "")}

    apply(subscription, subscribe.replace("subscribe", "unsubscribe"))
    assert state(subscription) == {}


def test_an_invalid_part_affects_only_itself(subscription):
    """One delisted product in a list of hundreds must not cost the client all of them."""
    errors = apply(
        subscription,
        "{'type':'subscribe','channels':['tickr',{'name':'ticker','product_ids':"
        "['BTC-USD','NO-USD','ETH-USD']},'matches']}",
    )

    assert errors == [
        "tickr is not a valid channel",
        "NO-USD is not a valid product",
        "You need to specify at least one product ID for channel matches",
    ]
    assert state(subscription) == {"ticker": [BTC, ETH]}


def test_the_same_error_is_reported_once(subscription):
    """A wrong product at the root is wrong for every channel."""
    errors = apply(
        subscription,
        "{'type':'subscribe','product_ids':['NO-USD'],'channels':['ticker','matches']}",
    )

    assert errors == ["NO-USD is not a valid product"]


def test_level2_and_level2_batch_are_two_topics(subscription):
    """Each has its own messages; leaving one must not end the other."""
    apply(subscription, SUBSCRIBE_BOTH.replace("ticker", "level2"))
    apply(subscription, SUBSCRIBE_BOTH.replace("ticker", "level2_batch"))
    apply(subscription, "{'type':'unsubscribe','channels':['level2']}")

    assert list(subscription.state) == [LEVEL2_BATCH]
    assert subscription.topics() == {LEVEL2_BATCH.topic(BTC), LEVEL2_BATCH.topic(ETH)}


RFQ = "{'type':'subscribe','product_ids':['BTC-USD','ETH-USD'],'channels':['rfq_matches']}"
RFQ_ALL = "{'type':'subscribe','channels':['rfq_matches']}"


@pytest.mark.parametrize(
    "ask",
    [RFQ_ALL, RFQ.replace("'ETH-USD'", "'ALL'")]
    + [RFQ.replace("['BTC-USD','ETH-USD']", all_of_them) for all_of_them in ("''", "'ALL'", "[]")],
)
def test_rfq_matches_may_be_subscribed_for_all_products(subscription, ask):
    """Without products, or with "ALL" (COINBASE §3.1); it replaces single ones."""
    assert apply(subscription, RFQ) == []
    assert subscription.topics() == {RFQ_MATCHES.topic(BTC), RFQ_MATCHES.topic(ETH)}
    assert apply(subscription, ask) == []
    assert apply(subscription, ask) == []

    assert state(subscription) == {"rfq_matches": []}
    assert subscription.topics() == {Topic("rfq_matches", "")}
    assert subscription._count == 1


def test_single_products_are_refused_beside_all_products(subscription):
    """As by the exchange; and none of them can be dropped alone."""
    apply(subscription, RFQ_ALL)
    assert apply(subscription, RFQ) == ["rfq_matches is subscribed to for all products"]
    apply(subscription, RFQ.replace("sub", "unsub", 1))
    assert state(subscription) == {"rfq_matches": []}


@pytest.mark.parametrize("held", [RFQ, RFQ_ALL])
@pytest.mark.parametrize(
    "leave",
    [RFQ_ALL, RFQ.replace("'ETH-USD'", "'ALL'"), RFQ_ALL.replace("{", "{'product_ids':'ALL',")],
)
def test_all_products_are_left_at_once(subscription, held, leave):
    """However they were subscribed to."""
    apply(subscription, held)
    apply(subscription, leave.replace("sub", "unsub", 1))

    assert state(subscription) == {}
    assert subscription._count == 0


@pytest.mark.parametrize(("reason", "expected"), [("no key", "no key"), ("", "Failed")])
def test_a_channel_that_the_exchange_refused_is_refused_at_once(subscription, reason, expected):
    """It is not asked again for each client; the words are the exchange's."""
    catalogue = Catalogue()
    catalogue.refuse_channel("full", "Failed", reason)
    command = parse('{"type":"subscribe","product_ids":["BTC-USD"],"channels":["full","ticker"]}')

    assert subscription.apply(command, catalogue) == [expected]
    assert state(subscription) == {"ticker": [BTC]}


def test_a_refused_channel_is_removed_whole(subscription):
    """With all its products, and their policies."""
    apply(subscription, CONFLATED)
    apply(subscription, SUBSCRIBE_BOTH.replace("ticker", "matches"))

    assert subscription.remove_channel(TICKER)
    assert not subscription.remove_channel(TICKER)
    assert state(subscription) == {"matches": [BTC, ETH]}
    assert subscription.conflated == set()


def test_subscriptions_are_limited_and_leaving_makes_room():
    """Everything has a limit; the client gets its value."""
    subscription = Subscription(2)
    full = "2 subscriptions are the most allowed"
    assert apply(subscription, SUBSCRIBE_BOTH) == []
    assert apply(subscription, SUBSCRIBE_BOTH.replace("ticker", "matches")) == [full]
    assert apply(subscription, "{'type':'subscribe','channels':['status']}") == [full]
    assert state(subscription) == {"ticker": [BTC, ETH]}

    apply(subscription, "{'type':'unsubscribe','product_ids':['BTC-USD'],'channels':['ticker']}")
    assert apply(subscription, "{'type':'subscribe','channels':['status']}") == []
    apply(subscription, "{'type':'unsubscribe','channels':['status','ticker']}")
    assert apply(subscription, SUBSCRIBE_BOTH) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SUBSCRIBE_BOTH, True),
        (SUBSCRIBE_BOTH.replace("ticker", "matches"), False),
        (SUBSCRIBE_BOTH.replace("'BTC-USD',", "").replace("ticker", "matches"), True),
        ("{'type':'subscribe','product_ids':['BTC-USD'],'channels':['status']}", True),
        ("{'type':'subscribe','product_ids':['BTC-USD'],'channels':['status','level2']}", False),
        (SUBSCRIBE_BOTH.replace("sub", "unsub", 1).replace("ticker", "matches"), True),
    ],
)
def test_room_is_known_before_anything_is_done(text, expected):
    """A request that is all or nothing must be refused before its first half is executed."""
    subscription = Subscription(3)
    apply(subscription, SUBSCRIBE_BOTH)

    assert expected == subscription.room_for(parse(text.replace("'", '"')))
    assert state(subscription) == {"ticker": [BTC, ETH]}


@pytest.mark.parametrize("ask", [RFQ_ALL, RFQ])
@pytest.mark.parametrize("held", [RFQ_ALL, RFQ])
def test_a_repeated_subscribe_needs_no_room(held, ask):
    """REST may send the same twice, also to a stream that is full."""
    subscription = Subscription(1 if held is RFQ_ALL else 2)
    apply(subscription, held)

    assert subscription.room_for(parse(ask.replace("'", '"')))


@pytest.mark.parametrize(("product_id", "expected"), [(BTC, True), ("XRP-USD", False)])
def test_a_product_is_removed_from_every_channel(subscription, product_id, expected):
    """The exchange refuses products, not channels of them."""
    apply(subscription, SUBSCRIBE_BOTH)
    apply(subscription, "{'type':'subscribe','product_ids':['BTC-USD'],'channels':['matches']}")

    assert subscription.remove_product(product_id) == expected
    assert state(subscription) == (
        {"ticker": [ETH]} if expected else {"ticker": [BTC, ETH], "matches": [BTC]}
    )


CONFLATED = (
    "{'type':'subscribe','channels':"
    "[{'name':'ticker','product_ids':['BTC-USD','NO-USD'],'policy':'conflate'}]}"
)


def test_conflation_is_chosen_per_channel_and_product(subscription):
    """Prices may skip for one dashboard product and not for the next."""
    apply(subscription, SUBSCRIBE_BOTH)
    apply(subscription, CONFLATED)
    assert subscription.conflated == {BTC_TICKER}

    apply(subscription, SUBSCRIBE_BOTH)  # names no policy
    assert subscription.conflated == {BTC_TICKER}
    apply(subscription, CONFLATED.replace("conflate", "close"))
    assert subscription.conflated == set()


@pytest.mark.parametrize(
    "leave",
    [
        lambda subscription: apply(subscription, "{'type':'unsubscribe','channels':['ticker']}"),
        lambda subscription: apply(subscription, SUBSCRIBE_BOTH.replace("sub", "unsub", 1)),
        lambda subscription: subscription.remove_product(BTC),
    ],
)
def test_conflation_ends_with_the_subscription(subscription, leave):
    """A client that subscribes again without the policy gets every message."""
    apply(subscription, CONFLATED)
    leave(subscription)

    assert subscription.conflated == set()


def test_refused_products_leave_no_state(subscription):
    """A client could fill memory with the names of products that do not exist."""
    apply(subscription, CONFLATED.replace("'BTC-USD',", ""))

    assert subscription.conflated == set()
    assert state(subscription) == {}


@pytest.mark.parametrize("channel", ["level2", "level2_batch", "ticker_batch"])
def test_books_and_state_can_be_conflated(subscription, channel):
    """A book by a new snapshot."""
    assert apply(subscription, CONFLATED.replace("'ticker'", f"'{channel}'")) == [
        "NO-USD is not a valid product"
    ]
    assert subscription.conflated == {BY_ALIAS[channel].topic(BTC)}


@pytest.mark.parametrize("channel", ["matches", "full", "heartbeat", "status"])
def test_conflation_of_other_channels_is_refused(subscription, channel):
    """Trades and orders add up; dropping one makes the rest wrong."""
    wish = CONFLATED.replace("ticker", channel)

    assert apply(subscription, wish) == [f"{channel} is never conflated"]
    assert state(subscription) == {}
    assert apply(subscription, wish, may_conflate=False) == (
        [] if channel == "status" else ["NO-USD is not a valid product"]
    )
    assert subscription.conflated == set()


REQUESTS = st.builds(
    ChannelRequest,
    st.sampled_from(CHANNELS),
    st.lists(st.sampled_from([BTC, ETH, "no product", "ALL"]), unique=True).map(tuple),
    st.sampled_from([None, "close", "conflate"]),
)
COMMANDS = st.builds(Command, st.booleans(), st.lists(REQUESTS, max_size=4).map(tuple))


@given(st.lists(COMMANDS), st.integers(min_value=1, max_value=8))
def test_the_state_is_sound_after_any_commands(commands, topics_max):
    """Limits are kept, no channel is empty, and only subscribed topics are conflated."""
    subscription = Subscription(topics_max)
    for command in commands:
        subscription.apply(command, Catalogue(), may_conflate=True)
        held = [
            (channel, product_id)
            for channel, ids in subscription.state.items()
            for product_id in ids or ("",)
        ]
        assert all(product_id or not channel.needs_products for channel, product_id in held)
        assert all(channel.takes_products or not product_id for channel, product_id in held)
        assert not any(product_id == "ALL" for _, product_id in held)
        assert len(held) == subscription._count <= topics_max
        assert subscription.topics() == {channel.topic(product_id) for channel, product_id in held}
        assert subscription.conflated <= {c.topic(p) for c, p in held if c.conflates}


@given(st.lists(COMMANDS), COMMANDS, st.integers(min_value=1, max_value=8))
def test_room_for_agrees_with_apply(commands, last, topics_max):
    """The answer before and the answer after must agree."""
    subscription = Subscription(topics_max)
    for command in commands:
        subscription.apply(command, Catalogue())
    has_room = subscription.room_for(last)
    errors = subscription.apply(last, Catalogue())

    assert not (has_room and f"{topics_max} subscriptions are the most allowed" in errors)


def test_aliases_are_one_channel(subscription):
    """Coinbase answers with canonical names, and counts an alias as the same."""
    apply(subscription, SUBSCRIBE_BOTH.replace("['ticker']", "['ticker_batch','ticker_1000']"))

    assert state(subscription) == {BY_ALIAS["ticker_batch"].name: [BTC, ETH]}
