"""The result of one read: split at its notices, and nowhere else."""

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
def test_messages_are_split_at_the_notices(messages, notices, at, parts):
    """A gap notice is sent after the messages before the gap and before those after it."""
    expected = [(list(p), []) if isinstance(p, str) else (list(p[0]), p[1]) for p in parts]

    assert expected == list(split_at_notices(list(messages), notices, at))


@given(st.lists(st.one_of(st.integers(), st.binary(max_size=3))))
def test_joined_parts_equal_the_whole(steps):
    """Splitting loses and moves no message."""
    received = Received()
    for step in steps:
        if isinstance(step, int):
            received.messages.append(step)
        else:
            received.tell(TopicNotice(None, step))
    joined = []
    parts = list(received.parts())
    for messages, notices in parts:
        joined += [notice.payload for notice in notices] + messages

    assert steps == joined
    assert all(messages for messages, _ in parts[:-1])


def test_a_snapshot_is_requested_on_both_channels_of_a_book():
    """Only the connection knows which of the two it holds."""
    received = Received()
    received.resync_books("BTC-USD")

    assert [Topic("level2", "BTC-USD"), Topic("level2_batch", "BTC-USD")] == received.resyncs


def test_a_notice_is_passing_by_default():
    """A notice that stays in force needs another one that ends it."""
    assert NoticeKind.PASSING is ONE.kind


@pytest.mark.parametrize("kind", ["refusals", "complaints", "oddities"])
def test_error_texts_of_the_exchange_contain_no_secret(kind):
    """An exchange may repeat the token that it refuses; its texts reach subscribers and logs."""
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


def test_secrets_are_not_searched_in_a_read_without_errors():
    """Almost every read has none."""
    received = Received()
    before = received.complaints
    received.hide(NO_SECRETS)

    assert received.complaints is before
