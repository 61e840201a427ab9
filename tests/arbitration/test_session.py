"""The conversation with the exchange: messages delivered, notices reported, messages dropped."""

import json
from collections import Counter
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.arbitration import session as upstream
from hedgehogd.arbitration.batch import NoticeKind, Refusal, TopicNotice
from hedgehogd.arbitration.connection_state import DATA_TYPES, Source
from hedgehogd.arbitration.session import UpstreamSession
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.gap import Gap
from hedgehogd.domain.limits import (
    ODD_NUMBERS_MAX,
    PRODUCT_SILENCE_S,
    RESYNC_AGAIN_S,
    RESYNC_REPAIRED_S,
    TRADE_ID_STEP_MAX,
)
from hedgehogd.protocol import notices
from hedgehogd.protocol.frames import FrameScanner, encode_text
from tests.recordings import FULL, PRO, recording

MATCHES, HEARTBEAT = Topic("matches", "BTC-USD"), Topic("heartbeat", "BTC-USD")
TICKER, LEVEL2, BATCH = (Topic(c, "BTC-USD") for c in ("ticker", "level2", "level2_batch"))
UNREADABLE = b'{"type":"l2update","changes":[["bu'


@cache
def recorded():
    """Return the messages of the shared recording."""
    return recording(f"{PRO}/feed.jsonl").read_bytes().splitlines()


def frames(*payloads):
    return [(encode_text(payload), payload) for payload in payloads]


def match(trade_id, kind="match", product_id="BTC-USD"):
    keys = {"type": kind, "trade_id": trade_id, "product_id": product_id, "sequence": 7}
    return json.dumps(keys).encode()


def gap(first, last, topic=MATCHES):
    return TopicNotice(topic, notices.gap(topic, Gap(first, last)), NoticeKind.GAP)


class Feed:
    """A session with one connection, which holds every topic by default."""

    def __init__(self, held=None):
        self.session = UpstreamSession()
        self.now = 0.0
        self.connect(held)

    def connect(self, held=None):
        self.source = Source(0, held)
        self.session.connected(self.source)

    def receive(self, *payloads):
        return self.session.receive(self.source, frames(*payloads), self.now)


def receive_each(payloads, held=None):
    """Return the feed and its batches, one read for each payload."""
    feed = Feed(held)
    return feed, [feed.receive(payload) for payload in payloads]


def test_each_message_of_a_read_has_its_receive_time():
    """It is the caller's, and any number: the clock may step."""
    feed = Feed()
    for received_us, payloads in ((1_700_000_000_000_000, (match(1), match(2))), (5, (match(3),))):
        received = feed.session.receive(feed.source, frames(*payloads), 0.0, received_us)
        assert [each.received_us for each in received.messages] == [received_us] * len(payloads)


def is_empty(received):
    return not any(getattr(received, name) for name in received.__slots__)


def payloads_of(batches):
    return [message.payload for received in batches for message in received.messages]


def test_the_recorded_feed_is_delivered_whole():
    """9,946 real messages: three acknowledgements end here, all other messages pass unchanged."""
    feed = Feed()
    received = feed.receive(*recorded())
    data = [line for line in recorded() if b'"subscriptions"' not in line]

    assert len(received.messages) == 9943
    assert data == [message.payload for message in received.messages]
    assert [encode_text(line) for line in data] == [message.frame for message in received.messages]
    assert [] == received.notices + received.oddities + received.resyncs + received.complaints
    assert not feed.session.dropped
    assert 0 == feed.session.arbiter.gaps


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(min_value=0, max_value=60_000), max_size=20))
def test_the_recorded_feed_reads_the_same_however_it_arrives(places):
    """Scanner and session together: pieces of bytes in, the same messages out."""
    lines = [line for line in recorded() if b'"subscriptions"' not in line]
    lines = [line for line in lines if b'"snapshot"' in line] + lines[-300:]
    data = b"".join(map(encode_text, lines))
    ends = [0, *sorted(place for place in places if place < len(data)), len(data)]
    scanner, feed = FrameScanner(1 << 24), Feed()
    pieces = [scanner.receive(data[start:end])[0] for start, end in pairwise(ends)]
    batches = [feed.session.receive(feed.source, piece, 0) for piece in pieces]

    assert lines == payloads_of(batches)


