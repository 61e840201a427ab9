"""The tape: offsets, bounds, and positions that never state too much."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.arbitration.batch import NoticeKind, TopicNotice
from hedgehogd.domain.channel import Topic
from hedgehogd.engine import tape as tape_module
from hedgehogd.engine.memory import weight
from hedgehogd.engine.tape import Known, Loss, Tape, positions
from tests.fakes import make_message

PRODUCTS = ["BTC-USD", "ETH-USD"]
TICKER, MATCHES, FULL = (Topic(channel, "BTC-USD") for channel in ("ticker", "matches", "full"))
CHANNELS = ["ticker", "full", "matches", "heartbeat"]
TOPICS = [Topic(channel, product_id) for channel in CHANNELS for product_id in PRODUCTS]
BATCHES = st.lists(st.lists(st.sampled_from(TOPICS), min_size=1, max_size=5), max_size=12)
SOME_TOPICS = st.sets(st.sampled_from(TOPICS), min_size=1)
SHARES = st.floats(min_value=0, max_value=1)
SIZE = weight(make_message("ticker", "BTC-USD", 100)) + 1


def a_message(topic, sequence):
    """Return a message; every third of full is a trade."""
    is_trade = topic.channel == "full" and sequence % 3 == 0
    also = Topic("matches", topic.product_id) if is_trade else None
    return make_message(*topic, sequence, also=also)


def filled(batches, bytes_max=10**6):
    """Return a tape, and every message ever put on it, by offset from 1."""
    tape, history = Tape(bytes_max), [None]
    for topics in batches:
        start = 99 + len(history)
        batch = [a_message(topic, start + index) for index, topic in enumerate(topics)]
        tape.append(batch)
        history += batch
    return tape, history


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (make_message("matches", sequence=7), [MATCHES]),
        (make_message("ticker", sequence=7), [TICKER]),
        (make_message("full", sequence=7), [FULL]),
        (make_message("full", sequence=7, also=MATCHES), [FULL, MATCHES]),
        (make_message("level3", sequence=7), [Topic("level3", "BTC-USD")]),
        (make_message("ticker"), []),  # the exchange may leave the number out
        (make_message("heartbeat", sequence=7), []),
        (make_message("ticker_batch", sequence=7), []),
        (make_message("level2", sequence=7), []),
        (make_message("level2_batch", sequence=7, also=Topic("level2", "BTC-USD")), []),
        (make_message("rfq_matches", sequence=7, also=Topic("rfq_matches", "")), []),
    ],
)
def test_only_numbered_messages_of_resuming_channels_move_positions(message, expected):
    """State repeats its numbers, so a resume by them would skip messages not delivered."""
    assert expected == list(positions(message))


def test_a_trade_of_full_moves_the_position_of_matches_too():
    """Its subscribers got it; a resume before it would deliver it twice."""
    tape = Tape()
    tape.append([make_message("full", sequence=5), make_message("full", sequence=6, also=MATCHES)])
    tape.append([make_message("full", sequence=7), make_message("full", sequence=8, also=MATCHES)])

    found = [tape.position([FULL, MATCHES], at) for at in (1, 2, 3, 4)]
    assert found == [
        {FULL: 5},
        {FULL: 6, MATCHES: 6},
        {FULL: 7, MATCHES: 6},
        {FULL: 8, MATCHES: 8},
    ]
    assert [offset for offset, _ in tape.read(0, frozenset({MATCHES}))] == [2, 4]


@given(BATCHES)
def test_offsets_rise_by_one_from_one(batches):
    """One number states how far a subscriber is served; it must not jump or repeat."""
    tape, history = filled(batches)

    assert (1, len(history) - 1) == (tape.begin, tape.end)
    assert list(enumerate(history))[1:] == tape.read(0, frozenset(TOPICS))
    for after in range(len(history)):
        assert history[after + 1 :] == tape.read_all(after)


@given(BATCHES, st.integers(0, 12), SHARES, SOME_TOPICS)
def test_reading_returns_the_messages_of_the_topics_after_the_offset(batches, room, share, topics):
    """A member that moves gets the owed messages of the running batch from here."""
    tape, history = filled(batches, room * SIZE)
    after = round(share * len(history))
    expected = [
        (offset, history[offset])
        for offset in range(max(after + 1, tape.begin), len(history))
        if topics & {history[offset].topic, history[offset].also}
    ]

    assert expected == tape.read(after, frozenset(topics))


@given(BATCHES, st.integers(0, 12))
def test_the_tape_is_bounded_but_for_the_newest_batch(batches, room):
    """Memory has a limit; a member that moves while a batch is written needs all of it."""
    tape, history = filled(batches, room * SIZE)
    kept = history[tape.begin :]
    newest = len(batches[-1]) if batches else 0

    assert sum(map(weight, kept)) == tape.bytes
    assert tape.bytes <= room * SIZE or len(kept) == newest
    assert newest <= len(kept)


def known_position(tape, history, topics, at):
    """Return the position that can be known: by brute force, from every message ever published."""
    position = {}
    for topic in topics:
        numbered = [
            o for o in range(1, len(history)) if topic in {history[o].topic, history[o].also}
        ]
        before = [offset for offset in numbered if offset <= at]
        left = [offset for offset in numbered if offset < tape.begin]
        if topic.channel != "heartbeat" and before and before[-1] >= max([0, *left]):
            position[topic] = history[before[-1]].sequence
    return position


@given(BATCHES, st.integers(0, 12), SHARES, SOME_TOPICS)
def test_a_position_is_the_last_sequence_by_then_or_nothing(batches, room, share, topics):
    """A position that states one message too many loses it silently on resume."""
    tape, history = filled(batches, room * SIZE)
    at = round(share * len(history))

    assert known_position(tape, history, topics, at) == tape.position(topics, at)


def test_a_position_is_known_at_any_offset_on_the_tape():
    """A slow subscriber gets its own position, not that of the fastest."""
    ticker, matches = Topic("ticker", "BTC-USD"), Topic("matches", "BTC-USD")
    tape, _ = filled([[ticker, matches], [matches, ticker]])

    assert [tape.position([ticker, matches], at) for at in range(5)] == [
        {},
        {ticker: 100},
        {ticker: 100, matches: 101},
        {ticker: 100, matches: 102},
        {ticker: 103, matches: 102},
    ]


def test_a_message_without_a_number_moves_no_position():
    """Heartbeats come every second; a resume needs none of them."""
    tape, topic = Tape(), Topic("ticker", "BTC-USD")
    tape.append([make_message(*topic, 5), make_message("heartbeat", "BTC-USD", 6)])

    assert {topic: 5} == tape.position([topic], 1)


def test_a_position_from_before_the_tape_states_only_known_sequences():
    """A burst of snapshots can push a slow subscriber's place off the tape within seconds."""
    tape = Tape(bytes_max=0)
    for sequence in (1, 2, 3):
        tape.append([make_message("matches", "BTC-USD", sequence)])
    tape.append([make_message("heartbeat", "BTC-USD", 3)])
    topic = Topic("matches", "BTC-USD")

    assert {topic: 3} == tape.position([topic], 3)  # left the tape, but known
    assert tape.position([topic], 1) == {}  # it may be 2 or 3


