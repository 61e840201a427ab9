"""Times of the traders' actions."""

import random

import pytest

from hedgehogd.simulator.pace import Pace
from tests.simulator.follower import S


@pytest.mark.parametrize(("per_s", "rate"), [(120, 1), (10, 1), (20, 5)])
def test_pauses_have_the_requested_mean(per_s, rate):
    """Otherwise a rate would have no meaning."""
    pace = Pace(random.Random(1), per_s, rate)
    pauses = [pace.wait_ns() for _ in range(20_000)]

    assert sum(pauses) / len(pauses) == pytest.approx(S / (per_s * rate), rel=0.15)
    assert all(pause >= 1000 and pause % 1000 == 0 for pause in pauses)


def test_actions_come_in_bursts():
    """Most pauses are far below the mean, a few are far above (docs/COINBASE.md §12)."""
    pace = Pace(random.Random(1), 20, 1)
    pauses = sorted(pace.wait_ns() for _ in range(5_000))

    assert pauses[len(pauses) // 2] < S / 20 / 10
    assert pauses[-50] > 5 * S / 20