def test_the_recorded_full_channel_is_delivered_whole():
    """Real order events without a gap in their sequences, and their heartbeats."""
    lines = recording(f"{FULL}/feed.jsonl").read_bytes().splitlines()
    kinds = Counter(json.loads(line)["type"] for line in lines)
    feed = Feed()
    received = feed.receive(*lines)
    channels = Counter(message.topic.channel for message in received.messages)

    assert sum(n for kind, n in kinds.items() if kind in DATA_TYPES) == len(received.messages)
    assert kinds["heartbeat"] == channels["heartbeat"]
    assert {"heartbeat", "full"} == set(channels)
    assert [] == received.notices


@pytest.mark.parametrize(
    ("trades", "delivered", "reported", "counts"),
    [
        # COINBASE §6.4: the next match has trade_id + 1 if none is missing.
        ([match(7, "last_match"), match(8)], [0, 1], [], (0, 0, 0)),
        ([match(7), match(9)], [0, 1], [gap(8, 8)], (1, 1, 0)),
        ([match(7), match(12), match(14)], [0, 1, 2], [gap(8, 11), gap(13, 13)], (2, 5, 0)),
        # A reconnection: its last_match shows how many are missing, if any.
        ([match(7), match(7, "last_match"), match(8)], [0, 2], [], (0, 0, 1)),
        ([match(7), match(9, "last_match"), match(10)], [0, 1, 2], [gap(8, 8)], (1, 1, 0)),
        ([match(7, "last_match")] * 3, [0], [], (0, 0, 2)),
        ([match(7), match(9), match(8)], [0, 1], [gap(8, 8)], (1, 1, 1)),
        ([match(7), match(7, product_id="ETH-USD"), match(8)], [0, 1, 2], [], (0, 0, 0)),
        (
            [match(7), match(1, product_id="X-Y"), match(3, product_id="X-Y"), match(8)],
            [0, 1, 2, 3],
            [gap(2, 2, Topic("matches", "X-Y"))],
            (1, 1, 0),
        ),
        # A value that is no trade id is not compared, and does not affect true trade ids.
        ([match(7), match("8"), match(None), match(8)], [0, 1, 2, 3], [], (0, 0, 0)),
        ([match(7), match(-1), match(2**60), match(8)], [0, 1, 2, 3], [], (0, 0, 0)),
        ([match(7.0), match(True), match([7])], [0, 1, 2], [], (0, 0, 0)),
    ],
)
def test_trades_are_delivered_once_or_reported_missing(trades, delivered, reported, counts):
    """No loss is silent, and a subscriber that sums volumes counts no trade twice."""
    feed, batches = receive_each(trades)

    assert [trades[at] for at in delivered] == payloads_of(batches)
    assert reported == [notice for received in batches for notice in received.notices]
    arbiter = feed.session.arbiter
    assert counts == (arbiter.gaps, arbiter.missing["matches"], arbiter.dropped["repeat"])


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.booleans())
def test_trades_and_gaps_together_are_every_trade(trade_ids, in_one_read):
    """For any arrivals, the trades delivered and those reported missing add up."""
    feed = Feed()
    reads = [trade_ids] if in_one_read else [[trade_id] for trade_id in trade_ids]
    batches = [feed.receive(*map(match, read)) for read in reads]
    sent = [message.trade_id for received in batches for message in received.messages]
    reported = [json.loads(notice.payload) for received in batches for notice in received.notices]
    missing = [n for t in reported for n in range(t["first_trade_id"], t["last_trade_id"] + 1)]
    named = [pair for received in batches for pair in received.missing_trades]

    assert list(range(trade_ids[0], max(sent) + 1)) == sorted(sent + missing)
    assert len(missing) == feed.session.arbiter.missing["matches"]
    assert len(trade_ids) == len(sent) + feed.session.dropped["repeat"]
    assert [("BTC-USD", Gap(t["first_trade_id"], t["last_trade_id"])) for t in reported] == named


def test_a_released_topic_starts_again():
    """Trades without demand are not missing when a subscriber wants the product again."""
    feed = Feed()
    feed.receive(match(7))
    feed.session.forget(MATCHES)
    feed.session.forget(TICKER)
    feed.session.forget(Topic("ticker", "X-Y"))
    received = feed.receive(match(1000))

    assert [match(1000)] == [message.payload for message in received.messages]
    assert not received.notices


