"""State of a connection: the topics that it holds decide the channel of a message."""

import pytest

from hedgehogd.arbitration import connection_state as module
from hedgehogd.arbitration.connection_state import DATA_TYPES, Source
from hedgehogd.domain.channel import CHANNELS, Topic
from hedgehogd.domain.message import Head

BTC = "BTC-USD"


def topics(*names):
    return frozenset(Topic(*name.split(":")) for name in names)


@pytest.mark.parametrize(
    ("held", "kind", "expected"),
    [
        (["full:BTC-USD"], "match", "full:BTC-USD"),
        (["matches:BTC-USD"], "match", "matches:BTC-USD"),
        (["full:ETH-USD", "matches:BTC-USD"], "match", "matches:BTC-USD"),
        (["matches:BTC-USD"], "last_match", "matches:BTC-USD"),
        (["level2:BTC-USD"], "snapshot", "level2:BTC-USD"),
        (["level2:BTC-USD"], "l2update", "level2:BTC-USD"),
        (["level2_batch:BTC-USD"], "l2update", "level2_batch:BTC-USD"),
        (["full:BTC-USD"], "received", "full:BTC-USD"),
        (["full:BTC-USD"], "activate", "full:BTC-USD"),
        (["ticker:BTC-USD"], "ticker", "ticker:BTC-USD"),
        (["auctionfeed:BTC-USD"], "auction", "auctionfeed:BTC-USD"),
        (["rfq_matches:BTC-USD"], "rfq_match", "rfq_matches:BTC-USD"),
        (["rfq_matches:"], "rfq_match", "rfq_matches:BTC-USD"),
        (["level3:BTC-USD"], "level3", "level3:BTC-USD"),
    ],
)
def test_a_message_belongs_to_the_channel_that_is_held(held, kind, expected):
    """Two channels share a type."""
    route = Source(0, topics(*held)).route(Head(kind, BTC))

    assert (expected, True) == (str(route.topic), route.is_held)


@pytest.mark.parametrize("kind", sorted(DATA_TYPES))
def test_a_topic_without_a_subscribe_is_not_held(kind):
    """The exchange may send it for a moment after an unsubscribe."""
    route = Source(0, topics("ticker:ETH-USD")).route(Head(kind, BTC))

    assert not route.is_held
    assert route.topic.channel in {channel.topic_channel for channel in CHANNELS}


@pytest.mark.parametrize("kind", ["error", "subscriptions", "gap", "", "Match", "balance"])
def test_a_message_that_is_not_data_has_no_route(kind):
    """The session applies or drops it."""
    assert Source(0, None).route(Head(kind, BTC)) is None


@pytest.mark.parametrize(
    ("held", "head", "also", "owner"),
    [
        ("level2_batch:BTC-USD", Head("l2update", BTC), "level2:BTC-USD", BTC),
        ("level2:BTC-USD", Head("l2update", BTC), "None", BTC),
        ("rfq_matches:", Head("rfq_match", BTC), "rfq_matches:", ""),
        ("rfq_matches:BTC-USD", Head("rfq_match", BTC), "rfq_matches:", BTC),
        ("rfq_matches:", Head("rfq_match"), "None", ""),
        ("level3:BTC-USD", Head("level3"), "None", ""),
        ("status:", Head("status"), "None", ""),
    ],
)
def test_a_message_may_belong_to_a_second_topic(held, head, also, owner):
    """It is state of its product, unless the connection holds all products."""
    route = Source(0, topics(held)).route(head)

    assert (also, owner, True) == (str(route.also), route.owner, route.is_held)


def test_full_is_recognised_without_a_list_of_topics():
    """A recording has no list of held topics."""
    source = Source(0, None)

    assert "matches" == source.route(Head("match", BTC)).topic.channel
    assert "level2" == source.route(Head("l2update", BTC)).topic.channel
    source.route(Head("open", BTC))
    assert "full" == source.route(Head("match", BTC)).topic.channel
    assert "matches" == source.route(Head("match", "ETH-USD")).topic.channel
    assert source.holds_any(["full"], "X-Y")


