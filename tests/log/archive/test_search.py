"""Searches by number and by time, after resets and steps of the clock."""

import itertools
from contextlib import closing
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.domain.channel import LEVEL2, MATCHES
from hedgehogd.domain.message import Message
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.search import checkpoint_before, find, find_time, stretches
from hedgehogd.log.archive.writer import Writer
from tests.log.archive.records import DEPLOYMENT, SMALL, START_US, TOPICS, message, records
from tests.log.archive.test_reader import write

TOPIC = MATCHES.topic("BTC-USD")


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), number=st.integers(0, 700), resets=st.booleans())
def test_a_number_is_found_as_in_a_list(tmp_path_factory, seed, number, resets):
    """Also after a reset of the exchange's numbers."""
    random = Random(seed)
    directory = tmp_path_factory.mktemp("archive")
    appended = records(random, 600)
    if resets:
        for record in appended[300:]:
            if isinstance(record, Message) and record.sequence is not None:
                record.sequence = record.trade_id = record.sequence - 250
    writer = write(directory, appended, random)
    reader = Reader(directory)
    for topic in TOPICS:
        expected = next(
            (
                (r.id, r.sequence)
                for r in reversed(appended)
                if isinstance(r, Message)
                and topic in {r.topic, r.also}
                and r.sequence is not None
                and r.sequence <= number
            ),
            None,
        )
        assert expected == find(reader, topic, number)
        assert expected == find(reader, topic, number, is_trade_id=True)
    reader.close()
    writer.close()


@settings(max_examples=20, deadline=None)
@given(
    steps=st.lists(st.integers(-(10**13), 10**13), max_size=4),
    since=st.integers(-(10**13), 10**13),
    width=st.integers(1, 10**9),
)
def test_both_eras_of_a_clock_are_found_by_time(tmp_path_factory, steps, since, width):
    """A step of the clock, back or ahead, hides no record."""
    directory = tmp_path_factory.mktemp("archive")
    writer = Writer(directory, DEPLOYMENT, sizes=SMALL)
    appended, id_ = [], 0
    for step in [0, *steps]:
        for _ in range(60):
            id_ += 10
            appended.append(message(TOPIC, id_, id_, START_US + step + id_))
        writer.append(appended)
        writer.sync()
        writer.work()
    since_us, until_us = START_US + since, START_US + since + width
    reader = Reader(directory)
    found = stretches(reader, since_us, until_us)
    for record in appended:
        if since_us <= record.received_us < until_us:
            assert any(s.after_id < record.id <= s.last_id for s in found)
    assert all(one.last_id <= other.after_id for one, other in itertools.pairwise(found))
    first = next((r.id - 1 for r in appended if r.received_us >= since_us), appended[-1].id)
    assert first == find_time(reader, since_us) == find_time(reader, since_us, frozenset({TOPIC}))
    reader.close()
    writer.close()


def test_a_book_starts_from_its_newest_snapshot(tmp_path):
    """Without checkpoints an older segment's snapshot counts, too."""
    topic = LEVEL2.topic("BTC-USD")
    writer = Writer(tmp_path, DEPLOYMENT, sizes=SMALL)
    appended = [
        message(topic, n, 10 * n, kind="snapshot" if n in {20, 100} else "") for n in range(1, 200)
    ]
    for at in range(0, 200, 10):
        writer.append(appended[at : at + 10])
        writer.sync()
        writer.work()
    reader = Reader(tmp_path)

    assert checkpoint_before(reader, topic, 199) is None
    assert appended[19] == checkpoint_before(reader, topic, 200)
    assert appended[19] == checkpoint_before(reader, topic, 999)
    assert appended[99] == checkpoint_before(reader, topic, 10**9)
    assert checkpoint_before(reader, TOPIC, 10**9) is None
    reader.close()
    writer.close()


def test_segments_of_other_times_are_not_opened_and_missing_ones_are_found(tmp_path, monkeypatch):
    """A week has hundreds of segments; a missing one is read, so that its gap is reported."""
    with closing(Writer(tmp_path, DEPLOYMENT, sizes=SMALL)) as writer:
        for era in range(3):
            first = 1 + 100 * era
            writer.append([message(TOPICS[0], n, n) for n in range(first, first + 100)])
            writer.seal()
    reader = Reader(tmp_path)
    rows = reader.view.catalogue.segments
    opened = []
    open_ = reader.view.open
    monkeypatch.setattr(reader.view, "open", lambda s: (opened.append(s.first_id), open_(s))[1])
    (tmp_path / rows[-1].name).unlink()

    assert [(0, 100)] == stretches(reader, START_US, START_US + 50)
    assert set(opened) <= {row.first_id for row in rows if row.last_id <= 100}
    assert [(200, 300)] == stretches(reader, START_US + 250, START_US + 2**40)
    reader.close()


def test_segments_within_a_time_are_not_opened(tmp_path, monkeypatch):
    """A query of a week would read the index of each of its segments."""
    with closing(Writer(tmp_path, DEPLOYMENT, sizes=SMALL)) as writer:
        for era in range(5):
            first = 1 + 100 * era
            writer.append([message(TOPICS[0], n, n) for n in range(first, first + 100)])
            writer.seal()
    with closing(Reader(tmp_path)) as reader:
        opened = []
        open_ = reader.view.open
        monkeypatch.setattr(reader.view, "open", lambda s: (opened.append(s.first_id), open_(s))[1])

        assert [(0, 500)] == stretches(reader, START_US + 1, START_US + 501)
        assert opened == []
        assert [(100, 400)] == stretches(reader, START_US + 101, START_US + 400)
        assert opened == [301]
