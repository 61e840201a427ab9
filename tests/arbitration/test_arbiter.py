"""Two lines that lose, delay and repeat messages: one stream results, with every gap reported."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.arbitration.connection_state import Source
from hedgehogd.arbitration.session import UpstreamSession
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.limits import (
    HANDOVER_S,
    ODD_NUMBERS_MAX,
    SET_BACK_AFTER_S,
    WAITING_MESSAGES_MAX,
)
from hedgehogd.protocol.frames import encode_text
from tests.arbitration.exchange_model import (
    FULL,
    HEARTBEAT,
    LEVEL2,
    MATCHES,
    TICKER,
    WITH_FULL,
    WITH_MATCHES,
    Carrier,
    check_numbers,
    check_reported,
    check_state,
    play,
    true_stream,
)

NEVER = float("inf")
seeds = st.integers(0, 2**32)


def two_lines(rng, held, duration):
    """Return connections of two lines: late, lost, and perhaps connected again."""
    carriers = []
    for line in (0, 1):
        lag = rng.choice([0, 0.002, 0.02, 0.045])
        begins = rng.choice([0, 0, 0.1, duration / 3])
        ends = rng.choice([NEVER, NEVER, duration / 2, duration])
        carriers.append(Carrier(line, held, begins, ends, lag))
        if ends == duration / 2 and rng.random() < 0.7:
            again = ends + rng.choice([0.0, 0.3])
            carriers.append(Carrier(line, held, again, NEVER, lag))
    return carriers


@pytest.mark.parametrize(
    ("held", "channels"), [(WITH_FULL, {FULL: "sequence"}), (WITH_MATCHES, {})]
)
@settings(max_examples=80)
@given(seeds)
def test_two_lines_become_one_stream_with_every_gap_reported(held, channels, seed):
    """No message is lost silently or out of order, for any damage to the two lines."""
    rng = random.Random(seed)
    stream = true_stream(rng, rng.choice([5, 30, 60]))
    carriers = two_lines(rng, held, stream[-1][0])
    losses = [rng.choice([0, 0.05, 0.3]) for _ in carriers]
    run = play(rng, carriers, stream, losses, rng.choice([0, 0.2]))

    for topic, key in {**channels, MATCHES: "trade_id"}.items():
        _, reported = check_numbers(run, topic, key)
        check_reported(run, carriers, {topic}, key, reported)
    check_state(run)


@settings(max_examples=60)
@given(seeds)
def test_a_message_of_one_of_two_lines_is_delivered(seed):
    """While both lines are live, a loss on one costs nothing, and is counted as saved."""
    rng = random.Random(seed)
    stream = true_stream(rng, 30)
    lags = rng.sample([0, 0.02, 0.04], 2)
    lines = [Carrier(line, WITH_FULL, 0, NEVER, lag) for line, lag in enumerate(lags)]
    run = play(rng, lines, stream, [0, 0.5])
    delivered, reported = check_numbers(run, FULL, "sequence")
    check_state(run)

    assert ([], 1_029, 0) == (reported, delivered[-1], run.session.arbiter.gaps)
    assert 0 == run.session.arbiter.race.saved[1]


@pytest.mark.parametrize("order", [(WITH_MATCHES, WITH_FULL), (WITH_FULL, WITH_MATCHES)])
@settings(max_examples=60)
@given(seeds)
def test_a_product_that_changes_its_variant_loses_no_trade_and_repeats_none(order, seed):
    """The old and the new connection of one line are both live for a while."""
    rng = random.Random(seed)
    stream = true_stream(rng, 40)
    lags = [rng.choice([0, 0.02, 0.045]) for _ in order]
    moves_at = stream[-1][0] / 2
    old = Carrier(0, order[0], 0, moves_at + HANDOVER_S, lags[0])
    new = Carrier(0, order[1], moves_at, NEVER, lags[1])
    holds = [(moves_at + HANDOVER_S - 0.01, old, frozenset())]
    run = play(rng, [old, new], stream, [0, 0], 0.1, holds)
    trades, reported = check_numbers(run, MATCHES, "trade_id")
    beats = [f["id"] for _, topics, f in run.out if HEARTBEAT in topics]
    check_state(run)

    assert [] == reported
    assert 0 == run.session.arbiter.gaps
    if new.carried[-1][0] < old.ends or any(f["type"] == "match" for _, f in new.carried):
        assert trades
        assert trades[-1] == max(
            f["trade_id"] for c in (old, new) for _, f in c.carried if f["type"] == "match"
        )
    assert len(beats) == len(set(beats))


def frames(*payloads):
    return [(encode_text(payload), payload) for payload in payloads]


def message(kind, **fields):
    return json.dumps({"type": kind, "product_id": "BTC-USD", **fields}).encode()


def trade(trade_id, kind="match"):
    return message(kind, trade_id=trade_id, sequence=trade_id * 10)


def order(sequence, kind="open", **fields):
    return message(kind, sequence=sequence, **fields)


class Two:
    """A session with two or more connections, and a record of its output."""

    def __init__(self, *sources):
        self.session = UpstreamSession(0.05)
        self.arbiter = self.session.arbiter
        self.sources = sources
        self.resyncs = []
        for source in sources:
            self.session.connected(source)

    def receive(self, number, now, *payloads):
        """Return the payloads and notices that follow, in order."""
        received = self.session.receive(self.sources[number], frames(*payloads), now)
        return self.out(received)

    def out(self, received):
        self.resyncs += received.resyncs
        out = []
        for messages, notices in received.parts():
            out += [notice.payload for notice in notices]
            out += [each.payload for each in messages]
        return out


def gap(first, last, channel="matches"):
    key = "trade_id" if channel == "matches" else "sequence"
    return json.dumps(
        {
            "type": "gap",
            "channel": channel,
            "product_id": "BTC-USD",
            f"first_{key}": first,
            f"last_{key}": last,
        },
        separators=(",", ":"),
    ).encode()


def lines(*held):
    return [Source(line, topics) for line, topics in enumerate(held)]


def test_a_queued_message_keeps_the_time_of_its_read():
    """It waits for the message that is missing before it, which another connection brings later."""
    two = Two(*lines(WITH_MATCHES, WITH_MATCHES))
    found = []
    for number, trade_id, at_us in ((0, 1, 10), (1, 1, 20), (0, 3, 30), (1, 2, 40)):
        source, payload = two.sources[number], trade(trade_id)
        received = two.session.receive(source, frames(payload), at_us / 1e6, at_us)
        found += [(each.trade_id, each.received_us) for each in received.messages]

    assert found == [(1, 10), (2, 40), (3, 30)]


def test_a_gap_that_the_other_line_fills_costs_nothing_and_is_counted():
    """This is the reason to pay for two lines."""
    two = Two(*lines(WITH_MATCHES, WITH_MATCHES))

    assert [trade(1)] == two.receive(0, 0, trade(1))
    assert [] == two.receive(0, 0, trade(4))
    assert 0.05 == two.arbiter.next_expiry()
    assert [trade(2)] == two.receive(1, 0.01, trade(1), trade(2))
    assert [trade(3), trade(4)] == two.receive(1, 0.01, trade(3))
    assert two.arbiter.next_expiry() is None
    assert {1: 1} == two.arbiter.race.saved
    assert 0 == two.arbiter.gaps


def test_a_message_on_no_line_is_a_gap_after_the_patience():
    """Later messages are queued with it, heartbeats included."""
    two = Two(*lines(WITH_FULL, WITH_FULL))
    beat = message("heartbeat", sequence=4)
    two.receive(0, 0, order(1))

    assert [] == two.receive(0, 0, order(4), beat)
    assert [order(2)] == two.receive(1, 0.02, order(2))
    assert [] == two.out(two.session.expire(0.04))
    assert [gap(3, 3, "full"), order(4), beat] == two.out(two.session.expire(0.05))
    assert {"full": 1} == two.arbiter.missing


def test_gaps_in_a_row_do_not_add_up_their_patience():
    """A line that loses every other message would otherwise be minutes late by its end."""
    two = Two(*lines(WITH_FULL, WITH_FULL))
    two.receive(0, 0, *map(order, range(1, 100, 2)))
    late = two.out(two.session.expire(0.05))

    assert order(99) == late[-1]
    assert 49 == two.arbiter.gaps


def test_a_message_that_fills_a_part_of_a_gap_precedes_the_queue():
    """The line that delivers it has passed the rest, as the other has: that is a gap at once."""
    two = Two(*lines(WITH_FULL, WITH_FULL))
    two.receive(0, 0, order(1), order(10))

    assert [gap(2, 6, "full"), order(7)] == two.receive(1, 0.01, order(7))
    assert [order(8)] == two.receive(1, 0.01, order(8))
    assert [order(9), order(10)] == two.receive(1, 0.01, order(9))


def test_a_missing_message_may_be_queued_after_the_one_that_reveals_it():
    """Both were queued after an earlier gap: a message that has arrived is not missing."""
    two = Two(*lines(WITH_FULL, WITH_FULL))
    two.receive(0, 0, order(1), order(3), order(5), order(9))
    two.receive(1, 0.01, order(3), order(4), order(7))
    out = two.out(two.session.expire(0.05))

    assert [gap(2, 2, "full"), order(3), order(4), order(5)] == out[:4]
    assert [gap(6, 6, "full"), order(7), gap(8, 8, "full"), order(9)] == out[4:]


def test_a_message_after_a_gap_may_declare_it():
    """The timer may be late."""
    two = Two(*lines(WITH_MATCHES, WITH_MATCHES))
    two.receive(0, 0, trade(1), trade(3))

    assert [gap(2, 2), trade(3), trade(4)] == two.receive(0, 0.06, trade(4))


def test_the_queue_is_bounded():
    """A busy product after a gap must not fill memory."""
    two = Two(*lines(WITH_MATCHES, WITH_MATCHES))
    two.receive(0, 0, trade(1), trade(3))
    beats = [message("heartbeat", sequence=n) for n in range(WAITING_MESSAGES_MAX)]
    out = two.receive(0, 0.01, *beats)

    assert [gap(2, 2), trade(3), *beats] == out


def test_a_single_line_never_waits():
    """Without a connection that may fill it, a gap is declared at once."""
    two = Two(*lines(WITH_MATCHES))

    assert [trade(1), gap(2, 2), trade(3)] == two.receive(0, 0, trade(1), trade(3))


def test_a_line_without_the_channel_is_not_waited_for():
    """It cannot fill the gap."""
    two = Two(*lines(WITH_MATCHES, {TICKER}))

    assert [trade(1), gap(2, 2), trade(3)] == two.receive(0, 0, trade(1), trade(3))


def test_when_the_other_line_is_lost_nothing_waits_for_it():
    """The last connection delivers at once."""
    one, other = lines(WITH_MATCHES, WITH_MATCHES)
    two = Two(one, other)
    two.receive(0, 0, trade(1), trade(3))

    assert [gap(2, 2), trade(3)] == two.out(two.session.lost(other, 0.01))


def test_a_trade_on_full_may_reveal_and_fill_gaps_of_matches():
    """The channels share one counter: while a product moves, both deliver its trades."""
    old, new = Source(0, WITH_MATCHES), Source(0, WITH_FULL)
    two = Two(old, new)
    filler = order(7, "match", trade_id=2)
    two.receive(0, 0, trade(1))
    late = order(9, "match", trade_id=3)

    assert [filler] == two.receive(1, 0, filler)
    assert [] == two.receive(0, 0.01, trade(4))
    assert [gap(8, 8, "full"), late, trade(4)] == two.receive(1, 0.02, late)


def test_a_missing_message_does_not_overtake_its_own_connection():
    """A trade on full fills a gap of matches; the order event before it is no gap of full."""
    old, new = Source(0, WITH_FULL), Source(0, WITH_MATCHES)
    two = Two(old, new)
    first, filler = order(1, "match", trade_id=1), order(3, "match", trade_id=2)
    two.receive(0, 0, first)

    assert [] == two.receive(1, 0, trade(3))
    assert [] == two.receive(0, 0.01, order(2))
    assert [order(2), filler, trade(3)] == two.receive(0, 0.01, filler)


def test_a_connection_may_fill_its_own_gap():
    """The exchange may send two messages in the wrong order."""
    two = Two(*lines(WITH_MATCHES, WITH_MATCHES))

    assert [trade(1)] == two.receive(0, 0, trade(1), trade(3))
    assert [trade(2), trade(3)] == two.receive(0, 0, trade(2))


def test_a_relays_stale_feed_counts_while_its_connection_lives():
    """Its next connection reports it again if it is still stale."""
    source = Source(0, None)
    two = Two(source)
    two.receive(0, 0, b'{"type":"stale","stale":true}')
    assert two.arbiter.told_stale

    two.out(two.session.lost(source, 1))
    assert not two.arbiter.told_stale


def test_a_gap_in_trades_is_reported_although_full_has_none():
    """A trade that full leaves out is missing on matches."""
    two = Two(*lines(WITH_FULL))
    first, second = order(1, "match", trade_id=1), order(2, "match", trade_id=3)

    assert [first, gap(2, 2), second] == two.receive(0, 0, first, second)


def test_a_gap_in_trades_on_full_waits_for_a_line_that_has_them():
    """Full itself has no gap."""
    two = Two(*lines(WITH_FULL, WITH_MATCHES))
    first, second = order(1, "match", trade_id=1), order(2, "match", trade_id=3)
    two.receive(0, 0, first)

    assert [] == two.receive(0, 0, second)
    assert [trade(2), second] == two.receive(1, 0.01, trade(2))


@pytest.mark.parametrize("key", ["trade_id", "sequence"])
def test_a_message_without_a_number_follows_the_primary(key):
    """A trade without an id, an order event without a sequence, a ticker of nothing."""
    two = Two(*lines(WITH_MATCHES, WITH_MATCHES))
    bare = [message("match"), message("ticker")]

    assert bare == two.receive(0, 0, *bare)
    assert [] == two.receive(1, 0, *bare)
    assert {"spare": 2} == two.arbiter.dropped


@pytest.mark.parametrize(("count", "reported"), [(1, [b""]), (2, [])])
def test_a_repeated_ticker_shows_that_none_is_missing(count, reported):
    """With two lines each repeats the other all the time, so it shows nothing."""
    two = Two(*lines(*[WITH_FULL] * count))
    old, new = (message("ticker", sequence=number) for number in (4, 5))

    assert two.receive(0, 0, old, new) == [old, new]
    assert two.receive(count - 1, 1, new) == reported
    assert two.receive(count - 1, 1, old) == []


def test_implausible_numbers_are_logged_and_delivered():
    """This holds on every channel with numbers."""
    two = Two(*lines(WITH_FULL))
    absurd = 2**53 - 1
    payloads = [
        order(1, "match", trade_id=1),
        order(absurd),
        order(2, "match", trade_id=absurd),
        message("ticker", sequence=1),
        message("ticker", sequence=absurd),
        message("ticker", sequence=1),
    ]
    received = two.session.receive(two.sources[0], frames(*payloads), 0)

    assert payloads[:5] == [each.payload for each in received.messages]
    assert ["full", "matches", "ticker"] == [text.split(":")[0] for text in received.oddities]
    assert {"repeat": 1} == two.arbiter.dropped


def test_a_gap_requests_a_new_snapshot_of_the_book():
    """Updates have no numbers: some may be missing with the trades."""
    two = Two(*lines(WITH_MATCHES))
    two.receive(0, 0, trade(1))
    assert [] == two.resyncs
    two.receive(0, 0, trade(3))

    assert [LEVEL2, LEVEL2._replace(channel="level2_batch")] == two.resyncs


def test_a_gap_from_before_the_primary_leaves_its_book_alone():
    """Its snapshot is newer than the gap; a second one would be megabytes for nothing."""
    one, again = lines(WITH_MATCHES, WITH_MATCHES)
    two = Two(one, again)
    two.receive(0, 0, trade(1))
    two.out(two.session.lost(one, 1))
    two.receive(1, 2, message("snapshot"))

    assert [gap(2, 4), trade(5)] == two.receive(1, 2, trade(5, "match"))
    assert [] == two.resyncs
    assert [gap(6, 6), trade(7)] == two.receive(1, 3, trade(7))
    assert 2 == len(two.resyncs)


def test_a_gap_that_a_relay_reports_during_the_wait_is_reported_once():
    """Otherwise a gap without numbers would be reported."""
    two = Two(*lines(WITH_MATCHES, WITH_MATCHES))
    reported = gap(2, 2)
    two.receive(0, 0, trade(1), trade(3))

    assert [reported] == two.receive(1, 0.01, reported)
    assert [trade(3)] == two.out(two.session.expire(0.05))
    assert 1 == two.arbiter.gaps


def test_nothing_is_queued_for_a_channel_that_is_released():
    """The other channels of the product continue."""
    two = Two(*lines(WITH_MATCHES, WITH_MATCHES))
    beat = message("heartbeat", sequence=9)
    two.receive(0, 0, trade(1), trade(3), beat)
    two.session.forget(MATCHES)

    assert [beat] == two.out(two.session.expire(0.05))
    assert [trade(9)] == two.receive(0, 1, trade(9))


def test_a_released_product_is_forgotten_by_every_connection():
    """A connection with old state beside one with new state would deliver everything twice."""
    one, other = lines(WITH_MATCHES, WITH_MATCHES)
    two = Two(one, other)
    two.receive(0, 0, trade(1), trade(3))
    two.receive(1, 0, trade(1))
    two.session.hold_only({LEVEL2._replace(product_id="ETH-USD")})

    assert two.arbiter.next_expiry() is None
    assert (set(), set()) == (one.products, other.products)
    two.session.hold_only(WITH_MATCHES)
    again = Source(1, WITH_MATCHES)
    two.session.lost(other, 1)
    two.session.connected(again)
    two.sources = one, again
    assert [trade(50)] == two.receive(0, 2, trade(50))
    assert [] == two.receive(1, 2, trade(50))


def test_trades_of_a_released_full_are_not_missed_later():
    """Heartbeats would state them as missing for ever, and REST would fetch them all."""
    two = Two(*lines(WITH_FULL))
    two.receive(0, 0, order(1, "match", trade_id=1))
    two.session.hold_only({TICKER, HEARTBEAT})
    beats = [message("heartbeat", sequence=n, last_trade_id=n) for n in (50, 60)]

    assert beats[:1] == two.receive(0, 1, beats[0])
    assert beats[1:] == two.receive(0, 2, beats[1])


def test_level3_is_watched_by_its_sequences():
    """Its noops fill the numbers that do not change the book (COINBASE §6.13)."""
    two = Two(*lines({Topic("level3", "BTC-USD")}))
    rows = [b'["noop","BTC-USD","%d"]' % n for n in (5, 6, 6, 8)]

    assert [rows[0], rows[1], gap(7, 7, "level3"), rows[3]] == two.receive(0, 0, *rows)


def timed(kind, second, **numbers):
    minute, second = divmod(round(second, 3), 60)
    fields = {"product_id": "BTC-USD", "time": f"2026-11-29T12:{minute:02.0f}:{second:09.6f}Z"}
    return json.dumps({"type": kind, **fields, **numbers}, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("channel", "kind", "key"),
    [
        ("matches", "match", "trade_id"),
        ("ticker", "ticker", "sequence"),
        ("full", "open", "sequence"),
        ("full", "match", "trade_id"),
    ],
)
@pytest.mark.parametrize("is_small", [False, True])
def test_restarted_numbers_are_delivered_and_reported_on_every_topic(channel, kind, key, is_small):
    """On a small market one message is enough when the heartbeats confirm it."""
    held = {Topic(channel, "BTC-USD"), HEARTBEAT}
    two = Two(*lines(held))
    extra = {"sequence": 4_000_000} if key == "trade_id" else {}
    two.receive(0, 0, timed(kind, 0, **{key: 400_000}, **extra))
    reset_at, out = 10, []
    for step in range(int(SET_BACK_AFTER_S) + 2):
        extra = {"sequence": step + 1} if key == "trade_id" else {}
        if step in {0, SET_BACK_AFTER_S + 1} or not is_small:
            payload = timed(kind, reset_at + step, **{key: step + 1}, **extra)
            out += two.receive(0, reset_at + step, payload)
        beat = timed("heartbeat", reset_at + step, sequence=step + 1, last_trade_id=step + 1)
        out += two.receive(0, reset_at + step + 0.5, beat)
    reported = {(n["channel"]) for n in map(json.loads, out) if n["type"] == "gap"}
    flows = [n for n in map(json.loads, out) if n["type"] == kind]

    assert channel in reported
    assert {"matches"} >= reported - {channel}
    assert int(SET_BACK_AFTER_S) + 2 == flows[-1][key]


@pytest.mark.parametrize("make", [trade, order])
def test_after_a_reset_the_first_line_is_counted_again(make):
    """Otherwise its lead would not be measured until the numbers pass the old ones."""
    held = WITH_FULL if make is order else WITH_MATCHES
    two = Two(*lines(held, held))
    for now, number in enumerate([900_000_000, *range(1, ODD_NUMBERS_MAX + 2)]):
        two.receive(0, now, make(number))
        two.receive(1, now + 0.25, make(number))

    assert {0: 2} == two.arbiter.race.wins
    assert 0.25 == two.arbiter.race.lead_s(0)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 40), st.floats(0.2, 12), st.integers(2, 40), st.integers(1, 4), st.booleans())
def test_a_lagging_server_after_a_reconnect_repeats_nothing(lag_s, every_s, count, at_once, is_seq):
    """However long it lags, its messages are no newer than the last one delivered."""
    kind, key = ("ticker", "sequence") if is_seq else ("match", "trade_id")
    made = [(n, n // at_once * every_s) for n in range(1, count + 1)]
    payloads = [timed(kind, second, **{key: number}) for number, second in made]
    half = max(1, count // 2)
    two = Two(*lines(WITH_MATCHES))
    out = []
    for payload, (_, second) in zip(payloads[:half], made, strict=False):
        out += two.receive(0, second, payload)
    for payload, (_, second) in zip(payloads, made, strict=True):
        if second + lag_s >= made[half - 1][1]:
            out += two.receive(0, second + lag_s, payload)

    assert payloads == [each for each in out if each]
    assert 0 == two.arbiter.gaps
