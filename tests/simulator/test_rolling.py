"""The statistics of the last 24 hours in tickers."""

import random

from hedgehogd.simulator.rolling import Statistics
from tests.simulator.follower import S


def test_statistics_drop_values_older_than_a_day():
    """Last week's high must not be in ``high_24h``."""
    hour = 3600 * S
    statistics = Statistics(random.Random(1), 0, 1000, units_per_hour=0)
    statistics.trade(hour // 2, 5000, 10)
    statistics.trade(hour + 1, 1000, 7)
    assert (statistics.day().high, statistics.day().volume) == (5000, 17)

    statistics.trade(24 * hour + 1, 1100, 1)
    day = statistics.day()
    assert day == (1000, 1000, 1100, 8, 18)

    statistics.trade(2000 * hour, 1200, 2)
    assert statistics.day() == (1200, 1200, 1200, 2, 2)