def test_the_held_topics_may_change():
    """Routes found before the change must not stay."""
    source = Source(0, topics("ticker:BTC-USD"))
    assert not source.route(Head("match", BTC)).is_held

    source.held = topics("full:BTC-USD")
    assert ("full:BTC-USD", True) == (
        str(source.route(Head("match", BTC)).topic),
        source.route(Head("match", BTC)).is_held,
    )
    assert source.holds_any(["matches", "full"], BTC)
    assert not source.holds_any(["matches", "ticker"], BTC)


def test_a_topic_is_held_until_it_is_dropped():
    """After another subscribe it has to send again."""
    source = Source(0)
    ticker, matches = topics("ticker:BTC-USD"), topics("matches:BTC-USD")
    source.ask(ticker | matches, 1)
    assert ticker | matches == source.held
    assert sorted(matches | ticker) == sorted(source.unheard(11, 10))

    source.route(Head("ticker", BTC))
    assert [*matches] == source.unheard(11, 10)
    assert [] == source.unheard(10.9, 10)

    source.ask(ticker, 20)
    source.drop(matches)
    assert (ticker, []) == (source.held, source.unheard(29, 10))
    assert [*ticker] == source.unheard(30, 10)


def test_nothing_can_be_dropped_when_every_topic_is_held():
    """A recording with an error of the exchange in it must not fall silent at the error."""
    source = Source(0, None)
    source.drop([])
    source.drop(topics("ticker:BTC-USD"))

    assert source.held is None
    assert source.route(Head("ticker", BTC)).is_held


def test_the_number_of_routes_is_bounded(monkeypatch):
    """A hostile feed invents products."""
    monkeypatch.setattr(module, "TOPICS_MAX", 5)
    source = Source(0, None)
    for number in range(100):
        source.route(Head("ticker", f"P{number}"))

    assert len(source._routes) <= 5


@pytest.mark.parametrize("held", [(), None], ids=["nothing asked for", "everything held"])
def test_the_number_of_products_not_held_is_bounded(held, monkeypatch):
    """An exchange that sends ever new products must not fill memory."""
    monkeypatch.setattr(module, "TOPICS_MAX", 4)
    source = Source(0, held)
    for number in range(100):
        for kind in ("received", "match", "ticker", "snapshot"):
            source.route(Head(kind, f"N{number}-USD"))

    assert len(source.received) == 0
    assert len(source._full) <= 4


def test_a_dropped_topic_counts_as_not_received():
    """After another subscribe it has to send again."""
    source = Source()
    source.ask(topics("ticker:BTC-USD"), 0.0)
    source.route(Head("ticker", BTC))
    assert source.received == topics("ticker:BTC-USD")
    source.drop(topics("ticker:BTC-USD"))

    assert source.received == frozenset()


def test_data_is_expected_while_the_heartbeat_of_a_live_product_is_held():
    """A quiet market sends only heartbeats."""
    source = Source(0, topics("ticker:BTC-USD"))
    assert not source.expects_data(())
    source.ask(topics("heartbeat:BTC-USD"), 0)

    assert source.expects_data(())
    assert not source.expects_data({BTC})
    assert not Source(0, None).expects_data(())


@pytest.mark.parametrize(
    ("received", "unacknowledged", "expected"),
    [
        ([], [], False),
        (["heartbeat"], [], False),
        (["heartbeat", "snapshot"], [], True),
        (["snapshot"], [], True),
        (["heartbeat", "snapshot"], ["ticker:BTC-USD"], False),
        (["heartbeat", "snapshot"], ["full:BTC-USD"], True),
    ],
)
def test_a_connection_flows_when_heartbeats_and_books_have_arrived(
    received, unacknowledged, expected
):
    """A quiet market may send no ticker; some exchanges send no heartbeats."""
    source = Source(0)
    source.ask(topics("heartbeat:BTC-USD", "level2:BTC-USD", "ticker:BTC-USD"), 0)
    source.unacknowledged = topics(*unacknowledged)
    for kind in received:
        source.route(Head(kind, BTC))
    source.heard_heartbeat = "heartbeat" in received

    assert expected == source.flows(1)
