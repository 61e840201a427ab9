"""The conversation with the exchange: what is relayed, what is told, what is dropped."""

import json
from collections import Counter
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.domain.channel import TOPIC_CHANNEL_BY_TYPE, Topic
from hedgehogd.domain.limits import TRADE_ID_STEP_MAX
from hedgehogd.protocol import notices, upstream
from hedgehogd.protocol.frames import FrameScanner, encode_text
from hedgehogd.protocol.gaps import Gap
from hedgehogd.protocol.upstream import Refusal, TopicNotice, UpstreamSession
from tests.recordings import FULL, PRO, recording

MATCHES = Topic("matches", "BTC-USD")
# No ten of them follow one another: that many repeats in a row would be a new beginning.
PLAUSIBLE = [trade_id for trade_id in range(1, 50) if trade_id % 10]


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
    return TopicNotice(topic, notices.gap(topic, Gap(first, last)))


def hear(payloads):
    """Return the session and all it received, one read for each payload."""
    session = UpstreamSession()
    return session, [session.receive(frames(payload)) for payload in payloads]


def relayed(heard):
    return [message.payload for received in heard for message in received.messages]


def test_the_recorded_feed_is_relayed_whole():
    """9,946 real messages: three acknowledgements end here, all others pass untouched."""
    session = UpstreamSession()
    received = session.receive(frames(*recorded()))
    data = [line for line in recorded() if b'"subscriptions"' not in line]

    assert len(received.messages) == 9943
    assert data == [message.payload for message in received.messages]
    assert [encode_text(line) for line in data] == [message.frame for message in received.messages]
    assert not any(received[1:])
    assert not session.dropped
    assert (session.gaps, session.trades_missing) == (0, 0)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(min_value=0, max_value=60_000), max_size=20))
def test_the_recorded_feed_reads_the_same_however_it_arrives(places):
    """Scanner and session together: bytes in pieces in, the same messages out."""
    data = b"".join(map(encode_text, recorded()[-300:]))
    ends = [0, *sorted(place for place in places if place < len(data)), len(data)]
    scanner, session = FrameScanner(1 << 20), UpstreamSession()
    heard = [session.receive(scanner.receive(data[start:end])[0]) for start, end in pairwise(ends)]

    assert recorded()[-300:] == relayed(heard)


def test_the_full_channel_is_not_ours():
    """Heartbeats pass; order events are dropped, counted, and named once each in the log."""
    lines = recording(f"{FULL}/feed.jsonl").read_bytes().splitlines()
    kinds = Counter(json.loads(line)["type"] for line in lines)
    session, heard = hear(lines)
    unknown = {kind: count for kind, count in kinds.items() if kind not in TOPIC_CHANNEL_BY_TYPE}

    assert kinds["heartbeat"] == len(relayed(heard))
    assert {"unknown_type": sum(unknown.values())} == session.dropped
    assert sorted(f"unknown type {kind!r}" for kind in unknown) == sorted(
        oddity for received in heard for oddity in received.oddities
    )


@pytest.mark.parametrize(
    ("trades", "delivered", "told", "counts"),
    [
        # FEED §6.4: the next match has trade_id + 1 if nothing was lost.
        ([match(7, "last_match"), match(8)], [0, 1], [], (0, 0, 0)),
        ([match(7), match(9)], [0, 1], [gap(8, 8)], (1, 1, 0)),
        ([match(7), match(12), match(14)], [0, 1, 2], [gap(8, 11), gap(13, 13)], (2, 5, 0)),
        # A reconnection: its last_match says how many were missed, if any.
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
        # What is no trade id is not compared, and does not disturb those that are.
        ([match(7), match("8"), match(None), match(8)], [0, 1, 2, 3], [], (0, 0, 0)),
        ([match(7), match(-1), match(2**60), match(8)], [0, 1, 2, 3], [], (0, 0, 0)),
        ([match(7.0), match(True), match([7])], [0, 1, 2], [], (0, 0, 0)),
    ],
)
def test_trades_are_delivered_once_or_reported_missing(trades, delivered, told, counts):
    """No silent loss (invariant 2), and no trade counted twice by who sums volumes."""
    session, heard = hear(trades)

    assert [trades[at] for at in delivered] == relayed(heard)
    assert told == [notice for received in heard for notice in received.notices]
    assert counts == (session.gaps, session.trades_missing, session.dropped["repeat"])


