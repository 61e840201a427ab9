"""Continuity: each message once in the log, for any log and tape."""

import random
import sys
from random import Random

import pytest

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import GapKind, GapRecord
from hedgehogd.log.continuity import Continuity, Ends, number_of
from tests.fakes import make_message

BTC = "BTC-USD"
TICKER, MATCHES, FULL, LEVEL3, HEARTBEAT, LEVEL2 = (
    Topic(channel, BTC)
    for channel in ("ticker", "matches", "full", "level3", "heartbeat", "level2")
)
MISSING, UNRECORDED = GapKind.MISSING, GapKind.UNRECORDED


def trade(number):
    return make_message("matches", sequence=10 * number, trade_id=number)


def ticker(number):
    return make_message("ticker", sequence=number)


def beat(text):
    return make_message("heartbeat", text=text)


def ends_of(*messages):
    ends = Ends()
    ends.note(messages[::-1])
    return ends


def admitted(continuity, tape, now=0.0):
    """Return numbers, texts and gaps that are appended of messages by offset."""
    found = []
    for offset, message in tape:
        for record in continuity.admit(offset, message, now):
            if isinstance(record, GapRecord):
                found.append((record.kind, record.first, record.last))
            else:
                assert record is message
                number = number_of(message.topic, message)
                found.append(message.payload if number is None else number)
    return found


def on_tape(*messages):
    return list(enumerate(messages, 1))


def plain(found):
    return [message for _, message in found]


@pytest.mark.parametrize(
    ("message", "number"),
    [
        (trade(7), 7), (ticker(7), 7), (make_message("full", sequence=7), 7),
        (make_message("level3", sequence=7), 7), (make_message("heartbeat", sequence=7), None),
        (make_message("level2", sequence=7), None), (make_message("ticker"), None),
        (make_message("matches", sequence=7), None),
    ],
)  # fmt: skip
def test_channels_are_continued_by_number(message, number):
    """Matches by trade id; heartbeats repeat their sequences."""
    assert number == number_of(message.topic, message)


def test_the_last_numbers_are_noted():
    """Of both topics of a message; summaries of the archive have them, too."""
    ends = ends_of(
        make_message("full", sequence=70, trade_id=7, also=MATCHES), ticker(9), ticker(4),
        make_message("ticker"), GapRecord(TICKER, first=5, last=6),
    )  # fmt: skip
    ends.note_numbers(LEVEL3, 3, None)
    ends.note_numbers(LEVEL3, None, 5)
    ends.note_numbers(Topic("matches", "ETH-USD"), 50, 5)
    ends.note_numbers(HEARTBEAT, 50, 5)

    assert ends.numbers() == {
        FULL: 70, MATCHES: 7, TICKER: 4, LEVEL3: 3, Topic("matches", "ETH-USD"): 5
    }  # fmt: skip


@pytest.mark.parametrize(
    ("logged", "tape", "expected"),
    [
        ([], [1, 2, 3], [1, 2, 3]),  # a new log
        ([1, 2], [1, 2, 3], [3]),  # the tape begins earlier
        ([1, 2, 3], [2, 3, 4], [4]),
        ([1, 2, 3], [2, 3], []),  # the log is ahead
        ([1, 2], [3, 4], [3, 4]),  # they adjoin
        ([1, 2], [5], [(MISSING, 3, 4), 5]),  # they do not
        ([1, 2, 4], [2, 3, 4, 5], [5]),  # the last writer missed 3, and has recorded the gap
        ([8, 9, 1], [8, 9, 1, 2], [2]),  # the numbers began again before the log's end
        ([8, 9], [8, 9, 1, 2], [1, 2]),  # after it
        ([9], [8, 1, 2], [1, 2]),  # this feed missed 9
        ([8, 9, 1, 2], [8, 9, 1], []),
        ([8], [9, 10, 1, 2], [9, 10, 1, 2]),  # it has all of them
        ([8], [11, 1, 2], [(MISSING, 9, 10), 11, 1, 2]),
        ([2], [8, 9, 3, 4], [3, 4]),
        ([50], [7, 8, 9], [7, 8, 9]),  # they began again: no number below 50 is in the log
        ([2], [1, 2, 3], [3]),  # 1 is older than the log
        (range(300), [7, 8, 9], []),  # it has older ones than those that are compared
        (range(300), [7, 8, 9, 1, 2], [1, 2]),
    ],
)
def test_a_tape_continues_a_dense_channel(logged, tape, expected):
    """Each number once: the place of the log's end on the tape decides."""
    found = on_tape(*map(trade, tape))
    continuity = Continuity(ends_of(*map(trade, logged)), plain(found))

    assert expected == admitted(continuity, found)


