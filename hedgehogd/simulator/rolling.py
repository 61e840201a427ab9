"""The rolling statistics in a ticker: 24 hours of prices and volume, 30 days of volume.

They are kept by the hour, so "24 h" means the current hour and the 23 before it. The hours before
the market opened are invented; otherwise a new simulator would show a market that never traded.
"""

import random
from collections import deque
from typing import NamedTuple

from hedgehogd.simulator.amounts import NS_PER_S

_NS_PER_HOUR = 3600 * NS_PER_S
_DAY_HOURS = 24
_MONTH_HOURS = 30 * 24


class _Hour:
    __slots__ = ("high", "low", "open", "volume")

    def __init__(self, price: int, volume: int) -> None:
        self.open = self.low = self.high = price
        self.volume = volume


class Day(NamedTuple):
    """Statistics of the last 24 hours; ``volume_30d`` is of the last 30 days.

    Prices are ticks, volumes are units.
    """

    open: int
    low: int
    high: int
    volume: int
    volume_30d: int


class Statistics:
    """Rolling statistics of one product."""

    def __init__(self, rng: random.Random, time_ns: int, price: int, units_per_hour: int) -> None:
        self._hour = time_ns // _NS_PER_HOUR
        self._hours: deque[_Hour] = deque(maxlen=_MONTH_HOURS)
        for _ in range(_MONTH_HOURS - 1):
            near = price + int((rng.random() - 0.5) * price / 25)
            self._hours.append(_Hour(near, int(units_per_hour * (0.5 + rng.random()))))
        self._hours.append(_Hour(price, 0))
        self._month = sum(hour.volume for hour in self._hours)
        self._sum_up()

    def trade(self, time_ns: int, price: int, units: int) -> None:
        """Account for one trade; ``time_ns`` never goes backwards."""
        self._roll(time_ns // _NS_PER_HOUR, price)
        now = self._hours[-1]
        now.low = min(now.low, price)
        now.high = max(now.high, price)
        now.volume += units
        self._month += units

    def day(self) -> Day:
        """Return the statistics up to the last trade."""
        now = self._hours[-1]
        return Day(
            self._open,
            min(self._low, now.low),
            max(self._high, now.high),
            self._volume + now.volume,
            self._month,
        )

    def _roll(self, hour: int, price: int) -> None:
        if hour <= self._hour:
            return
        for _ in range(min(hour - self._hour, _MONTH_HOURS)):
            self._month -= self._hours[0].volume
            self._hours.append(_Hour(price, 0))
        self._hour = hour
        self._sum_up()

    def _sum_up(self) -> None:
        """Sum up the day's hours before the current one."""
        past = list(self._hours)[-_DAY_HOURS:-1]
        self._open = past[0].open
        self._low = min(hour.low for hour in past)
        self._high = max(hour.high for hour in past)
        self._volume = sum(hour.volume for hour in past)
