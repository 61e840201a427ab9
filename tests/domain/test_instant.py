"""Instants: µs since the epoch, and the texts of the exchange and of people for them."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.instant import BadInstant, time_of, to_text, to_us

TIME, US = "2021-04-17T16:43:37.089723Z", 1_618_677_817_089_723
FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
instants = st.integers(FIRST_US, LAST_US)


@given(instants)
def test_a_formatted_instant_is_parsed_to_the_same_value(us):
    """Instants are exact to the microsecond, in every year that the format allows."""
    text = to_text(us)

    assert us == to_us(text)
    assert len(text) == len(TIME)


@given(instants, instants)
def test_texts_sort_as_instants_do(one, other):
    """So texts can be compared without being parsed."""
    assert (one < other) == (to_text(one) < to_text(other))


@given(
    st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)),
    st.integers(-14 * 60, 14 * 60),
)
def test_a_local_time_is_the_same_instant_in_any_zone(when, minutes):
    """A person may write the local time of any zone."""
    sign, (hours, rest) = "-+"[minutes >= 0], divmod(abs(minutes), 60)
    local = f"{(when + timedelta(minutes=minutes)).isoformat()}{sign}{hours:02}:{rest:02}"

    assert to_us(f"{when.isoformat()}Z") == to_us(local)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TIME, US),
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000001Z", 1),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("2026-01-31T12:00:00Z", 1_769_860_800_000_000),
        ("2026-01-31T13:00:00+01:00", 1_769_860_800_000_000),
        ("2026-01-31T12:00:00.5Z", 1_769_860_800_500_000),
        ("0001-01-01T00:00:00.000000Z", FIRST_US),  # real updates have it (COINBASE §6.6)
    ],
)
def test_usual_texts_are_instants(text, expected):
    """The text may have fewer decimals of a second than the exchange writes."""
    assert expected == to_us(text)
    assert to_us(to_text(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1618677817",
        "2026-01-31",
        "2026-01-31T12:00:00",  # no zone
        "2026-02-30T12:00:00Z",
        "2026-01-31T25:00:00Z",
        "2026-01-31T12:00:00Z ",
        "２０２６-01-31T12:00:00Z",
        "2026-01-31T12:00:00+99:00",
        "\ud800",
        "\x00",
        "9" * 5000,
    ],
)
def test_an_invalid_text_is_refused(text):
    """The error message states the expected form."""
    with pytest.raises(BadInstant, match="is not a time like 2026-01-31T12:00:00Z"):
        to_us(text)


@given(st.text())
def test_any_text_is_an_instant_or_a_bad_instant(text):
    """The text comes from outside, so no other exception may occur."""
    try:
        us = to_us(text)
    except BadInstant:
        return
    assert us == (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
        microseconds=1
    )


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"type":"match","time":"%b"}' % TIME.encode(), US),
        (b'{"time":"%b","type":"match"}' % TIME.encode(), US),
        (b'{"time":"1970-01-01T00:00:00Z","of":{"time":"%b"}}' % TIME.encode(), US),
        (b'["noop","BTC-USD","5","%b"]' % TIME.encode(), US),
        (b'["noop", "BTC-USD", "5", "%b"]' % TIME.encode(), US),
        (b'{"type":"snapshot","bids":[]}', None),
        (b'{"type":"subscriptions","timer":"x"}', None),
        (b'{"time":""}', None),
        (b'{"time":"soon"}', None),
        (b'{"time":"' + "２０２１".encode() + b'-04-17T16:43:37Z"}', None),
        (b'{"time":"' + b"x" * 100_000 + b'"}', None),
        (b'{"time":"2021-04-17T16:43:37', None),
        (b'{"time":"2021-04-17T16:43:37.089723"}', None),
        (b'["noop","BTC-USD","5"]', None),
        (b"[5]", None),
        (b"[", None),
        (b"]", None),
        (b"", None),
    ],
)
def test_the_time_of_a_message_is_parsed_or_none(payload, expected):
    """A message with an invalid time must not be lost."""
    assert expected == time_of(payload)


@given(st.binary())
def test_any_payload_has_a_time_or_none(payload):
    """Recorded messages have any content; parsing their time must not fail."""
    for text in (payload, b"[" + payload, b'{"time":"' + payload):
        assert time_of(text) is None or isinstance(time_of(text), int)