def test_a_message_without_a_number_has_the_place_of_those_around_it():
    """On full, for example: one that precedes all messages that are compared is a repeat."""
    order = make_message("full", kind="activate")
    logged = [make_message("full", sequence=n) for n in range(limits.LOG_COMPARED_NUMBERS_MAX)]
    found = on_tape(order, *logged, order)
    continuity = Continuity(ends_of(*logged), plain(found))

    assert [order.payload] == admitted(continuity, found)


def test_older_numbers_of_the_archive_are_late_ones_too():
    """Only some of its last records are noted; where the numbers began is not known then."""
    ends = ends_of(trade(2), trade(3))
    ends.note_numbers(MATCHES, None, 3)
    continuity = Continuity(ends, [])

    assert [4] == admitted(continuity, on_tape(*map(trade, (1, 2, 3, 4))))


def test_enough_messages_of_a_topic_are_noted():
    """Of a book the newest one; older ones are passed."""
    numbers_max, messages_max = limits.LOG_COMPARED_NUMBERS_MAX, limits.LOG_COMPARED_MESSAGES_MAX
    topics = [MATCHES, HEARTBEAT, LEVEL2, Topic("matches", "ETH-USD")]
    for count, wanted in [
        (0, topics), (1, [*topics[:2], topics[3]]), (messages_max, [MATCHES, topics[3]]),
        (numbers_max, topics[3:]), (2 * numbers_max, topics[3:]),
    ]:  # fmt: skip
        each = [make_message("level2")] * count + [beat(str(n)) for n in range(count)]
        ends = ends_of(*each, *map(trade, range(1, count + 1)))
        assert wanted == [topic for topic in topics if ends.wants(topic)]
        assert min(count, messages_max) == len(ends.newest(HEARTBEAT))
        assert ({MATCHES: count} if count else {}) == ends.numbers()


def test_numbers_that_are_late_are_repeats_for_a_while():
    """The feed of a new writer may lag; a reset of the exchange's numbers takes longer."""
    after = limits.LOG_LATE_MAX_S + 1
    for tape in ([1], []):
        found = on_tape(*map(trade, tape))
        continuity = Continuity(ends_of(*map(trade, (1, 2, 3))), plain(found))
        assert [] == admitted(continuity, found)
        assert [4, 2] == admitted(continuity, list(enumerate(map(trade, (2, 3, 4, 2)), 2)), 1)
        continuity = Continuity(ends_of(*map(trade, (1, 2, 3))), plain(found))
        assert [] == admitted(continuity, found)
        assert [2] == admitted(continuity, [(2, trade(2))], after)


@pytest.mark.parametrize(
    ("logged", "tape", "later", "expected"),
    [
        ([94, 95, 96, 98, 99, 100], [95], [96, 97, 98, 99, 100, 101], [101]),  # 97 was missed
        (range(1, 400), [1], range(2, 401), [400]),  # a lag of more numbers than are compared
        ([50, 51, 52], [], [7, 8, 51], [7, 8, (MISSING, 9, 50), 51]),  # none below 50 is in the log
        ([1, 2, 3], [], [1, 1, 2], [1, (2)]),
    ],
)  # fmt: skip
def test_every_number_before_the_logs_end_may_be_late(logged, tape, later, expected):
    """While they rise: one of them may be missing in the log, as a gap."""
    found = on_tape(*map(trade, tape))
    continuity = Continuity(ends_of(*map(trade, logged)), plain(found))
    assert [] == admitted(continuity, found)

    assert expected == admitted(continuity, list(enumerate(map(trade, later), 1 + len(tape))), 1)


def test_a_ticker_that_the_log_has_ends_no_gap():
    """The feed was lost before the log's end: the last writer had the messages."""
    found = on_tape(ticker(3), ticker(7))
    continuity = Continuity(ends_of(ticker(3), ticker(5), ticker(7)), plain(found))
    assert [] == continuity.admit(1, found[0][1], 0.0)
    assert [] == continuity.admit(2, found[1][1], 0.0, may_miss=True)
    assert [9] == admitted(continuity, [(3, ticker(9))])
    message = ticker(12)
    assert [GapRecord(TICKER, first=10, last=11), message] == continuity.admit(
        4, message, 0.0, may_miss=True
    )


def test_the_tape_reaches_the_log_by_any_message():
    """Or it ends before the log: then the log's messages may still arrive."""
    for logged, tape, reaches in [
        ([trade(1)], [trade(1), trade(2)], True), ([trade(1), trade(2)], [trade(1)], True),
        ([beat("a")], [], True), ([trade(1)], [trade(3)], False), ([], [trade(3)], False),
    ]:  # fmt: skip
        found = on_tape(*tape)
        assert reaches is Continuity(ends_of(*logged), plain(found)).reaches