def test_the_position_of_a_message_that_has_just_left_is_known():
    """Later messages are still on the tape, and not delivered yet."""
    tape, topic = Tape(bytes_max=0), Topic("ticker", "BTC-USD")
    for sequence in (5, 6):
        tape.append([make_message(*topic, sequence)])

    assert tape.begin == 2
    assert {topic: 5} == tape.position([topic], 1)


def test_a_forgotten_topic_has_no_position_until_its_next_message():
    """A topic that the feed released has a gap after it; a resume there would hide it."""
    tape, topic = Tape(), Topic("ticker", "BTC-USD")
    tape.append([make_message(*topic, 5)])
    tape.forget(topic)
    assert tape.position([topic], tape.end) == {}

    tape.append([make_message(*topic, 9)])
    assert {topic: 9} == tape.position([topic], tape.end)


def test_a_position_from_before_a_topic_was_forgotten_states_nothing():
    """The sequence before the topic's new first message may be newer than the delivered ones."""
    tape, topic = Tape(), Topic("ticker", "BTC-USD")
    tape.append([make_message(*topic, 5)])
    tape.forget(topic)
    tape.append([make_message("heartbeat")])
    tape.precede(topic, 9)
    tape.append([make_message(*topic, 10)])

    assert [tape.position([topic], at) for at in (0, 1, 2, 3)] == [
        {},
        {topic: 9},  # the messages from before it was forgotten have left
        {topic: 9},
        {topic: 10},
    ]


