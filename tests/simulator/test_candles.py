"""Candles of the market's own trades (docs/COINBASE.md §13)."""

import json
from collections import deque

import msgspec
import pytest

from hedgehogd.simulator.candles import CandleError, candles
from hedgehogd.simulator.events import Matched
from hedgehogd.simulator.products import LISTED
from hedgehogd.simulator.trading import Trading
from tests.simulator.follower import S

NOON = 1_789_992_000  # a whole minute, a whole hour


def traded(*trades):
    """Return a market with ``trades`` of (seconds after noon, tick, units)."""
    trading = Trading(LISTED[0], 1, NOON * S, 1.0, lambda *level: None)
    trading.trades = deque(
        Matched(n, n, 1, 2, "buy", tick, units, int((NOON + after) * S))
        for n, (after, tick, units) in enumerate(trades)
    )
    return trading


def rows(*arguments):
    """Return the decoded answer."""
    return json.loads(msgspec.json.encode(candles(*arguments)))


def test_a_candle_is_low_high_open_close_and_volume():
    """Fields in the exchange's order, newest first; minutes without a trade are left out."""
    trading = traded(
        (0, 10_000, 100_000_000), (1, 10_500, 50_000_000), (2.5, 9_900, 1), (59.9, 10_100, 9),
        (180, 10_001, 7),
    )  # fmt: skip

    assert rows(trading, "60", None, None) == [
        [NOON + 180, 100.01, 100.01, 100.01, 100.01, 7e-08],
        [NOON, 99, 105, 100, 101, 1.5000001],
    ]
    assert rows(trading, None, None, None) == rows(trading, "60", None, None)
    assert len(rows(trading, "300", None, None)) == 1


def test_numbers_are_written_with_exact_digits():
    """No value is ever a float."""
    trading = traded((0, 7_757_287, 123_456_789_012))
    text = msgspec.json.encode(candles(trading, "60", None, None))

    assert text == b"[[%d,77572.87,77572.87,77572.87,77572.87,1234.56789012]]" % NOON


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (str(NOON + 60), str(NOON + 120)),
        ("2026-09-21T12:01:00Z", "2026-09-21T12:02:00+00:00"),
        ("2026-09-21T12:01:00", "2026-09-21T12:02:00.5Z"),
    ],
)
def test_a_range_includes_both_ends(start, end):
    """In each form of writing times."""
    trading = traded(*((after, 100, 1) for after in (0, 60, 121, 180)))

    assert [row[0] for row in rows(trading, "60", start, end)] == [NOON + 120, NOON + 60]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("61", None, None), "Unsupported granularity"),
        (("x", None, None), "Unsupported granularity"),
        (("60", "yesterday", "1"), "invalid start: yesterday"),
        (
            ("60", "0", str(301 * 60)),
            (
                "granularity too small for the requested time range. "
                "Count of aggregations requested exceeds 300"
            ),
        ),
    ],
)
def test_an_invalid_request_gets_the_exchanges_error_text(arguments, message):
    """Clients may match on the text."""
    with pytest.raises(CandleError) as caught:
        candles(traded((0, 1, 1)), *arguments)

    assert str(caught.value) == message


def test_without_a_range_the_newest_300_intervals_are_returned():
    """A range of 300 intervals may be requested too."""
    trading = traded(*((60 * n, 100, 1) for n in range(400)))
    newest = rows(trading, "60", None, None)

    assert len(newest) == 300
    assert newest[0][0] == NOON + 399 * 60
    assert len(rows(trading, "60", str(NOON), str(NOON + 300 * 60))) == 301