@pytest.mark.parametrize(
    ("kept", "notices"), [({MATCHES}, [gap(8, 8)]), ({TICKER}, []), (set(), [])]
)
def test_only_held_topics_have_state(kept, notices):
    """A product may stay while one of its channels is released."""
    feed = Feed()
    feed.receive(match(7))
    feed.session.hold_only(kept)

    assert notices == feed.receive(match(9)).notices


def test_stragglers_of_a_released_topic_create_no_state():
    """The next subscriber of full would get a gap notice that began with them."""
    full = Topic("full", "BTC-USD")
    feed = Feed({full, HEARTBEAT})

    def order(sequence, kind="open", **more):
        head = {"type": kind, "product_id": "BTC-USD", "sequence": sequence, **more}
        return json.dumps(head).encode()

    feed.session.hold_only({full, MATCHES, HEARTBEAT})
    feed.receive(order(1), order(2, "match", trade_id=7))
    feed.session.hold_only({MATCHES, HEARTBEAT})  # the unsubscribe is on its way
    received = feed.receive(order(3), order(4, "match", trade_id=8))
    assert [(m.topic, m.also, m.trade_id) for m in received.messages] == [(MATCHES, None, 8)]
    assert feed.session.dropped["unwanted"] == 1

    feed.session.hold_only({full, MATCHES, HEARTBEAT})
    received = feed.receive(order(900))
    assert ([m.topic for m in received.messages], received.notices) == ([full], [])
    feed.session.hold_only(())
    feed.receive(order(901))
    assert feed.session.products == {}


def test_trade_ids_that_are_set_back_are_delivered_again():
    """A sandbox that is reset must not look like a market of repeats for ever after."""
    feed = Feed()
    far = TRADE_ID_STEP_MAX + 100
    feed.receive(match(far), match(far + 1))
    received = feed.receive(match(9, "last_match"), match(10), match(12))

    assert [9, 10, 12] == [message.trade_id for message in received.messages]
    restart = TopicNotice(MATCHES, notices.restarted(MATCHES, 9), NoticeKind.GAP)
    assert [restart, gap(11, 11)] == received.notices
    assert ["matches:BTC-USD restarts at 9"] == received.oddities
    assert 0 == feed.session.dropped["repeat"]


def test_tickers_that_are_set_back_are_delivered_again():
    """Their sequences leave out many, so they never rise by one."""
    feed = Feed()
    low = [ticker(n) for n in range(5, 5 * (ODD_NUMBERS_MAX + 3), 5)]
    received = feed.receive(ticker(9_000_000_000), *low)

    assert low[ODD_NUMBERS_MAX - 1 :] == [message.payload for message in received.messages[1:]]


def ticker(sequence):
    return b'{"type":"ticker","product_id":"BTC-USD","sequence":%d}' % sequence


def test_a_server_that_lags_a_few_trades_repeats_nothing():
    """A reconnection may reach another server; its last match was delivered before."""
    feed = Feed()
    feed.receive(match(100), match(101))
    received = feed.receive(match(100, "last_match"), match(101), match(102))

    assert [102] == [message.trade_id for message in received.messages]
    assert [] == received.notices


def test_a_gap_is_placed_between_its_messages():
    """Placed before the whole read, it would report messages that are yet to arrive."""
    feed = Feed()
    received = feed.receive(match(1), match(2), match(4), match(5))
    parts = [([m.trade_id for m in messages], reported) for messages, reported in received.parts()]

    assert [([1, 2], []), ([4, 5], [gap(3, 3)])] == parts
    first = feed.receive(match(9))
    assert [(first.messages, [gap(6, 8)])] == list(first.parts())
    assert [([], [])] == list(feed.receive().parts())


def test_a_topic_that_is_not_held_is_neither_delivered_nor_watched():
    """An exchange that sends the whole market must not fill memory with it."""
    feed = Feed({MATCHES})
    beat = b'{"type":"heartbeat","product_id":"X-Y","sequence":1}'
    received = feed.receive(
        match(1, product_id="X-Y"), match(9, product_id="X-Y"), match(1), beat, ticker(5)
    )

    assert [MATCHES] == [message.topic for message in received.messages]
    assert {"unwanted": 4} == feed.session.dropped
    assert ["BTC-USD"] == list(feed.session.products)
    assert not feed.source.heard_heartbeat


