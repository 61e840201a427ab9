"""Active notices: a subscriber that joins gets the notices in force, and none that has ended."""

import pytest

from hedgehogd.arbitration.batch import NoticeKind, TopicNotice
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.limits import STANDING_GAPS_MAX
from hedgehogd.engine.delivery import Delivery
from hedgehogd.fanout import active_notices as module
from hedgehogd.fanout.active_notices import ActiveNotices
from hedgehogd.protocol.wire import NDJSON_BARE, WEBSOCKET_STRICT
from tests.fakes import make_message
from tests.fanout.conftest import command

MATCHES, FULL, TICKER, BEAT = (
    Topic(channel, "BTC-USD") for channel in ("matches", "full", "ticker", "heartbeat")
)
ETH = Topic("ticker", "ETH-USD")


def a_gap(payload=b"gap", topic=MATCHES):
    return TopicNotice(topic, payload, NoticeKind.GAP)


def stale(payload, *product_ids):
    return TopicNotice(frozenset(product_ids), payload, NoticeKind.STALE)


def back(*product_ids):
    return TopicNotice(frozenset(product_ids) or None, b"back", NoticeKind.BACK)


@pytest.fixture
def standing():
    return ActiveNotices()


@pytest.mark.parametrize(
    ("message", "holds"),
    [
        (make_message("matches"), False),
        (make_message("full", kind="match", also=MATCHES), False),
        (make_message("full", kind="open"), True),
        (make_message("matches", "ETH-USD"), True),
    ],
)
def test_a_gap_is_in_force_until_the_next_message_of_its_topic(standing, message, holds):
    """Then it lies between messages of which a new subscriber receives neither."""
    standing.delivered([message])
    standing.note(a_gap())
    assert standing.of([MATCHES]) == [b"gap"]
    standing.delivered([])
    standing.delivered([make_message("ticker"), message])

    assert standing.of([MATCHES]) == [b"gap"] * holds
    assert standing.of([FULL]) == []


def test_the_newest_gaps_of_a_topic_are_in_force_in_order(standing):
    """A line that fails again and again, in a market without trades, must not fill memory."""
    payloads = [b"%d" % n for n in range(STANDING_GAPS_MAX + 5)]
    for payload in payloads:
        standing.note(a_gap(payload))

    assert standing.of([MATCHES]) == payloads[5:]


def test_the_number_of_topics_with_gaps_is_bounded(standing, monkeypatch):
    """A feed that invents products must not fill memory."""
    monkeypatch.setattr(module, "TOPICS_MAX", 2)
    topics = [Topic("matches", f"P{n}-USD") for n in range(5)]
    for topic in topics:
        standing.note(a_gap(topic=topic))

    assert [bool(standing.of([topic])) for topic in topics] == [True, True, False, False, False]
    standing.note(a_gap(b"another", topics[0]))
    assert len(standing.of(topics[:1])) == 2


@pytest.mark.parametrize(
    ("notice", "left"),
    [
        (back("BTC-USD"), [b"two"]),
        (back("ETH-USD", "XRP-USD"), [b"one"]),
        (back(), []),
        (back("XRP-USD"), [b"one", b"two"]),
        (stale(b"three", "BTC-USD"), [b"three", b"two"]),
    ],
)
def test_a_product_is_stale_until_it_is_back(standing, notice, left):
    """A subscriber that joins would take its silence for a quiet market."""
    standing.note(stale(b"one", "BTC-USD"))
    standing.note(stale(b"two", "ETH-USD"))
    standing.note(notice)

    assert standing.of([TICKER, ETH]) == left


@pytest.mark.parametrize(
    "notice",
    [
        TopicNotice(MATCHES, b"x"),
        TopicNotice(frozenset({"BTC-USD"}), b"x"),
        TopicNotice(None, b"x"),
        TopicNotice(None, b"x", NoticeKind.STALE),  # the whole feed: a joiner gets another notice
    ],
)
def test_a_passing_notice_is_not_in_force(standing, notice):
    """It was for the subscribers of the moment."""
    standing.note(notice)

    assert standing.of([MATCHES]) == []


def test_a_notice_about_several_topics_is_sent_once(standing):
    """And staleness is reported before gaps."""
    standing.note(a_gap())
    standing.note(stale(b"stale", "BTC-USD", "ETH-USD"))

    assert standing.of([MATCHES, TICKER, ETH]) == [b"stale", b"gap"]


@pytest.mark.parametrize(
    ("forgotten", "left"),
    [(MATCHES, [b"stale"]), (BEAT, [b"gap"]), (TICKER, [b"stale", b"gap"]), (ETH, None)],
)
def test_a_released_topic_has_no_notices(standing, forgotten, left):
    """When the feed holds it again, its numbers are not compared with earlier ones."""
    standing.note(a_gap())
    standing.note(stale(b"stale", "BTC-USD"))
    standing.forget(forgotten)

    assert standing.of([MATCHES]) == ([b"stale", b"gap"] if left is None else left)


async def test_a_new_subscriber_gets_active_notices_after_the_state(plumbing):
    """The last trade in the state is not the last one that was made."""
    await plumbing.publish(make_message("matches", sequence=1))
    await plumbing.publish(notices=[a_gap(b"{}"), stale(b"[]", "ETH-USD")])
    session, member = plumbing.join("matches")
    strict, lines = (
        plumbing.join("matches", form=form)[1] for form in (WEBSOCKET_STRICT, NDJSON_BARE[True])
    )

    assert member.notices == [b"{}"]
    assert member.data.find(b"last_match") < member.data.find(b"{}")
    assert strict.notices + lines.notices == []
    session.apply(command("matches", "ticker", pairs=["BTC-USD", "ETH-USD"]))
    assert member.notices == [b"{}", b"[]"]


async def test_an_ended_notice_is_not_sent_to_later_subscribers(plumbing):
    """It ends by the next message, by the notice that it is back, or by the topic's release."""
    await plumbing.publish(notices=[a_gap(), stale(b"stale", "BTC-USD")])
    await plumbing.publish(make_message("matches", sequence=9), notices=[back("BTC-USD")])
    assert plumbing.join("matches")[1].notices == []

    await plumbing.broker.publish([Delivery([], flows=frozenset({MATCHES, BEAT}))])
    await plumbing.publish(notices=[a_gap(), stale(b"stale", "BTC-USD")])
    await plumbing.broker.publish([Delivery([], flows=frozenset())])
    assert plumbing.join("matches")[1].notices == []


def test_a_product_is_stale_until_it_or_the_feed_is_back(standing):
    """Its state in memory is not served meanwhile."""
    standing.note(stale(b"stale", "BTC-USD"))
    assert [standing.is_stale(each) for each in ("BTC-USD", "ETH-USD")] == [True, False]
    standing.note(TopicNotice(None, b"stale", NoticeKind.STALE))
    standing.note(back("BTC-USD"))
    assert standing.is_stale("BTC-USD")

    standing.note(TopicNotice(None, b"back", NoticeKind.BACK))
    assert not standing.is_stale("BTC-USD")