@settings(deadline=None)
@given(st.lists(st.sampled_from(PLAUSIBLE), min_size=1, max_size=40), st.booleans())
def test_trades_and_gaps_together_are_every_trade(trade_ids, in_one_read):
    """However trades arrive, what was told and what was sent add up."""
    session = UpstreamSession()
    reads = [trade_ids] if in_one_read else [[trade_id] for trade_id in trade_ids]
    heard = [session.receive(frames(*map(match, read))) for read in reads]
    sent = [message.trade_id for received in heard for message in received.messages]
    told = [json.loads(notice.payload) for received in heard for notice in received.notices]
    missing = [n for t in told for n in range(t["first_trade_id"], t["last_trade_id"] + 1)]

    assert list(range(trade_ids[0], max(sent) + 1)) == sorted(sent + missing)
    assert len(missing) == session.trades_missing
    assert len(trade_ids) == len(sent) + session.dropped["repeat"]


def test_a_topic_that_was_let_go_begins_anew():
    """Trades nobody wanted are not missing when somebody wants the product again."""
    session = UpstreamSession()
    session.receive(frames(match(7)))
    session.forget(MATCHES)
    session.forget(Topic("ticker", "BTC-USD"))
    received = session.receive(frames(match(1000)))

    assert [match(1000)] == [message.payload for message in received.messages]
    assert not received.notices


def test_trade_ids_that_are_set_back_are_counted_anew():
    """A sandbox that is reset must not look like a market of repeats for ever after."""
    session = UpstreamSession()
    far = TRADE_ID_STEP_MAX + 100
    session.receive(frames(match(far), match(far + 1)))
    received = session.receive(frames(match(9, "last_match"), match(10), match(12)))

    assert [9, 10, 12] == [message.trade_id for message in received.messages]
    assert [gap(11, 11)] == received.notices
    assert ["matches:BTC-USD counts trades anew, from 9"] == received.oddities
    assert 0 == session.dropped["repeat"]


def test_a_server_that_is_a_few_trades_behind_repeats_nothing():
    """A reconnection may land on a neighbour; its last match was delivered before."""
    session = UpstreamSession()
    session.receive(frames(match(100), match(101)))
    received = session.receive(frames(match(100, "last_match"), match(101), match(102)))

    assert [102] == [message.trade_id for message in received.messages]
    assert [] == received.notices


def test_what_nobody_asked_for_is_not_relayed():
    """An exchange that sends the whole market must not fill our memory with it."""
    session = UpstreamSession(wanted=frozenset({MATCHES}))
    received = session.receive(frames(match(1), match(1, product_id="ETH-USD")))

    assert [MATCHES] == [message.topic for message in received.messages]
    assert {"unwanted": 1} == session.dropped


def test_a_gap_stands_between_the_messages_that_it_parts():
    """Told before everything in the read, it would speak of what is yet to come."""
    session = UpstreamSession()
    received = session.receive(frames(match(1), match(2), match(4), match(5)))
    parts = [([m.trade_id for m in messages], told) for messages, told in received.parts()]

    assert [([1, 2], []), ([4, 5], [gap(3, 3)])] == parts
    first = session.receive(frames(match(9)))
    assert [(first.messages, [gap(6, 8)])] == list(first.parts())
    assert [([], [])] == list(session.receive([]).parts())


def test_what_nobody_asked_for_is_not_watched_either():
    """Neither its gaps nor its heartbeats are ours to tell."""
    session = UpstreamSession(wanted=frozenset({MATCHES}))
    beat = b'{"type":"heartbeat","product_id":"X-Y","sequence":1}'
    received = session.receive(frames(match(1, product_id="X-Y"), match(9, product_id="X-Y"), beat))

    assert not any(received)
    assert not session.heard_heartbeat
    assert not session._trades


def test_an_absurd_trade_id_is_relayed_and_named_and_silences_nothing():
    """Raw is sacred, also when it is wrong; what follows it must not be lost for it."""
    session = UpstreamSession()
    received = session.receive(frames(match(11), match(2**53 - 1), *map(match, range(12, 16))))

    assert [11, 2**53 - 1, 12, 13, 14, 15] == [m.trade_id for m in received.messages]
    assert [f"matches:BTC-USD has an odd trade id, {2**53 - 1} after 11"] == received.oddities
    assert not received.notices


def test_a_gap_at_the_begin_of_a_read_does_not_cut_it():
    """One read is one delivery wherever that is true."""
    session = UpstreamSession()
    session.receive(frames(match(7)))
    received = session.receive(frames(match(10), match(11)))

    assert [(received.messages, [gap(8, 9)])] == list(received.parts())