def test_a_gap_at_the_logs_end_is_not_repeated():
    """Of a topic of the archive's summaries, of books, of both topics of a message."""
    ends = ends_of(
        beat("a"), make_message("level2_batch", also=LEVEL2), ticker(3), trade(1),
        GapRecord(HEARTBEAT), GapRecord(LEVEL2), GapRecord(TICKER, first=4),
        GapRecord(MATCHES, first=2, last=3), make_message("level2_batch", also=LEVEL2), ticker(5),
    )  # fmt: skip
    ends.note_numbers(Topic("status", ""), None, None)
    continuity = Continuity(ends)
    found = continuity.lose(lambda _: True, MISSING, 7)

    assert [
        GapRecord(LEVEL2, received_us=7), GapRecord(Topic("level2_batch", BTC), received_us=7),
        GapRecord(Topic("status", ""), received_us=7), GapRecord(TICKER, first=6, received_us=7),
    ] == found  # fmt: skip


def test_numbers_that_fall_on_the_tape_are_no_late_ones():
    """They began again here after the log's end."""
    found = on_tape(trade(8), trade(9))
    continuity = Continuity(ends_of(trade(8), trade(9)), plain(found))
    assert [] == admitted(continuity, found)

    assert [1, 2] == admitted(continuity, [(3, trade(1)), (4, trade(2))])


@pytest.mark.parametrize(
    ("logged", "tape", "later", "expected"),
    [
        ([8, 9], [9, 10], [], [10]),  # the exchange greets with the last trade
        ([8, 9], [], [9, 10], [10]),
        ([8, 9], [1, 2, 9], [], [1, 2, (MISSING, 3, 8), 9]),
        ([8, 9], [], [1, 2, 8], [1, 2, (MISSING, 3, 7), 8]),
    ],
)
def test_a_tape_that_began_after_the_log_repeats_the_last_number_alone(
    logged, tape, later, expected
):
    """No other message of it can be in the log, with any number."""
    found = on_tape(*map(trade, tape))
    continuity = Continuity(ends_of(*map(trade, logged)), plain(found), overlaps=False)
    found += list(enumerate(map(trade, later), len(found) + 1))

    assert expected == admitted(continuity, found)


@pytest.mark.parametrize(
    ("logged", "tape", "expected"),
    [
        ("", "ab", "ab"),
        ("ab", "abc", "c"),
        ("ab", "bc", "c"),
        ("abc", "bc", ""),
        ("ab", "cd", "cd"),
        ("abx", "abcxe", "ce"),  # the last writer missed c
        ("abcd", "abde", "e"),  # this one missed it
        ("abc", "abe", "e"),
        ("c", "abcd", "d"),  # the log begins within the tape
        ("aaa", "aa", ""),
        ("aaa", "aab", "b"),
        ("ba", "abab", "b"),
    ],
)
def test_messages_without_numbers_are_compared(logged, tape, expected):
    """Byte for byte, in their order; no clock decides."""
    found = on_tape(*map(beat, tape))
    continuity = Continuity(ends_of(*map(beat, logged)), plain(found))

    assert [beat(text).payload for text in expected] == admitted(continuity, found)


@pytest.mark.parametrize(("count", "expected"), [(63, 137), (64, 1)])
def test_equal_messages_are_counted_as_far_as_the_log_is_compared(count, expected, monkeypatch):
    """The status is the same for hours: a tape may have more of them than are compared."""
    found = on_tape(*map(beat, "a" * 199 + "b")) if count == 64 else on_tape(*map(beat, "a" * 200))
    continuity = Continuity(ends_of(*map(beat, "a" * count)), plain(found))

    assert expected == len(admitted(continuity, found))


def test_messages_without_numbers_may_be_late():
    """Those that the log has after the last common one, for a while, each as often as it has it."""
    logged = ends_of(*map(beat, "abbc"))
    for tape, later, now, expected in [
        ("a", "bbbcd", 1, "bd"), ("", "abe", 1, "e"), ("a", "bb", limits.LOG_LATE_MAX_S, "bb"),
    ]:  # fmt: skip
        found = on_tape(*map(beat, tape))
        continuity = Continuity(logged, plain(found))
        assert [] == admitted(continuity, found)
        found = list(enumerate(map(beat, later), 2))
        assert [beat(text).payload for text in expected] == admitted(continuity, found, now)


def test_a_tape_that_began_after_the_log_is_not_compared():
    """The status of the exchange is the same for hours."""
    found = on_tape(*map(beat, "aa"))
    continuity = Continuity(ends_of(*map(beat, "aaa")), plain(found), overlaps=False)

    assert [beat("a").payload] * 2 == admitted(continuity, found)


