"""The query of a URL: every parameter is known and unambiguous, or the query is refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.errors import SubscriberError
from hedgehogd.protocol.query import (
    PEER_PARAMETERS,
    STREAM_PARAMETERS,
    read_query,
    split_list,
)

KNOWN = STREAM_PARAMETERS | PEER_PARAMETERS | {"pairs"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("since=", {"since": ""}),
        ("since", {"since": ""}),
        ("pairs=A-B&channels=ticker", {"pairs": "A-B", "channels": "ticker"}),
        ("pairs=A-B&pairs=C-D,E-F", {"pairs": "A-B,C-D,E-F"}),
        ("since=2026-01-31T12%3A00%3A00%2B01%3A00", {"since": "2026-01-31T12:00:00+01:00"}),
        ("since=a+b", {"since": "a b"}),
        ("since=%ff", {"since": "\ufffd"}),
    ],
)
def test_known_parameters_are_read(text, expected):
    """Parameters with a list may be repeated; their values are joined."""
    assert read_query(text, KNOWN) == expected


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("pair", "; did you mean pairs?"),
        ("channel", "; did you mean channels?"),
        ("symbol", ""),
        ("Since", "; did you mean since?"),
        ("alon", ""),
        ("", ""),
        ("x" * 100, ""),
    ],
)
def test_an_unknown_parameter_is_refused_with_the_most_similar_name(name, hint):
    """If it were ignored, the client would get a wrong stream without an error."""
    with pytest.raises(SubscriberError) as caught:
        read_query(f"{name}=BTC-USD&pairs=A-B", KNOWN)

    assert (caught.value.code, caught.value.status) == ("unknown_parameter", 400)
    assert str(caught.value) == (
        f"{name[:40]!r} is not a parameter of this path, which has channels, format,"
        f" last_event_id, notices, pairs, policy, since, speed, strict, until{hint}"
    )


def test_the_error_of_a_path_without_parameters_lists_none():
    """Such a path has no similar name to suggest."""
    with pytest.raises(SubscriberError, match=r"which has no parameters$"):
        read_query("verbose=1", ())


@pytest.mark.parametrize("name", sorted(KNOWN - {"pairs", "channels"}))
def test_a_single_value_may_appear_once(name):
    """It would be a guess which of two values to use."""
    with pytest.raises(SubscriberError, match=f"{name} appears more than once") as caught:
        read_query(f"{name}=1&{name}=1", KNOWN)

    assert (caught.value.code, caught.value.status) == ("bad_request", 400)


@given(st.text(alphabet="pairsx=&;%+0A\x00ÿ#?"))
def test_every_query_is_read_or_refused(text):
    """An untrusted query must not cause any other exception."""
    with contextlib.suppress(SubscriberError):
        assert read_query(text, KNOWN).keys() <= KNOWN


def test_items_of_a_list_are_trimmed():
    """Empty items are dropped."""
    assert split_list(" a, ,b,") == ["a", "b"]
