"""Answers and their cache: bounded in number, in bytes and in age."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.feeds.rest_cache import Answer, KeptAnswers, error_message, failure


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"message":"NotFound"}', "NotFound"),
        (b'{"message":"x","more":1}', "x"),
        (b'{"message":7}', ""),
        (b"[]", ""),
        (b"", ""),
        (b"<html>", ""),
        (b'{"message":"\xff"}', ""),
        (b'{"message":' + b"[" * 5000, ""),
        (b'{"a":' + b"[" * 5000, ""),
    ],
)
def test_the_message_of_any_error_body_is_read(body, message):
    """The body may be a proxy's page; then the message is empty."""
    assert error_message(body) == message
    assert Answer(404, body).message == message


def test_a_failure_has_the_exchanges_form():
    """The exchange's clients read ``message``."""
    answer = failure(503, "later", 2.5)

    assert (answer.status, answer.retry_after_s) == (503, 2.5)
    assert json.loads(answer.body) == {"message": "later"}


def test_an_answer_is_cached_until_its_expiry():
    kept = KeptAnswers()
    kept.keep("a", Answer(200, b"123"), until=10.0)

    assert kept.find("a", 9.9) == Answer(200, b"123")
    assert kept.find("b", 9.9) is None
    assert kept.bytes == 3
    assert kept.find("a", 10.0) is None
    assert (kept.bytes, len(kept)) == (0, 0)


def test_the_least_recently_used_goes_first():
    """Books that are requested often stay in the cache."""
    kept = KeptAnswers(answers_max=2)
    for key in "ab":
        kept.keep(key, Answer(200, b""), until=10)
    kept.find("a", 0)
    kept.keep("c", Answer(200, b""), until=10)

    assert [key for key in "abc" if kept.find(key, 0)] == ["a", "c"]


def test_a_body_above_the_limit_is_not_cached():
    kept = KeptAnswers(bytes_max=10)
    kept.keep("a", Answer(200, b"12345"), until=10)
    kept.keep("b", Answer(200, b"x" * 11), until=10)
    kept.keep("a", Answer(200, b"x" * 11), until=10)  # the cached answer is outdated now

    assert (len(kept), kept.bytes) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12))))
def test_both_bounds_hold(steps):
    kept = KeptAnswers(answers_max=4, bytes_max=20)
    for key, size in steps:
        kept.keep(key, Answer(200, b"x" * size), until=1)
        bodies = [answer.body for _, (_, answer) in kept._kept.items()]

        assert len(kept) <= 4
        assert kept.bytes == sum(map(len, bodies)) <= 20
        assert kept.find(key, 0) is not None  # the newest answer is always cached
