"""How long to wait before dialling again, and how often one may speak.

Both are sans-I/O: chance and time are arguments.
"""

from random import Random


class Backoff:
    """Pauses that double up to a cap, each drawn from the upper half of its range.

    Jitter keeps a fleet that lost its feed at one moment from dialling at one moment;
    the lower half is left out so that a pause is never next to nothing (PAIN §7).
    """

    def __init__(self, first_s: float, max_s: float, random: Random) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._random = random
        self._failures = 0

    def next_s(self) -> float:
        """Return the pause before the next try, in seconds."""
        ceiling = min(self._max_s, self._first_s * 2 ** min(self._failures, 32))
        self._failures += 1
        return self._random.uniform(ceiling / 2, ceiling)

    def reset(self) -> None:
        """Begin again with the first pause: a connection was good."""
        self._failures = 0


class TokenBucket:
    """At most ``burst`` actions at once and ``per_s`` a second in the long run."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._whole = per_s, float(burst)
        self._per_s, self._burst = self._whole
        self._tokens = self._burst
        self._at: float | None = None

    def share(self, among: int) -> None:
        """From now on ``among`` buckets together may do what this one was made for."""
        per_s, burst = self._whole
        self._per_s, self._burst = per_s / among, max(1.0, burst / among)
        self._tokens = min(self._tokens, self._burst)

    def take(self, now: float, count: float = 1.0) -> float:
        """Take ``count`` tokens, in debt if need be.

        Args:
            now: any clock that rises steadily, in seconds.
            count: how many.

        Returns:
            How long the caller has to wait before acting, in seconds; 0 for at once.
        """
        self._fill(now)
        self._tokens -= count
        return max(0.0, -self._tokens / self._per_s)

    def give_back(self, count: float) -> None:
        """Return ``count`` tokens that were taken for an action that is not done."""
        self._tokens = min(self._burst, self._tokens + count)

    def try_take(self, now: float, count: float = 1.0) -> bool:
        """Take ``count`` tokens if there are as many; say whether there were."""
        self._fill(now)
        if self._tokens < count:
            return False
        self._tokens -= count
        return True

    def is_full(self, now: float) -> bool:
        """Say whether at ``now`` it allows as much as a new bucket."""
        self._fill(now)
        return self._tokens >= self._burst

    def _fill(self, now: float) -> None:
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
