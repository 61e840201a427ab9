"""Positions: a subscriber's text is parsed to the original position, or is refused."""

import contextlib
import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, Topic
from hedgehogd.domain.limits import SEQUENCE_MAX
from hedgehogd.domain.position import (
    BadPosition,
    Start,
    from_text,
    read_moment,
    read_number,
    read_start,
    to_object,
    to_text,
)

topics = st.builds(
    Topic,
    st.sampled_from(sorted(BY_TOPIC_CHANNEL)),
    st.from_regex(r"[A-Z0-9]{1,16}-[A-Z0-9]{1,16}", fullmatch=True),
)
positions = st.dictionaries(topics, st.integers(min_value=0, max_value=SEQUENCE_MAX))


@settings(deadline=None, max_examples=50)
@given(positions)
def test_a_position_survives_formatting_and_parsing(position):
    """A position needs no server state: only its text survives a reconnect."""
    text = to_text(position)

    assert position == from_text(text)
    assert text.isascii()
    assert set(text).isdisjoint("\r\n\0 ")  # or an SSE id would end early


@settings(deadline=None, max_examples=50)
@given(positions)
def test_the_object_form_equals_the_position(position):
    """``/ws`` sends it as JSON, SSE as text; a subscriber may change from one to the other."""
    read = json.loads(json.dumps(to_object(position)))

    assert position == {
        Topic(channel, product_id): number
        for channel, numbers in read.items()
        for product_id, number in numbers.items()
    }


@pytest.mark.parametrize(
    ("position", "text"),
    [
        ({}, ""),
        ({Topic("matches", "BTC-USD"): 0}, "matches:BTC-USD@0"),
        (
            {Topic("ticker", "BTC-USD"): 135437581854, Topic("matches", "BTC-USD"): 135437581854},
            "matches:BTC-USD@135437581854,ticker:BTC-USD@135437581854",
        ),
    ],
)
def test_the_text_is_the_documented_one(position, text):
    """Clients store the text, so its form is public."""
    assert text == to_text(position)
    assert position == from_text(text)


@pytest.mark.parametrize(
    "text",
    [
        " ",
        ",",
        "matches",
        "matches:BTC-USD",
        "matches:BTC-USD@",
        "matches@1",
        "matches:@1",
        ":BTC-USD@1",
        "matches:BTC-USD@1,",
        ",matches:BTC-USD@1",
        "matches:BTC-USD@1;ticker:BTC-USD@1",
        "matches:BTC-USD@-1",
        "matches:BTC-USD@+1",
        "matches:BTC-USD@1.0",
        "matches:BTC-USD@1_000",
        "matches:BTC-USD@ 1",
        "matches:BTC-USD@1@2",
        "matches:BTC-USD@٣",
        "matches:BTC-USD@²",
        "matches:BTC-USD@" + "9" * 17,
        "matches:BTC-USD@" + "9" * 5000,
        "user:BTC-USD@1",
        "ticker_1000:BTC-USD@1",
        "Matches:BTC-USD@1",
    ],
    ids=lambda text: repr(text[:40]),
)
def test_an_invalid_position_is_refused(text):
    """The error quotes the invalid part; a guessed position would lose messages silently."""
    with pytest.raises(BadPosition, match=r"is not (CHANNEL:PRODUCT@SEQUENCE|a channel)$"):
        from_text(text)


@settings(deadline=None)
@given(st.text(alphabet="matches:BTC-USD@0129,٣ \0") | st.text())
def test_any_text_is_a_position_or_a_bad_position(text):
    """``Last-Event-ID`` is untrusted input."""
    try:
        position = from_text(text)
    except BadPosition:
        return
    assert position == from_text(to_text(position))


NOW_US = 1_790_000_000_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", Start(0)),
        ("135437581854", Start(135437581854)),
        ("-5m", Start(after_us=NOW_US - 300_000_001)),
        ("-250ms", Start(after_us=NOW_US - 250_001)),
        ("-1s", Start(after_us=NOW_US - 1_000_001)),
        ("-2h", Start(after_us=NOW_US - 7_200_000_001)),
        ("-1d", Start(after_us=NOW_US - 86_400_000_001)),
        ("2026-01-31T12:00:00Z", Start(after_us=1_769_860_799_999_999)),
        ("2026-01-31T13:00:00.5+01:00", Start(after_us=1_769_860_800_499_999)),
        ("1970-01-01T00:00:00Z", Start(after_us=-1)),
        (str(SEQUENCE_MAX), Start(SEQUENCE_MAX)),
    ],
)
def test_a_stream_begins_at_a_number_a_time_or_an_age(text, expected):
    """A subscriber may know its last sequence, a time from a log line, or a duration."""
    assert expected == read_start(text, NOW_US)


@pytest.mark.parametrize(
    "text",
    ["", " ", "now", "5m", "-5", "-5w", "-m", "- 5m", "-5.5m", "1e9", "-1", "9" * 17, "٣", "-٣m",
        "2026-01-31T12:00:00", "2026-13-01T00:00:00Z", "-9999999999d", str(SEQUENCE_MAX + 1),
        "2026-01-31 12:00", "9" * 5000],
)  # fmt: skip
def test_any_other_start_is_refused(text):
    """A guess would start the stream at an arbitrary place."""
    with pytest.raises(
        BadPosition, match=r"is neither a time like .* nor an age like -5m, nor a sequence up to"
    ):
        read_start(text, NOW_US)


@pytest.mark.parametrize(
    "text", ["-999999999d", "-20d", "0001-01-01T00:00:00Z", "1969-12-31T23:59:59.999999Z"]
)
def test_a_moment_before_1970_is_refused(text):
    """No message is older, and no store has such a place."""
    for read in (read_moment, read_start):
        with pytest.raises(BadPosition, match="is before 1970"):
            read(text, 10 * 86_400_000_000)


@settings(deadline=None)
@given(st.datetimes(min_value=datetime(1970, 1, 3), max_value=datetime(9999, 12, 30)), st.data())
def test_the_plus_of_an_offset_may_arrive_as_a_space(moment, data):
    """A query that was not percent-encoded has a space in its place."""
    zone = timezone(timedelta(minutes=data.draw(st.integers(min_value=0, max_value=1439))))
    text = moment.replace(tzinfo=zone).isoformat()

    assert read_moment(text.replace("+", " "), NOW_US) == read_moment(text, NOW_US)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("7", 7), ("8", None), ("10", None), ("", None), ("-1", None), ("٣", None),
        ("9" * 5000, None)],
)  # fmt: skip
def test_a_number_is_parsed_up_to_its_maximum(text, expected):
    """Later code cannot represent a larger number."""
    assert read_number(text, 7) == expected


@settings(deadline=None)
@given(st.text(alphabet="-0123456789smhdTZ:+. ") | st.text())
def test_any_text_is_a_start_or_a_bad_position(text):
    """The query of a URL is untrusted input."""
    with contextlib.suppress(BadPosition):
        read_start(text, NOW_US)
