"""Times of the traders' actions in one product: bursts with a heavy tail.

Bursts are the hard part of a real feed: the busiest tenth of a second of the recorded market
had five times the average rate (docs/COINBASE.md §12).
"""

import random

from hedgehogd.simulator.amounts import NS_PER_S

_SMALL_BURST, _LARGE_BURST = 2.5, 30.0
_LARGE_BURST_SHARE = 0.03
# Pause between the actions of a burst, at a rate of 1.
_GAP_NS = 1_500_000


class Pace:
    """The pauses between actions of one product."""

    def __init__(self, rng: random.Random, per_s: float, rate: float) -> None:
        """Prepare to draw pauses.

        Args:
            rng: source of randomness.
            per_s: actions a second on average, at a rate of 1.
            rate: divides all pauses.
        """
        self._random = rng
        self._gap_ns = _GAP_NS / rate
        self._pause_ns = _pause_s(per_s) * NS_PER_S / rate
        self._left_in_burst = 0

    def wait_ns(self) -> int:
        """Draw the next pause: short within a burst, long between bursts.

        Returns:
            Whole microseconds, as on the wire, in ns; at least one, so that time advances.
        """
        rng = self._random
        if self._left_in_burst:
            self._left_in_burst -= 1
            wait_ns = rng.expovariate(1 / self._gap_ns)
        else:
            wait_ns = rng.expovariate(1 / self._pause_ns)
            mean = _LARGE_BURST if rng.random() < _LARGE_BURST_SHARE else _SMALL_BURST
            self._left_in_burst = int(rng.expovariate(1 / mean))
        return 1000 * (1 + int(wait_ns) // 1000)


def _pause_s(actions_per_s: float) -> float:
    """Return the mean pause between bursts that gives ``actions_per_s`` on average."""
    small = 1 + _mean_of_whole(_SMALL_BURST)
    large = 1 + _mean_of_whole(_LARGE_BURST)
    burst = (1 - _LARGE_BURST_SHARE) * small + _LARGE_BURST_SHARE * large
    return max(burst / actions_per_s - (burst - 1) * _GAP_NS / NS_PER_S, 1e-6)


def _mean_of_whole(mean: float) -> float:
    """Return the approximate mean of ``int(expovariate(1 / mean))``: 0.5 below ``mean``."""
    return mean - 0.5
