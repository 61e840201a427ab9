"""Holes in what is on the tape: where a record breaks off, and what is told of it."""

from hedgehogd.arbitration.batch import NoticeKind, TopicNotice
from hedgehogd.domain.channel import FULL, TICKER
from hedgehogd.engine import gap_index as holes
from hedgehogd.engine.memory import weight
from hedgehogd.engine.tape import Known, Tape
from tests.fakes import make_message

BTC, ETH = "BTC-USD", "ETH-USD"
ALL = FULL.topic(BTC)
TICKS = [TICKER.topic(BTC), TICKER.topic(ETH)]
STALE = b"stale"


def lack(tape, topic=ALL, payload=b"gap"):
    tape.note(TopicNotice(topic, payload, NoticeKind.GAP))


def stop(tape, audience=None):
    tape.note(TopicNotice(audience, STALE, NoticeKind.STALE))


def full(*sequences):
    return [make_message("full", BTC, number) for number in sequences]


def told(tape, after=0, until=None, topics=(ALL,)):
    found = tape.holes(after, frozenset(topics), until)
    return [(offset, hole.payload, hole.up_to) for offset, hole in found]


def test_behind_a_hole_the_record_begins_anew():
    """What is before it is there all the same."""
    tape = Tape()
    tape.append(full(1, 2))
    lack(tape)
    assert (tape.known_from(ALL), told(tape)) == (Known(1, 0), [])
    tape.append(full(5, 6))

    assert (tape.known_from(ALL), tape.held_from(ALL)) == (Known(5, 0), Known(1, 0))
    assert told(tape) == [(3, b"gap", 4)]
    assert told(tape, 2, 3) == [(3, b"gap", 4)]
    assert told(tape, 3) == told(tape, 0, 2) == told(tape, topics=TICKS) == []
    assert [(3, ALL)] == [(offset, hole.topic) for offset, hole in tape.holes(0)]


def test_a_hole_leaves_with_what_follows_on_it():
    """It takes memory meanwhile."""
    size = weight(full(1)[0])
    tape = Tape(bytes_max=4 * size)
    tape.append(full(1))
    lack(tape)
    tape.append(full(5))
    tape.append(full(6))
    assert (tape.begin, told(tape)) == (1, [(2, b"gap", 4)])
    tape.append(full(7))
    assert (tape.begin, told(tape)) == (2, [(2, b"gap", 4)])
    tape.append(full(8))

    assert (tape.begin, told(tape)) == (3, [])
    assert tape.known_from(ALL) == tape.held_from(ALL) == Known(5, 0, has_left=True)
    tape.append(full(9))
    assert tape.begin == 3


def test_only_so_much_is_told_of_one_hole(monkeypatch):
    """And of so many topics."""
    monkeypatch.setattr(holes, "STANDING_GAPS_MAX", 2)
    monkeypatch.setattr(holes, "TOPICS_MAX", 1)
    tape = Tape()
    for number in range(3):
        lack(tape, payload=b"%d" % number)
        lack(tape, TICKS[0])
    tape.append([*full(5), make_message("ticker", BTC, 5)])

    assert told(tape, topics=[ALL, *TICKS]) == [(1, b"1", 4), (1, b"2", 4)]


def test_a_stopped_feed_makes_tickers_doubtful_and_nothing_else():
    """Everybody's, or those of some products."""
    tape = Tape()
    tape.append([make_message("ticker", product, 3) for product in (BTC, ETH)] + full(3))
    assert tape.doubts(TICKS) == []
    stop(tape, frozenset({ETH}))
    assert [b"ETH-USD" in notice for notice in tape.doubts([*TICKS, ALL])] == [True]
    stop(tape)
    assert len(tape.doubts([*TICKS, ALL])) == 2
    tape.append([make_message("ticker", product, 9) for product in (BTC, ETH)] + full(9))

    assert [up_to for *_, up_to in told(tape, topics=[*TICKS, ALL])] == [8, 8]
    assert tape.doubts(TICKS) == []
    assert tape.known_from(ALL) == Known(3, 0)


def test_other_notices_are_about_nothing_that_is_missing():
    """What is over, what passes, and what is said to be stale of a topic."""
    tape = Tape()
    tape.append([make_message("ticker", BTC, 3)])
    for audience, kind in (
        (None, NoticeKind.BACK),
        (TICKS[0], NoticeKind.PASSING),
        (TICKS[0], NoticeKind.STALE),
        (None, NoticeKind.GAP),
    ):
        tape.note(TopicNotice(audience, b"{}", kind))
    tape.append([make_message("ticker", BTC, 9)])

    assert told(tape, topics=TICKS) == []


def test_of_a_forgotten_topic_nothing_is_to_come():
    """It begins anew."""
    tape = Tape()
    tape.append(full(1))
    lack(tape)
    tape.forget(ALL)
    tape.append(full(5))

    assert (told(tape), tape.known_from(ALL)) == ([], Known(5, 0))


def test_a_ticker_that_is_whole_is_not_doubted():
    """What was told to be missing stays so."""
    tape = Tape()
    tape.append([make_message("ticker", BTC, 3), *full(3)])
    stop(tape)
    lack(tape)
    for topic in (TICKS[0], ALL, TICKS[1]):
        tape.note(TopicNotice(topic, b"", NoticeKind.WHOLE))
    tape.append([make_message("ticker", BTC, 9), *full(9)])

    assert told(tape, topics=[*TICKS, ALL]) == [(4, b"gap", 8)]
