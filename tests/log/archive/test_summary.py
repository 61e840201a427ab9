"""Summaries of messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.channel import FULL, MATCHES
from hedgehogd.log.archive import summary
from hedgehogd.log.archive.errors import DamagedArchive
from hedgehogd.log.archive.group import Run
from tests.log.archive.records import message

TOPIC = FULL.topic("BTC-USD")


def run_of(numbers, first_id=1):
    """Return a run of messages with these numbers."""
    run = Run(TOPIC)
    messages = [message(TOPIC, n or 0, first_id + at) for at, n in enumerate(numbers)]
    for each, number in zip(messages, numbers, strict=True):
        each.sequence = each.trade_id = number
        each.also = MATCHES.topic("BTC-USD") if (number or 0) % 2 else None
    run.add(messages)
    return run


lists = st.lists(st.none() | st.integers(0, 50), min_size=1, max_size=8)


@given(lists, lists)
def test_the_summary_of_two_is_that_of_both(one, other):
    """So an index is collected block by block."""
    whole = summary.of_run(run_of(one + other))

    assert whole == summary.joined(
        summary.of_run(run_of(one)), summary.of_run(run_of(other, 1 + len(one)))
    )
    assert [whole] == summary.unpack(summary.pack([whole]))


@given(lists, st.integers(0, 50))
def test_a_number_is_searched_where_it_may_be(numbers, number):
    """A summary never denies a number that is there."""
    whole = summary.of_run(run_of(numbers))
    known = [each for each in numbers if each is not None]
    for is_trade_id in (False, True):
        if known and min(known) <= number:
            assert whole.begins_by(number, is_trade_id=is_trade_id)


def test_a_second_topic_has_a_summary_of_its_own():
    """Of those messages alone that have it."""
    found = summary.of_second_topic(run_of([1, 2, 3, 4]), MATCHES.topic("BTC-USD"))

    assert (2, 1, 3, 1, 3) == (
        found.messages, found.first_id, found.last_id, found.first_trade_id, found.last_trade_id
    )  # fmt: skip


@pytest.mark.parametrize("data", [b"", b"x", summary.pack([])[:-1]])
def test_other_bytes_are_refused(data):
    """By one error."""
    with pytest.raises(DamagedArchive):
        summary.unpack(data)


@pytest.mark.parametrize("name", ["sequences", "trade_ids"])
def test_numbers_that_fall_from_one_block_to_the_next_are_noticed(name):
    """Of either kind alone."""
    runs = [run_of([5]), run_of([4], 2)]
    for run in runs:
        setattr(run, "trade_ids" if name == "sequences" else "sequences", [None])
    one, other = (summary.of_run(run) for run in runs)

    assert not one.falls
    assert summary.joined(one, other).falls
    assert not summary.joined(None, other).falls
