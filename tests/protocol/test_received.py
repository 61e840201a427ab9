"""What one read brought: cut where something is to be told, and nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.channel import Topic
from hedgehogd.protocol.received import NoticeKind, Received, TopicNotice, cut

ONE, TWO = TopicNotice(None, b"1"), TopicNotice(frozenset({"BTC-USD"}), b"2")


@pytest.mark.parametrize(
    ("messages", "notices", "at", "parts"),
    [
        ([], [], [], [([], [])]),
        ("ab", [], [], ["ab"]),
        ("ab", [ONE], [0], [("ab", [ONE])]),
        ("ab", [ONE], [1], ["a", ("b", [ONE])]),
        ("ab", [ONE, TWO], [1, 1], ["a", ("b", [ONE, TWO])]),
        ("ab", [ONE, TWO], [1, 2], ["a", ("b", [ONE]), ("", [TWO])]),
        ("", [ONE], [0], [("", [ONE])]),
    ],
)
def test_messages_are_cut_at_the_notices(messages, notices, at, parts):
    """A gap is told before what follows it, after what went before."""
    expected = [(list(p), []) if isinstance(p, str) else (list(p[0]), p[1]) for p in parts]

    assert expected == list(cut(list(messages), notices, at))


@given(st.lists(st.one_of(st.integers(), st.binary(max_size=3))))
def test_parts_joined_are_what_came(steps):
    """Nothing is lost or moved by the cutting."""
    received = Received()
    for step in steps:
        if isinstance(step, int):
            received.messages.append(step)
        else:
            received.tell(TopicNotice(None, step))
    joined = []
    parts = list(received.parts())
    for messages, told in parts:
        joined += [notice.payload for notice in told] + messages

    assert steps == joined
    assert all(messages for messages, _ in parts[:-1])


def test_a_book_is_asked_for_under_both_its_names():
    """Which of the two flows only the connection knows."""
    received = Received()
    received.resync_books("BTC-USD")

    assert [Topic("level2", "BTC-USD"), Topic("level2_batch", "BTC-USD")] == received.resyncs


def test_a_notice_is_for_those_who_are_there_unless_said_otherwise():
    """What holds longer has to be ended by somebody."""
    assert NoticeKind.PASSING is ONE.kind
