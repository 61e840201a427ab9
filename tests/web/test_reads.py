"""Requests to the exchange in canonical form, and requests that are refused before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.feeds.rest_cache import Answer
from hedgehogd.web.reads import BadRead, currency_read, product_read

ANY = Answer(200, b"[]")


@pytest.mark.parametrize(
    ("subject", "args", "path", "query", "keep_s"),
    [
        ("", {"x": "1"}, "", {}, 60),
        ("ticker", {"x": "1"}, "/ticker", {}, 1),
        ("stats", {}, "/stats", {}, 5),
        ("book", {}, "/book", {"level": "1"}, 1),
        ("book", {"level": "3", "_": "9"}, "/book", {"level": "3"}, 1),
        ("trades", {}, "/trades", {}, 1),
        ("trades", {"limit": "007"}, "/trades", {"limit": "7"}, 1),
        ("trades", {"limit": "5000"}, "/trades", {"limit": "1000"}, 1),
        ("trades", {"before": "5", "after": "0"}, "/trades", {"before": "5", "after": "0"}, 1),
        (
            "trades",
            {"before": str(10**18), "limit": str(10**18)},
            "/trades",
            {"before": str(10**18), "limit": "1000"},
            1,
        ),
        ("candles", {}, "/candles", {"granularity": "60"}, 5),
        ("candles", {"granularity": "3600"}, "/candles", {"granularity": "3600"}, 5),
        (
            "candles",
            {"start": "2026-01-01T00:00:00.5Z", "end": "2026-01-01T05:00:00"},
            "/candles",
            {"granularity": "60", "start": "2026-01-01T00:00:00Z", "end": "2026-01-01T05:00:00Z"},
            5,
        ),
        (
            "candles",  # an offset with an unquoted plus sign
            {"start": "2026-01-01T02:00:00 02:00"},
            "/candles",
            {"granularity": "60", "start": "2026-01-01T00:00:00Z"},
            5,
        ),
        (
            "candles",
            {"start": "60", "end": "60"},
            "/candles",
            {"granularity": "60", "start": "1970-01-01T00:01:00Z", "end": "1970-01-01T00:01:00Z"},
            5,
        ),
        (
            "candles",
            {"start": "0", "end": "18000"},
            "/candles",
            {"granularity": "60", "start": "1970-01-01T00:00:00Z", "end": "1970-01-01T05:00:00Z"},
            5,
        ),
        (
            "candles",
            {"end": "2026-01-01"},
            "/candles",
            {"granularity": "60", "end": "2026-01-01T00:00:00Z"},
            5,
        ),
    ],
)
def test_a_request_has_a_canonical_form(subject, args, path, query, keep_s):
    """Otherwise a client could cause another upstream request by writing another zero."""
    read = product_read("BTC-USD", subject, args)

    assert read.path == "/products/BTC-USD" + path
    assert dict(read.query) == query
    assert read.keeping(ANY) == keep_s


@pytest.mark.parametrize(
    ("after", "before_header", "keep_s"),
    [("100", "99", 10), ("100", "98", 1), ("100", "", 1), (None, "99", 1)],
)
def test_only_a_page_that_can_never_change_is_cached_longer(after, before_header, keep_s):
    """A cached stale page would defeat the backfill of a hedgehogd that reads from this one."""
    read = product_read("BTC-USD", "trades", {"after": after} if after else {})

    assert read.keeping(Answer(200, b"[]", before_header)) == keep_s


@pytest.mark.parametrize(
    ("subject", "args", "message"),
    [
        ("book", {"level": "4"}, "unexpected level: _"),
        ("book", {"level": ""}, "unexpected level: _"),
        ("trades", {"limit": "0"}, "limit has to be at least 1"),
        ("trades", {"limit": "-1"}, "limit has to be a whole number"),
        ("trades", {"limit": ""}, "limit has to be a whole number"),
        ("trades", {"before": "x"}, "before has to be a whole number"),
        ("trades", {"after": "\u0661"}, "after has to be a whole number"),
        ("trades", {"after": str(2**63)}, f"after has to be a whole number, at most {2**63 - 1}"),
        ("trades", {"before": "9" * 5000},
         f"before has to be a whole number, at most {2**63 - 1}"),
        ("candles", {"granularity": "61"}, "Unsupported granularity"),
        ("candles", {"granularity": "1m"}, "granularity has to be a whole number"),
        ("candles", {"start": "now"}, "start has to be a time in ISO 8601, or seconds since 1970"),
        ("candles", {"end": "9" * 12}, "end has to be a time in ISO 8601, or seconds since 1970"),
        ("candles", {"end": ""}, "end has to be a time in ISO 8601, or seconds since 1970"),
        ("candles", {"start": "0001-01-01T00:00:00+14:00"},
         "start has to be a time in ISO 8601, or seconds since 1970"),
        ("candles", {"start": "0900-01-01"}, "start is too long ago"),
        ("candles", {"start": "60", "end": "0"}, "start has to be before end"),
        (
            "candles",
            {"start": "0", "end": "18001"},
            (
                "granularity too small for the requested time range. "
                "Count of aggregations requested exceeds 300"
            ),
        ),
    ],
)  # fmt: skip
def test_requests_that_the_exchange_would_refuse_are_not_sent(subject, args, message):
    """The message is the exchange's where it is known."""
    with pytest.raises(BadRead, match="^" + message.replace(".", r"\.") + "$"):
        product_read("BTC-USD", subject, args)


@pytest.mark.parametrize(
    ("name", "path"),
    [("BTC", "/currencies/BTC"), ("00", "/currencies/00"), ("", None), ("A/B", None),
     ("A" * 17, None), ("BTC\n", None)],
)  # fmt: skip
def test_a_currency_has_a_name_that_can_be_in_a_path(name, path):
    read = currency_read(name)

    assert (read and read.path) == path
    assert read is None or read.keeping(ANY) == 60


@given(
    st.sampled_from(["", "book", "trades", "candles", "ticker", "stats"]),
    st.dictionaries(
        st.sampled_from(["level", "limit", "before", "after", "granularity", "start", "end", "x"]),
        st.text(max_size=20) | st.integers().map(str) | st.datetimes().map(str),
    ),
)
def test_any_query_is_a_request_or_refused(subject, args):
    """The canonical form of a canonical request is the same request."""
    try:
        read = product_read("BTC-USD", subject, args)
    except BadRead:
        return
    again = product_read("BTC-USD", subject, dict(read.query))

    assert again.query == read.query
    assert all(text.isascii() and len(text) <= 20 for _, text in read.query)