def test_books_are_not_compared():
    """They begin again with a snapshot."""
    found = on_tape(make_message("level2"), make_message("level2"))
    continuity = Continuity(ends_of(make_message("level2")), plain(found))

    assert 2 == len(admitted(continuity, found))


def test_both_topics_of_a_message_have_gaps():
    """A trade on full may be one of matches."""
    continuity = Continuity(ends_of(make_message("full", sequence=1, trade_id=1, also=MATCHES)))
    message = make_message("full", sequence=9, trade_id=3, also=MATCHES)
    message.received_us = 77
    found = continuity.admit(1, message, 0.0)

    assert [GapRecord(FULL, first=2, last=8, received_us=77),
        GapRecord(MATCHES, first=2, last=2, received_us=77), message] == found  # fmt: skip


def test_a_ticker_has_a_gap_only_where_one_may_be():
    """It leaves out numbers itself."""
    continuity = Continuity(ends_of(ticker(3)))
    continuity.may_miss(MATCHES)
    assert [5] == admitted(continuity, [(1, ticker(5))])
    assert [(TICKER, 5)] == continuity.tickers()
    continuity.may_miss(TICKER)
    continuity.may_miss(TICKER)
    assert [(MISSING, 6, 8), 9] == admitted(continuity, [(2, ticker(9))])
    continuity.may_miss(TICKER)

    assert [10, 20] == admitted(continuity, [(3, ticker(10)), (4, ticker(20))])


def test_messages_that_left_the_tape_are_gaps():
    """By number where there are numbers; else the topic alone."""
    continuity = Continuity(ends_of(trade(1), beat("a"), ticker(1)))
    admitted(continuity, [(1, make_message("full", sequence=1))])
    found = continuity.lose(lambda _: True, UNRECORDED, 77)
    assert [
        GapRecord(HEARTBEAT, UNRECORDED, received_us=77),
        GapRecord(TICKER, UNRECORDED, 2, received_us=77),
    ] == found
    assert [] == continuity.lose(lambda _: True, UNRECORDED, 78)  # one gap until a message
    later = [trade(2), beat("b"), beat("c"), ticker(9), make_message("full", sequence=4), trade(4)]

    assert [
        2, later[1].payload, later[2].payload, 9, (UNRECORDED, 2, 3), 4, (MISSING, 3, 3), 4,
    ] == admitted(continuity, list(enumerate(later, 50)))  # fmt: skip


class World:
    """One feed; now and then a topic's numbers begin again elsewhere.

    Attributes:
        sent: all messages, in order.
    """

    def __init__(self, chance, count):
        numbers = dict.fromkeys((TICKER, MATCHES, FULL), 10**9)
        self.sent = []
        for n in range(count):
            topic = chance.choice([TICKER, MATCHES, FULL, HEARTBEAT])
            if topic in numbers:
                numbers[topic] += chance.randrange(1, 5) if topic == TICKER else 1
                if n % 100 == 50:  # they begin again
                    numbers[topic] -= chance.randrange(1_000, 10**6)
            number = numbers.get(topic)
            ids = {"trade_id": number} if topic == MATCHES else {}
            self.sent.append(make_message(*topic, sequence=number, n=n, **ids))


@pytest.mark.random
def test_any_succession_keeps_each_message_once():
    """Writers end at any message; their tapes begin anywhere before, their feeds lag.

    Numbers begin again at any place of a tape, but not within the messages by which it lags.
    """
    seed = random.randrange(2**32)
    sys.stdout.write(f"seed {seed}\n")
    chance = Random(seed)
    for _ in range(60):
        sent = World(chance, 600).sent
        log, at = [], 0
        while at < len(sent):
            ends = Ends()
            ends.note(reversed(log[chance.choice([0, max(0, at - 300)]) :]))
            is_fresh = chance.random() < 0.2  # it began after the last writer had ended
            begin = at if is_fresh else chance.randrange(max(0, at - 200), at + 1)
            now_at = at if is_fresh else max(begin, at + chance.randrange(-3, 20))
            continuity = Continuity(ends, sent[begin:now_at], overlaps=not is_fresh)
            until = min(len(sent), max(at, now_at) + chance.randrange(1, 200))
            until += 4 if 50 < until % 100 <= 54 else 0
            for offset, message in enumerate(sent[begin:until], 1):
                log += continuity.admit(offset, message, 0.0)
            at = until
        assert [] == [each for each in log if not isinstance(each, Message)]
        assert [each.payload for each in sent] == [each.payload for each in log]
