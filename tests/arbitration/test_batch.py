"""What one read brought: cut where something is to be told, and nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.arbitration.batch import NoticeKind, Received, Refusal, TopicNotice, split_at_notices
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.secret import NO_SECRETS, Secrets

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

    assert expected == list(split_at_notices(list(messages), notices, at))


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


@pytest.mark.parametrize("kind", ["refusals", "complaints", "oddities"])
def test_the_exchanges_words_pass_on_no_secret(kind):
    """An exchange may repeat the token that it refuses; subscribers and logs read its words."""
    received = Received()
    words = "t0ken-s3cret is not known"
    received.refusals.append(Refusal("BTC-USD", words, words) if kind == "refusals" else None)
    received.refusals = [refusal for refusal in received.refusals if refusal]
    received.complaints += [words] if kind == "complaints" else []
    received.oddities += [words] if kind == "oddities" else []
    received.hide(Secrets(["t0ken-s3cret"]))

    shown = "*** is not known"
    expected = Refusal("BTC-USD", shown, shown) if kind == "refusals" else shown
    assert getattr(received, kind) == [expected]


def test_nothing_is_searched_in_a_read_without_words():
    """Almost every read has none."""
    received = Received()
    before = received.complaints
    received.hide(NO_SECRETS)

    assert received.complaints is before