def test_an_absurd_trade_id_is_delivered_and_logged_and_silences_nothing():
    """Raw messages are unchanged, also when wrong; later messages must not be lost for it."""
    received = Feed().receive(match(11), match(2**53 - 1), *map(match, range(12, 16)))

    assert [11, 2**53 - 1, 12, 13, 14, 15] == [m.trade_id for m in received.messages]
    assert [f"matches:BTC-USD has an implausible number, {2**53 - 1} after 11"] == received.oddities
    assert not received.notices


def test_products_beyond_the_limit_are_not_delivered(monkeypatch):
    """A feed with endless products must not fill memory."""
    monkeypatch.setattr(upstream, "TOPICS_MAX", 1)
    feed, batches = receive_each([match(7), match(1, product_id="X-Y"), match(9, product_id="X-Y")])

    assert [match(7)] == payloads_of(batches)
    assert {"unwanted": 2} == feed.session.dropped
    assert ["BTC-USD"] == list(feed.session.products)


DIRT = {
    "a clock of year 1": (
        b'{"type":"l2update","product_id":"BTC-USD","changes":[["buy","1","0"]],'
        b'"time":"0001-01-01T00:00:00.000000Z"}'
    ),
    "an amount that is none": (
        b'{"type":"snapshot","product_id":"YFI-USD","asks":[["0.-10000","1"]],"bids":[]}'
    ),
    "a snapshot with a time": (
        b'{"type":"snapshot","product_id":"BTC-USD","asks":[],"bids":[],"time":"2026"}'
    ),
    "a sequence that is text": b'{"type":"ticker","product_id":"BTC-USD","sequence":"8"}',
    "a sequence that is a float": b'{"type":"ticker","product_id":"BTC-USD","sequence":8.5}',
    "a sequence that is huge": b'{"type":"ticker","product_id":"BTC-USD","sequence":1%b}'
    % (b"0" * 40),
    "a negative sequence": b'{"type":"ticker","product_id":"BTC-USD","sequence":-8}',
    "a ticker of a product without trades": b'{"type":"ticker","product_id":"BTC-USD"}',
    "a message about no product": b'{"type":"status","products":[],"currencies":[]}',
    "line breaks": b'{\r\n"type":"ticker",\n"product_id":"BTC-USD"}',
}


@pytest.mark.parametrize("payload", DIRT.values(), ids=DIRT)
def test_unusual_values_in_a_message_are_delivered_unchanged(payload):
    """All of them were seen on the real feed, or may be (COINBASE §6.6); none is hedgehogd's."""
    first = b'{"type":"snapshot","product_id":"BTC-USD","asks":[],"bids":[]}'
    feed, batches = receive_each([first, payload])
    [message] = batches[1].messages

    assert payload == message.payload
    assert encode_text(payload) == message.frame
    assert message.sequence is None
    assert not feed.session.dropped


DROPPED = [
    (b"", "garbage", "garbage: "),
    (b"hello", "garbage", "garbage: JSON is malformed"),
    (b"[]", "garbage", "garbage: an array that is not a level3 message"),
    (b'["open",7,"57560479456"]', "garbage", "garbage: an array that is not a level3 message"),
    (b"[" * 100_000, "garbage", "garbage: "),
    (b'{"type":"x","sequence":' + b"[" * 100_000, "garbage", "garbage: "),
    (b'{"type":7}', "garbage", "garbage: Expected `str`, got `int`"),
    (b'{"type":"ticker","product_id":null}', "garbage", "garbage: Expected `str`, got `null`"),
    (b'{"type":"balance","currency":"USD"}', "unknown_type", "unknown type 'balance'"),
    (b'{"type":""}', "unknown_type", "unknown type ''"),
    (b'{"type":"\\n\\u0000"}', "unknown_type", r"unknown type '\n\x00'"),
    (b'{"type":"%b"}' % (b"x" * 1000), "unknown_type", "unknown type 'xxx"),
]