def test_the_number_of_forgotten_topics_is_bounded(monkeypatch):
    """A hostile feed may invent products."""
    monkeypatch.setattr(tape_module, "TOPICS_MAX", 2)
    tape = Tape()
    for topic in TOPICS[:5]:
        tape.append([make_message(*topic, 5)])
        tape.forget(topic)

    assert len(tape._forgotten) == 2


def test_messages_of_a_forgotten_topic_leave_no_state():
    """Topics change for months; the state of each must not stay for ever."""
    tape, topic = Tape(bytes_max=0), Topic("ticker", "BTC-USD")
    tape.append([make_message(*topic, 5)])
    tape.forget(topic)
    tape.append([make_message("heartbeat")])
    tape.append([make_message(*topic, 9)])

    assert tape.position([topic], 1) == {}


def test_positions_are_kept_for_a_limited_number_of_topics(monkeypatch):
    """A hostile feed may invent products; the table does not grow with them."""
    monkeypatch.setattr(tape_module, "TOPICS_MAX", 2)
    tape, _ = filled([TOPICS[:3], TOPICS[:3]])

    assert dict(zip(TOPICS[:2], [103, 104], strict=True)) == tape.position(TOPICS, tape.end)


SECOND = 1_000_000


def received(message, at_us):
    message.published_us = at_us
    return message


STEPS = st.lists(
    st.one_of(st.lists(st.sampled_from(TOPICS), min_size=1, max_size=5), st.sampled_from(TOPICS)),
    max_size=20,
)


@given(STEPS, st.integers(0, 12))
def test_the_known_record_of_a_topic_is_whole(steps, room):
    """A resume at or after its begin needs only the tape; before it, the history.

    A topic that was forgotten starts again: messages since then may be missing.
    """
    tape, since, number = Tape(room * SIZE), dict.fromkeys(TOPICS, 0), 99
    history = [None]
    for step in steps:
        if isinstance(step, Topic):
            tape.forget(step)
            since[step] = len(history)
            continue
        batch = []
        for topic in step:
            number += 1
            batch.append(received(a_message(topic, number), 10 * number))
        tape.append(batch)
        history += batch

    for topic in TOPICS:
        held = [
            (offset, message)
            for offset, message in enumerate(history)
            if message is not None and offset >= since[topic] and topic in positions(message)
        ]
        gone = [each for each in held if each[0] < tape.begin]
        known = tape.known_from(topic)
        if not held:
            assert (known, tape.last_sequence(topic)) == (None, None)
            continue
        first = gone[-1][1] if gone else held[0][1]
        assert (known.sequence, known.published_us) == (first.sequence, first.published_us)
        assert known.has_left == bool(gone)
        assert tape.last_sequence(topic) == held[-1][1].sequence


def test_young_messages_stay_up_to_four_times_the_bound():
    """A new writer of history finds here the messages that the former one has not written."""
    size = weight(make_message("matches", sequence=100))
    tape = Tape(bytes_max=2 * size, keep_us=60 * SECOND)
    kept = []
    for seconds in (0, 1, 2, 3, 59, 60, 61, 62, 300):
        tape.append([received(make_message("matches", sequence=100), seconds * SECOND)])
        kept.append(tape.end - tape.begin + 1)

    assert kept == [1, 2, 3, 4, 5, 5, 5, 5, 2]
    for _ in range(20):
        tape.append([received(make_message("matches", sequence=100), 301 * SECOND)])
    assert tape.bytes == 8 * size


