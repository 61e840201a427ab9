"""Notices of a relay that is the feed: those that concern subscribers are forwarded."""

import json

import pytest

from hedgehogd.arbitration.batch import NoticeKind, TopicNotice
from hedgehogd.arbitration.relay_notices import (
    TYPES,
    RelayedBackfill,
    RelayedClosing,
    RelayedGap,
    RelayedStale,
    parse,
)
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.gap import Gap
from hedgehogd.domain.limits import SEQUENCE_MAX
from hedgehogd.domain.message import read_head
from hedgehogd.protocol import notices
from tests.arbitration.test_session import MATCHES, Feed, match


def order(sequence):
    return b'{"type":"open","product_id":"BTC-USD","sequence":%d}' % sequence


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (notices.gap(MATCHES, Gap(8, 9)), RelayedGap("matches", "BTC-USD", 9)),
        (b'{"type":"gap","channel":"ticker","product_id":"A"}', RelayedGap("ticker", "A", None)),
        (notices.stale(is_stale=True, reason="x"), RelayedStale(None, is_stale=True)),
        (b'{"type":"stale","stale":false}', RelayedStale(None, is_stale=False)),
        (
            notices.stale(is_stale=False, reason="", product_ids=["A"]),
            RelayedStale(frozenset({"A"}), is_stale=False),
        ),
        (notices.backfilled("A", [{"trade_id": 8}]), RelayedBackfill("A")),
        (notices.closing("restart", {}, 1), RelayedClosing()),
        (notices.session("1.q3Zk", 1), None),
    ],
)
def test_a_notice_is_parsed_into_what_it_reports(payload, expected):
    """The session applies the value, so the parser needs to know no session."""
    assert expected == parse(read_head(payload), payload)


@pytest.mark.parametrize(
    ("before", "channel", "after"),
    [(match(7), "matches", match(10)), (order(7), "full", order(10))],
)
def test_a_gap_that_a_relay_reports_is_reported_once(before, channel, after):
    """This instance does not find the same gap again."""
    feed, topic = Feed(), Topic(channel, "BTC-USD")
    notice = notices.gap(topic, Gap(8, 9))
    received = feed.receive(before, notice, after)

    assert [TopicNotice(topic, notice, NoticeKind.GAP)] == received.notices
    assert [1] == received.notices_at
    assert [before, after] == [message.payload for message in received.messages]
    assert 1 == feed.session.arbiter.gaps


def test_a_notice_on_two_lines_is_sent_once():
    """Both lead to the same relay, or to two relays with the same gap."""
    feed, late = Feed(), notices.backfilled("BTC-USD", [{"trade_id": 8}])
    notice = notices.gap(MATCHES, Gap(8, 9))
    received = feed.receive(match(7), notice, notice, match(10), notice, late, late)

    assert [notice, late] == [notice.payload for notice in received.notices]
    assert {"matches": 2} == feed.session.arbiter.missing
    assert 1 == feed.session.arbiter.gaps
    far = notices.gap(MATCHES, Gap(8, SEQUENCE_MAX))  # more than is plausible
    assert [far] == [notice.payload for notice in feed.receive(far, far).notices]


def test_the_newest_notices_of_relays_are_kept():
    """A relay that sends notices for ever must not fill memory."""
    feed = Feed()
    for number in range(200):
        feed.receive(notices.backfilled("BTC-USD", [{"trade_id": number}]))

    assert not feed.session.is_news(notices.backfilled("BTC-USD", [{"trade_id": 199}]))
    assert feed.session.is_news(notices.backfilled("BTC-USD", [{"trade_id": 0}]))


@pytest.mark.parametrize("last", [None, "9", True, -1, 1.5, SEQUENCE_MAX + 1, SEQUENCE_MAX, 5, [9]])
def test_a_gap_without_a_true_end_moves_no_mark(last):
    """It is forwarded, and this instance watches the numbers as before."""
    feed = Feed()
    odd = {"type": "gap", "channel": "matches", "product_id": "BTC-USD", "last_trade_id": last}
    received = feed.receive(match(7), json.dumps(odd).encode(), match(9))

    assert [MATCHES] * (1 + (last != 5)) == [notice.audience for notice in received.notices]
    assert [("BTC-USD", Gap(8, 8))] == received.missing_trades


@pytest.mark.parametrize(
    ("payload", "audiences"),
    [
        (notices.gap(MATCHES, Gap(1, 2)), [MATCHES]),  # of a product without messages so far
        (b'{"type":"gap","channel":"ticker","product_id":"BTC-USD"}', [("ticker", "BTC-USD")]),
        (b'{"type":"gap","channel":"lottery","product_id":"BTC-USD"}', []),
        (b'{"type":"gap","channel":7}', []),
        (b'{"type":"gap"}', []),
        (notices.backfilled("BTC-USD", [{"trade_id": 8}]), [MATCHES]),
        (b'{"type":"backfilled"}', []),
        (notices.stale(is_stale=True, reason="x"), []),  # the feed reports it, once for all lines
        (notices.stale(is_stale=True, reason="x", product_ids=["B", "A"]), [{"A", "B"}]),
        (b'{"type":"stale","stale":true,"product_ids":["A",7]}', [{"A"}]),
        (notices.session("1.q3Zk", 1), []),
        (notices.skipped({MATCHES: 3}), []),
        (b'{"type":"resumed"}', []),
        (b'{"type":"resumed","a":"\xff"}', []),
    ],
)
def test_notices_that_concern_subscribers_are_forwarded(payload, audiences):
    """Notices about the connection between two relays are not."""
    feed = Feed()
    received = feed.receive(payload)

    assert audiences == [notice.audience for notice in received.notices]
    assert all(payload == notice.payload for notice in received.notices)
    assert [] == received.oddities + received.messages
    assert not feed.session.dropped


def test_a_relays_farewell_is_logged():
    """The connection will end, and be dialled again."""
    received = Feed().receive(notices.closing("restart", {}, 1))

    assert ["the upstream relay is closing"] == received.oddities


@pytest.mark.parametrize(("stale", "expected"), [(True, True), (False, False), ("yes", False)])
def test_the_feed_is_stale_when_the_relays_feed_is(stale, expected):
    """/readyz of the lower relay must not report ready."""
    feed = Feed()
    feed.receive(notices.stale(is_stale=True, reason="x"))
    assert feed.session.told_stale
    feed.receive(json.dumps({"type": "stale", "stale": stale}).encode())

    assert expected == feed.source.told_stale


def test_a_few_quiet_products_are_not_a_stale_feed():
    """The other products are live."""
    feed = Feed()
    feed.receive(notices.stale(is_stale=True, reason="x", product_ids=["BTC-USD"]))

    assert not feed.source.told_stale


@pytest.mark.parametrize("kind", sorted(TYPES))
@pytest.mark.parametrize(
    "rest",
    [b"", b',"a":' + b"[" * 500 + b"]" * 500, b',"a":"\\ud800"', b',"a":\xff', b',"a":1e999'],
)
def test_no_notice_raises_an_error(kind, rest):
    """An error would end the process."""
    Feed().receive(b'{"type":"%b","product_id":"BTC-USD"%b}' % (kind.encode(), rest))