@pytest.mark.parametrize(
    ("payload", "reason", "text"), DROPPED, ids=[repr(payload[:40]) for payload, *_ in DROPPED]
)
def test_a_message_without_a_route_is_dropped_counted_and_logged(payload, reason, text):
    """No message of a peer raises an error, and none fills the log."""
    feed, batches = receive_each([match(7), payload, match(8)])
    [oddity] = batches[1].oddities

    assert [match(7), match(8)] == payloads_of(batches)
    assert {reason: 1} == feed.session.dropped
    assert oddity.startswith(text)
    assert len(oddity) <= 200


@pytest.mark.parametrize(
    ("held", "resyncs"), [({TICKER, LEVEL2, MATCHES}, [LEVEL2]), ({TICKER}, []), (None, [])]
)
def test_an_unreadable_update_requests_the_snapshots_of_its_connection(held, resyncs):
    """It may be an update of any book; one soon after it requests them at the end of a pause."""
    feed, [received] = receive_each([UNREADABLE], held)
    assert resyncs == received.resyncs
    assert feed.receive(b'{"type":"snapshot","product_id":7}').resyncs == []

    for pause_s in (RESYNC_REPAIRED_S, RESYNC_REPAIRED_S * 2):
        feed.now += pause_s - 1
        assert feed.receive(b"garbage").resyncs == []
        feed.now += 1
        assert resyncs == feed.receive(b"garbage").resyncs
        assert feed.receive(b"garbage").resyncs == []
        assert feed.receive(UNREADABLE).resyncs == []


def test_books_with_a_snapshot_since_the_last_unreadable_update_need_no_other_one():
    """The snapshots that the first one of a burst requested repair them."""
    eth = LEVEL2._replace(product_id="ETH-USD")
    feed, _ = receive_each([UNREADABLE], {LEVEL2, eth})
    feed.now = 1
    assert feed.receive(UNREADABLE).resyncs == []
    feed.source.ask([LEVEL2], 2)
    feed.now = RESYNC_REPAIRED_S
    assert feed.receive(b"garbage").resyncs == [eth]

    feed.receive(UNREADABLE)
    feed.source.ask([LEVEL2, eth], feed.now + 1)
    feed.now += RESYNC_REPAIRED_S * 2
    assert feed.receive(b"garbage").resyncs == []


def test_the_books_of_another_line_need_no_snapshot():
    """Their messages are delivered from the connection that leads."""
    snapshot = b'{"type":"snapshot","product_id":"BTC-USD"}'
    feed, _ = receive_each([ticker(1), snapshot], {TICKER, LEVEL2})
    leader = feed.source
    feed.source = Source(1, {TICKER, LEVEL2})
    feed.session.connected(feed.source)

    assert feed.receive(UNREADABLE).resyncs == []
    feed.receive(UNREADABLE)
    feed.now = RESYNC_REPAIRED_S
    assert feed.receive(b"garbage").resyncs == []
    feed.source = leader
    assert feed.receive(UNREADABLE).resyncs == [LEVEL2]


def test_an_hour_without_an_unreadable_update_ends_the_pauses():
    """One a week has its snapshots at once, and the next pause is short."""
    feed, _ = receive_each([], {LEVEL2})
    for _ in range(7):
        feed.now += RESYNC_AGAIN_S
        assert feed.receive(UNREADABLE).resyncs == [LEVEL2]
    feed.now += 60
    feed.receive(UNREADABLE)
    feed.now += RESYNC_REPAIRED_S - 60
    assert feed.receive(b"garbage").resyncs == [LEVEL2]


@pytest.mark.parametrize(
    "payload", [b"garbage", b"{}", b'{"type":null,"changes":[]}', b"[]", b"7", b"null", b"<html>"]
)
def test_a_message_without_a_type_cannot_be_an_update(payload):
    """It is counted, and no snapshot is requested for it."""
    feed, [received] = receive_each([payload], {TICKER, LEVEL2})

    assert (received.resyncs, feed.session.dropped) == ([], {"garbage": 1})


@pytest.mark.parametrize(
    ("held", "pause_s", "resyncs"),
    [
        ({TICKER, LEVEL2}, PRODUCT_SILENCE_S + 0.1, [LEVEL2, BATCH]),
        ({TICKER, LEVEL2}, PRODUCT_SILENCE_S, []),
        (None, 1000, []),  # no subscribe to its heartbeats
    ],
)
def test_a_product_that_was_silent_requests_its_snapshot(held, pause_s, resyncs):
    """It was interrupted: heartbeats arrive each second."""
    snapshot = b'{"type":"snapshot","product_id":"BTC-USD"}'
    feed, _ = receive_each([snapshot], held)
    feed.now = pause_s

    assert resyncs == feed.receive(ticker(7)).resyncs
    assert [] == feed.receive(ticker(8)).resyncs