def test_trades_beyond_what_is_remembered_pass_unwatched(monkeypatch):
    """A feed with endless products must not grow the table without end (invariant 4)."""
    monkeypatch.setattr(upstream, "TOPICS_MAX", 1)
    session, heard = hear([match(7), match(1, product_id="X-Y"), match(9, product_id="X-Y")])

    assert len(relayed(heard)) == 3
    assert list(session._trades) == [MATCHES]
    assert not session.gaps


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
def test_dirt_in_a_message_is_the_subscribers_business(payload):
    """All of it has been seen on the real feed or may be (FEED §6.6); none of it is ours."""
    session, heard = hear([payload])
    [message] = heard[0].messages

    assert payload == message.payload
    assert encode_text(payload) == message.frame
    assert message.sequence is None
    assert not session.dropped


DROPPED = [
    (b"", "garbage", "garbage: "),
    (b"hello", "garbage", "garbage: JSON is malformed"),
    (b"[]", "garbage", "garbage: Expected `object`, got `array`"),
    (b'["open","BTC-USD","57560479456","12aca6e0"]', "garbage", "garbage: Expected `object`"),
    (b"[" * 100_000, "garbage", "garbage: "),
    (b'{"type":"x","sequence":' + b"[" * 100_000, "garbage", "garbage: "),
    (b'{"type":7}', "garbage", "garbage: Expected `str`, got `int`"),
    (b'{"type":"ticker","product_id":null}', "garbage", "garbage: Expected `str`, got `null`"),
    (b'{"type":"rfq_match","trade_id":1}', "unknown_type", "unknown type 'rfq_match'"),
    (b'{"type":"level3","schema":{}}', "unknown_type", "unknown type 'level3'"),
    (b'{"type":""}', "unknown_type", "unknown type ''"),
    (b'{"type":"\\n\\u0000"}', "unknown_type", r"unknown type '\n\x00'"),
    (b'{"type":"%b"}' % (b"x" * 1000), "unknown_type", "unknown type 'xxx"),
]


@pytest.mark.parametrize(
    ("payload", "reason", "text"), DROPPED, ids=[repr(payload[:40]) for payload, *_ in DROPPED]
)
def test_what_cannot_be_routed_is_dropped_counted_and_named(payload, reason, text):
    """Crash never on what others send (invariant 5), and never fill the log with it."""
    session, heard = hear([match(7), payload, match(8)])
    [oddity] = heard[1].oddities

    assert [match(7), match(8)] == relayed(heard)
    assert {reason: 1} == session.dropped
    assert oddity.startswith(text)
    assert len(oddity) <= 200


def test_an_unknown_type_is_named_once_and_counted_always():
    """A new channel of the exchange would otherwise write a line per message."""
    session, heard = hear([b'{"type":"auction"}'] * 5)

    assert session.dropped["unknown_type"] == 5
    assert [len(received.oddities) for received in heard] == [1, 0, 0, 0, 0]


def test_the_names_of_unknown_types_are_not_collected_without_end():
    """A hostile feed invents a type a message."""
    session, heard = hear(b'{"type":"x%d"}' % number for number in range(1000))

    assert session.dropped["unknown_type"] == 1000
    assert sum(len(received.oddities) for received in heard) == len(session._odd_types) == 100


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
    """The one is told to whoever asked for the product; the other is the operator's alarm."""
    _, [received] = hear([payload])

    assert refusals == received.refusals
    assert complaints == received.complaints
    assert not received.messages


def test_heartbeats_are_listened_for_on_each_connection():
    """A line that carried them and falls silent is dead; one that never did is not (PAIN §1)."""
    session, _ = hear([match(7)])
    assert not session.heard_heartbeat

    session.receive(frames(b'{"type":"heartbeat","product_id":"BTC-USD","sequence":1}'))
    assert session.heard_heartbeat

    session.reconnected()
    assert not session.heard_heartbeat


def test_trades_are_watched_across_connections():
    """What was missed while the line was down is exactly what gaps are about."""
    session, _ = hear([match(7)])
    session.reconnected()
    received = session.receive(frames(match(9, "last_match"), match(10)))

    assert [gap(8, 8)] == received.notices


def test_the_order_of_a_read_is_kept_across_topics():
    """Per product, upstream order holds across channels (invariant 1)."""
    payloads = [
        match(7),
        b'{"type":"ticker","product_id":"BTC-USD","sequence":7}',
        b'{"type":"subscriptions","channels":[]}',
        b'{"type":"l2update","product_id":"BTC-USD","changes":[]}',
        b"garbage",
        match(8),
    ]
    received = UpstreamSession().receive(frames(*payloads))

    assert [payloads[at] for at in (0, 1, 3, 5)] == [m.payload for m in received.messages]
    assert [(message.type, message.trade_id) for message in received.messages] == [
        ("match", 7),
        ("ticker", None),
        ("l2update", None),
        ("match", 8),
    ]
