"""Candles, from the trades that the simulated market made and still keeps.

Source: docs/COINBASE.md §13. No history is invented: a market that opened a minute ago has one
or two candles.
"""

from datetime import UTC, datetime

import msgspec

from hedgehogd.simulator.amounts import NS_PER_S, trimmed
from hedgehogd.simulator.trading import Trading

GRANULARITIES = (60, 300, 900, 3600, 21600, 86400)
INTERVALS_MAX = 300

_TOO_MANY = (
    "granularity too small for the requested time range. Count of aggregations requested exceeds "
    f"{INTERVALS_MAX}"
)


class CandleError(ValueError):
    """A request for candles is invalid; the text is the exchange's where that is known."""


class _Candle:
    __slots__ = ("close", "high", "low", "open", "volume")

    def __init__(self, tick: int) -> None:
        self.open = self.high = self.low = self.close = tick
        self.volume = 0


def candles(
    trading: Trading, granularity: str | None, start: str | None, end: str | None
) -> list[list[object]]:
    """Return rows of ``[time, low, high, open, close, volume]``, newest first.

    All are JSON numbers: seconds since the epoch, prices in quote currency, volume in base
    currency. Intervals without a trade are left out.

    Args:
        trading: source of the trades.
        granularity: seconds of one candle, one of ``GRANULARITIES``; 60 if absent.
        start: earliest begin of a candle, RFC 3339 or seconds since the epoch.
        end: latest begin of a candle. If ``start`` or ``end`` is absent, both are ignored: the
            range ends with the latest trade and has ``INTERVALS_MAX`` intervals.

    Raises:
        CandleError: an unknown granularity, an invalid time, or too many intervals.
    """
    if (granularity or "60") not in map(str, GRANULARITIES):
        raise CandleError("Unsupported granularity")
    seconds = int(granularity or 60)
    first: float
    last: float
    if start is None or end is None:
        newest = last = trading.trades[-1].time_ns // NS_PER_S
        first = (newest // seconds - INTERVALS_MAX + 1) * seconds
    else:
        first, last = _seconds("start", start), _seconds("end", end)
        if (last - first) / seconds > INTERVALS_MAX:
            raise CandleError(_TOO_MANY)
    by_time: dict[int, _Candle] = {}
    for trade in trading.trades:
        time = trade.time_ns // NS_PER_S // seconds * seconds
        if not first <= time <= last:
            continue
        candle = by_time.setdefault(time, _Candle(trade.tick))
        candle.high = max(candle.high, trade.tick)
        candle.low = min(candle.low, trade.tick)
        candle.close = trade.tick
        candle.volume += trade.units
    return [_row(trading, time, candle) for time, candle in reversed(by_time.items())]


def _row(trading: Trading, time: int, candle: _Candle) -> list[object]:
    places = trading.product.price_decimals
    prices = (candle.low, candle.high, candle.open, candle.close)
    texts = [trimmed(tick, places) for tick in prices]
    texts.append(trimmed(candle.volume, trading.product.size_decimals))
    # JSON numbers with exact digits: no value was ever a float.
    return [time, *(msgspec.Raw(text.encode()) for text in texts)]


def _seconds(name: str, text: str) -> float:
    try:
        if text.isascii() and text.isdigit():
            return int(text)
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CandleError(f"invalid {name}: {text}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