@pytest.mark.parametrize("keep_us", [0, 60 * SECOND])
def test_a_clock_that_steps_back_does_not_enlarge_the_tape(keep_us):
    """No message is younger for it; without history none is kept longer."""
    size = weight(make_message("matches", sequence=100))
    tape = Tape(bytes_max=2 * size, keep_us=keep_us)
    for n in range(20):
        tape.append([received(make_message("matches", sequence=100), -n * 3600 * SECOND)])

    assert tape.bytes == (8 * size if keep_us else 2 * size)


def test_the_known_record_begins_with_the_first_message():
    """It has not left the tape, so it can be delivered."""
    tape = Tape(bytes_max=0)
    assert tape.known_from(MATCHES) is None
    tape.append([received(make_message("matches", sequence=7), 70)])
    assert tape.known_from(MATCHES) == Known(7, 70)
    tape.append([received(make_message("matches", sequence=8), 80)])
    assert tape.known_from(MATCHES) == Known(7, 70, has_left=True)


def test_the_sequence_before_the_first_message_is_a_position():
    """Another instance has delivered that much of a topic that is quiet here."""
    tape = Tape()
    tape.precede(MATCHES, 5)
    tape.precede(MATCHES, 4)
    tape.append([make_message("ticker", sequence=7)])
    assert tape.position([MATCHES, TICKER], tape.end) == {MATCHES: 5, TICKER: 7}
    tape.append([make_message("matches", sequence=9)])
    tape.precede(MATCHES, 6)

    assert [tape.position([MATCHES], at) for at in (1, 2)] == [{MATCHES: 5}, {MATCHES: 9}]
    assert tape.preceding([MATCHES, TICKER]) == {MATCHES: 5}
    tape.forget(MATCHES)
    assert tape.preceding([MATCHES]) == {}


def test_a_product_flows_since_its_first_message():
    """Its heartbeat distinguishes a quiet market from a feed that is not live yet."""
    tape = Tape()
    assert tape.flows_since("BTC-USD") is None
    for at, channel in ((5, "heartbeat"), (9, "matches")):
        message = make_message(channel, sequence=1)
        message.published_us = at
        tape.append([message])
    assert tape.flows_since("BTC-USD") == 5
    tape.forget(MATCHES)
    assert tape.flows_since("BTC-USD") == 5
    tape.forget(Topic("heartbeat", "BTC-USD"))

    assert tape.flows_since("BTC-USD") is None


def test_the_newest_messages_of_a_topic_are_found_from_the_end():
    """As many as are asked for; by the second topic too."""
    tape, matches = Tape(), Topic("matches", "BTC-USD")
    trades = [make_message("matches", sequence=1), make_message("full", sequence=2, also=matches)]
    tape.append([trades[0], make_message("ticker"), trades[1], make_message("ticker", "ETH-USD")])

    assert [tape.newest(matches, count) for count in (9, 2, 1)] == [
        trades[::-1],
        trades[1:],
        [],
    ]
    assert tape.products() == ["BTC-USD", "ETH-USD"]


def test_losses_are_known_until_their_place_leaves_the_tape():
    """Where the feed lost messages of topics, or no longer held one."""
    tape = Tape(3 * SIZE)
    tape.append([make_message("ticker", "BTC-USD", 1)])
    for kind, audience in [
        (NoticeKind.STALE, None), (NoticeKind.STALE, frozenset({"ETH-USD"})),
        (NoticeKind.GAP, TICKER), (NoticeKind.BACK, None), (NoticeKind.PASSING, None),
        (NoticeKind.WHOLE, TICKER),
    ]:  # fmt: skip
        tape.note(TopicNotice(audience, b"{}", kind))
    tape.append([make_message("ticker", "BTC-USD", 2)])
    tape.forget(MATCHES)
    losses = tape.losses(0)

    assert losses == [
        Loss(1, 2, None), Loss(2, 2, frozenset({"ETH-USD"})), Loss(3, 2, TICKER),
        Loss(4, 3, MATCHES, has_ended=True),
    ]  # fmt: skip
    assert losses[2:] == tape.losses(2)
    assert [] == tape.losses(4)
    assert [True, False, True, False] == [loss.concerns(TICKER) for loss in losses]
    for number in range(3, 7):
        tape.append([make_message("ticker", "BTC-USD", number)])
    assert [] == tape.losses(0)