def test_a_connection_that_is_not_primary_requests_no_snapshot():
    """The other line may have been quiet for an hour; the primary's book is whole."""
    feed, _ = receive_each(
        [ticker(1), b'{"type":"snapshot","product_id":"BTC-USD"}'], {TICKER, LEVEL2}
    )
    leader = feed.source
    feed.source = Source(1, {TICKER, LEVEL2})
    feed.session.connected(feed.source)
    feed.now = 1000

    assert [] == feed.receive(ticker(2)).resyncs
    feed.source, feed.now = leader, 1001
    assert [] == feed.receive(ticker(3)).resyncs


@pytest.mark.parametrize(
    ("payload", "due"),
    [("key", 2), ("Authentication Failed", 1), ("delisted", 2)],
)
def test_only_an_error_about_the_key_is_the_whole_answer_to_a_request(payload, due):
    """Every other error is followed by its acknowledgement."""
    errors = {
        "key": error(KEYS_NEEDED),
        "Authentication Failed": error("Bad Key", "Authentication Failed"),
        "delisted": error("X-USD is delisted"),
    }
    feed = Feed({LEVEL2, TICKER})
    feed.source.acks_due = 2
    feed.receive(errors[payload])

    assert due == feed.source.acks_due


def test_a_recording_continues_after_an_error_that_is_in_it():
    """It holds every topic, for any refusal in it."""
    errors = [error(KEYS_NEEDED), b'{"message":"ErrSlowConsume","type":"error"}']
    feed, batches = receive_each([match(7), *errors, match(8)])

    assert [match(7), match(8)] == payloads_of(batches)
    assert feed.source.held is None


def test_a_refused_topic_is_not_missed_in_the_acknowledgement():
    """It would be requested again and again."""
    feed = Feed()
    feed.source.held = frozenset()
    feed.source.ask([LEVEL2, TICKER], 0)
    feed.receive(error(KEYS_NEEDED))

    assert {TICKER} == feed.source.held
    assert [TICKER] == feed.source.unheard(100, 10)
    assert [] == feed.receive(acknowledgement(("ticker", "BTC-USD"))).unacknowledged


def test_an_unknown_type_is_logged_once_and_always_counted():
    """A new channel of the exchange would otherwise write a line per message."""
    feed, batches = receive_each([b'{"type":"lottery"}'] * 5)

    assert feed.session.dropped["unknown_type"] == 5
    assert [len(received.oddities) for received in batches] == [1, 0, 0, 0, 0]


def test_the_number_of_unknown_types_is_bounded():
    """A hostile feed invents a type for each message."""
    feed, batches = receive_each(b'{"type":"x%d"}' % number for number in range(1000))

    assert feed.session.dropped["unknown_type"] == 1000
    assert (
        sum(len(received.oddities) for received in batches) == len(feed.session._odd_types) == 100
    )


def error(reason, message="Failed to subscribe"):
    return json.dumps({"type": "error", "message": message, "reason": reason}).encode()


KEYS_NEEDED = "level2, level3, and full channels now require authentication. https://docs…"


@pytest.mark.parametrize(
    ("payload", "refusals", "complaints"),
    [
        (
            error("X-USD is not a valid product"),
            [Refusal("X-USD", "Failed to subscribe", "X-USD is not a valid product")],
            [],
        ),
        (
            error("LOOM-USDC is delisted"),
            [Refusal("LOOM-USDC", "Failed to subscribe", "LOOM-USDC is delisted")],
            [],
        ),
        (error(" is not a valid product"), [], ["Failed to subscribe:  is not a valid product"]),
        (error(KEYS_NEEDED), [], [f"Failed to subscribe: {KEYS_NEEDED}"]),
        (b'{"message":"ErrSlowConsume","type":"error"}', [], ["ErrSlowConsume: "]),
        (b'{"type":"error","message":{"message":"Invalid API Key"},"reason":7}', [], [": "]),
        (error("x" * 1000, ""), [], [": " + "x" * 198]),
    ],
)
def test_an_error_is_a_refusal_of_a_product_or_a_complaint(payload, refusals, complaints):
    """A refusal goes to the product's subscribers; a complaint is the operator's alarm."""
    _, [received] = receive_each([payload])

    assert refusals == received.refusals
    assert complaints == received.complaints
    assert not received.messages


