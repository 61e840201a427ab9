"""Instants: µs since the epoch, as the exchange and people write them."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain.instant import BadInstant, time_of, to_text, to_us

TIME, US = "2021-04-17T16:43:37.089723Z", 1_618_677_817_089_723
FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
instants = st.integers(FIRST_US, LAST_US)


@given(instants)
def test_an_instant_is_read_as_it_was_written(us):
    """To the microsecond, in every year that can be written."""
    text = to_text(us)

    assert us == to_us(text)
    assert len(text) == len(TIME)


@given(instants, instants)
def test_texts_sort_as_instants_do(one, other):
    """So they can be compared without being read."""
    assert (one < other) == (to_text(one) < to_text(other))


@given(
    st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)),
    st.integers(-14 * 60, 14 * 60),
)
def test_zones_are_the_same_instant(when, minutes):
    """Whatever clock somebody has on the wall."""
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
        ("0001-01-01T00:00:00.000000Z", FIRST_US),  # real updates have it (FEED §6.6)
    ],
)
def test_instants_as_they_are_seen(text, expected):
    """Fewer digits of a second than the exchange writes are fine."""
    assert expected == to_us(text)
    assert to_us(to_text(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1618677817",
        "2026-01-31",
        "2026-01-31T12:00:00",  # in which zone?
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
def test_other_texts_are_none(text):
    """Whoever mistypes one is told what is expected."""
    with pytest.raises(BadInstant, match="is not a time like 2026-01-31T12:00:00Z"):
        to_us(text)


@given(st.text())
def test_any_text_is_an_instant_or_bad(text):
    """It comes from outside: nothing else may happen."""
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
def test_the_time_of_a_message_is_read_or_there_is_none(payload, expected):
    """A time that is none is no reason to lose a message."""
    assert expected == time_of(payload)


@given(st.binary())
def test_any_bytes_have_a_time_or_none(payload):
    """Whatever was sent has been kept; reading its time must not fail."""
    for text in (payload, b"[" + payload, b'{"time":"' + payload):
        assert time_of(text) is None or isinstance(time_of(text), int)