@pytest.mark.parametrize(
    ("held", "payload", "refused", "complaints"),
    [
        # Without a key: channels that need one are refused, and no alarm is raised.
        ({LEVEL2, TICKER}, error(KEYS_NEEDED), ["level2"], 0),
        ({LEVEL2, Topic("full", "ETH-USD")}, error(KEYS_NEEDED), ["full", "level2"], 0),
        ({TICKER}, error(KEYS_NEEDED), [], 1),
        (None, error(KEYS_NEEDED), [], 1),
        # An invalid key concerns the operator as well.
        ({LEVEL2, TICKER}, error("Bad Key", "Authentication Failed"), ["level2"], 1),
        # An older exchange, or relay, that has fewer channels.
        ({BATCH, TICKER}, error("level2_50 is not a valid channel"), ["level2_batch"], 0),
        ({BATCH, TICKER}, error("level9 is not a valid channel"), [], 1),
    ],
)
def test_a_channel_may_be_refused(held, payload, refused, complaints):
    """Its subscribers get the exchange's own words; the other channels continue."""
    feed, [received] = receive_each([payload], held)
    text = json.loads(payload)

    assert [Refusal("", text["message"], text["reason"], c) for c in refused] == received.refusals
    assert complaints == len(received.complaints)
    assert frozenset(refused) == feed.session.refused
    assert held is None or {t for t in held if t.channel not in refused} == feed.source.held
    again = feed.receive(payload)
    assert [] == again.refusals


def test_level2_batch_serves_both_channels_when_level2_is_refused():
    """The exchange refuses level2 without a key (COINBASE §5)."""
    feed = Feed({LEVEL2})
    feed.receive(error(KEYS_NEEDED))
    feed.source.held |= {BATCH}
    [message] = feed.receive(b'{"type":"snapshot","product_id":"BTC-USD"}').messages

    assert (BATCH, LEVEL2) == (message.topic, message.also)


def acknowledgement(*rows):
    channels = [{"name": name, "product_ids": list(product_ids)} for name, *product_ids in rows]
    return json.dumps({"type": "subscriptions", "channels": channels}).encode()


@pytest.mark.parametrize(
    ("held", "due", "payload", "missing"),
    [
        ({TICKER, BATCH}, 1, acknowledgement(("ticker", "BTC-USD"), ("level2_50", "BTC-USD")), []),
        ({TICKER, MATCHES}, 1, acknowledgement(("ticker", "BTC-USD")), [MATCHES]),
        ({TICKER, MATCHES}, 0, acknowledgement(), [MATCHES, TICKER]),
        ({TICKER, MATCHES}, 2, acknowledgement(), []),  # a request is still outstanding
        (None, 1, acknowledgement(), []),
        ({TICKER}, 1, b'{"type":"subscriptions","channels":7}', []),
        ({Topic("rfq_matches", "")}, 1, acknowledgement(("rfq_matches", "ALL")), []),
        ({Topic("status", "")}, 1, acknowledgement(("status",)), []),
    ],
)
def test_a_topic_that_the_exchange_does_not_acknowledge_is_requested_again(
    held, due, payload, missing
):
    """A subscribe can be lost without an error (COINBASE §16)."""
    feed = Feed(held)
    feed.source.acks_due = due
    received = feed.receive(payload)

    assert missing == received.unacknowledged
    assert bool(missing) == bool(received.oddities)
    assert max(0, due - 1) == feed.source.acks_due


def test_heartbeats_are_recorded_on_each_connection():
    """A line with heartbeats that falls silent is dead; one without is not (COINBASE §16.1)."""
    feed, _ = receive_each([match(7)])
    assert not feed.source.heard_heartbeat

    feed.receive(BEAT)
    assert feed.source.heard_heartbeat

    feed.connect()
    assert not feed.source.heard_heartbeat


BEAT = b'{"type":"heartbeat","product_id":"BTC-USD","sequence":1}'


def test_a_product_without_its_heartbeats_is_quiet():
    """The connection lives, one product on it does not (COINBASE §16.1)."""
    feed, _ = receive_each([BEAT, match(7, product_id="X-Y")])
    feed.now = 9.0
    feed.receive(ticker(1))

    assert [] == feed.session.quiet_products(feed.source, 18.9, 10)
    assert ["BTC-USD"] == feed.session.quiet_products(feed.source, 19, 10)
    assert [] == feed.session.quiet_products(Source(), 19, 10)
    feed.session.hold_only({Topic("matches", "X-Y")})
    assert [] == feed.session.quiet_products(feed.source, 19, 10)


@pytest.mark.parametrize("held", [{TICKER}, set(), None])
def test_a_product_that_a_connection_releases_starts_again_there(held):
    """So its return is noticed; the state of another line stays."""
    feed = Feed({MATCHES, TICKER})
    feed.receive(match(7), b'{"type":"ticker","product_id":"BTC-USD"}')
    feed.source.held = held
    feed.session.let_go(feed.source)

    assert ([] if not held else ["BTC-USD"]) == list(feed.source.products)
    assert 7 == feed.session.products["BTC-USD"].numbers_of("matches").highest


def test_trades_are_watched_across_connections():
    """Trades missed while the line was down are the usual gaps."""
    feed, _ = receive_each([match(7)])
    assert is_empty(feed.session.lost(feed.source, 1))
    feed.connect()
    received = feed.receive(match(9, "last_match"), match(10))

    assert [gap(8, 8)] == received.notices


def test_queued_messages_are_released_when_the_gap_is_due():
    """The caller asks for the time and calls then."""
    feed = Feed()
    feed.session.connected(Source(1, None))
    feed.receive(match(1), match(3))

    assert is_empty(feed.session.expire(feed.session.arbiter.next_expiry() - 0.001))
    received = feed.session.expire(feed.session.arbiter.next_expiry())
    assert ([gap(2, 2)], [3]) == (received.notices, [m.trade_id for m in received.messages])


def test_the_order_of_a_read_is_kept_across_topics():
    """The exchange's order of a product holds across channels."""
    payloads = [
        match(7),
        ticker(7),
        b'{"type":"subscriptions","channels":[]}',
        b'{"type":"snapshot","product_id":"BTC-USD","asks":[],"bids":[]}',
        b'{"type":"l2update","product_id":"BTC-USD","changes":[]}',
        b"garbage",
        match(8),
    ]
    received = Feed().receive(*payloads)

    assert [payloads[at] for at in (0, 1, 3, 4, 6)] == [m.payload for m in received.messages]
    assert [
        ("match", 7),
        ("ticker", None),
        ("snapshot", None),
        ("l2update", None),
        ("match", 8),
    ] == [(message.type, message.trade_id) for message in received.messages]


def test_a_key_that_failed_is_tried_again_and_a_missing_one_is_not():
    """A clock may have been wrong; a channel that needs a key will always need one."""
    source = Source(held=[Topic("level2", "BTC-USD"), Topic("ticker", "BTC-USD")])
    session = UpstreamSession()
    session.connected(source)
    failed = b'{"type":"error","message":"Authentication Failed","reason":"x"}'
    session.receive(source, [(b"", failed)], 0.0)
    source.ask([Topic("full", "BTC-USD")], 0.0)
    wanted = {
        "type": "error",
        "message": "Failed",
        "reason": "full channels require authentication",
    }
    session.receive(source, [(b"", json.dumps(wanted).encode())], 0.0)

    assert ({"level2", "full"}, {"level2"}) == (session.refused, session.key_failed)
    session.try_again(frozenset({"level2"}))
    assert ({"full"}, set()) == (session.refused, session.key_failed)


def test_a_second_error_about_a_key_that_is_known_to_be_missing_is_no_complaint():
    """A subscribe that was in flight already gets the same answer."""
    source = Source(held=[Topic("level2", "BTC-USD")])
    session = UpstreamSession()
    session.connected(source)
    error = {
        "type": "error",
        "message": "Failed",
        "reason": "level2 channels require authentication",
    }
    frame = [(b"", json.dumps(error).encode())]
    first, second = session.receive(source, frame, 0.0), session.receive(source, frame, 0.1)

    assert ["level2"] == [refusal.channel for refusal in first.refusals]
    assert ([], []) == (second.refusals, second.complaints)
