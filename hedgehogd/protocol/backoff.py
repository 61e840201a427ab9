"""Pauses before the next dial (``Backoff``), and a rate limit (``TokenBucket``).

Both are sans-I/O: randomness and time are arguments.
"""

from random import Random


class Backoff:
    """Pauses that double up to a maximum, each a random value in the upper half of its range.

    The first pause is from half of ``first_s`` to ``first_s``, the longest from half of ``max_s``
    to ``max_s``, in seconds.

    The randomness spreads the dials of instances that lost their feed at the same moment. The
    lower half is excluded so that no pause is close to zero (COINBASE §16.7).
    """

    def __init__(self, first_s: float, max_s: float, random: Random) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._random = random
        self._failures = 0

    def next_s(self) -> float:
        """Return the pause before the next try, in seconds; each call doubles the next one."""
        ceiling = min(self._max_s, self._first_s * 2 ** min(self._failures, 32))
        self._failures += 1
        return self._random.uniform(ceiling / 2, ceiling)

    def reset(self) -> None:
        """Restart with the first pause, after a good connection."""
        self._failures = 0


class TokenBucket:
    """At most ``burst`` actions at once and ``per_s`` a second in the long run.

    It begins with ``burst`` tokens. All calls use the time of one monotonic clock, in seconds.
    """

    def __init__(self, per_s: float, burst: int) -> None:
        self._whole = per_s, float(burst)
        self._per_s, self._burst = self._whole
        self._tokens = self._burst
        self._at: float | None = None

    def share(self, among: int) -> None:
        """Set rate and burst to one of ``among`` equal shares of the original values.

        The burst stays at least 1; tokens above it are lost.
        """
        per_s, burst = self._whole
        self._per_s, self._burst = per_s / among, max(1.0, burst / among)
        self._tokens = min(self._tokens, self._burst)

    def take(self, now: float, count: float = 1.0) -> float:
        """Consume ``count`` tokens in any case; the balance may become negative.

        Args:
            now: the time of a monotonic clock, in seconds.
            count: the number of tokens.

        Returns:
            The seconds that the caller must wait before its action; 0 if it may act at once.
        """
        self._fill(now)
        self._tokens -= count
        return max(0.0, -self._tokens / self._per_s)

    def give_back(self, count: float) -> None:
        """Add the ``count`` tokens that were consumed for an action that did not happen."""
        self._tokens = min(self._burst, self._tokens + count)

    def try_take(self, now: float, count: float = 1.0) -> bool:
        """Consume ``count`` tokens and return True; if fewer are left, consume none: False."""
        self._fill(now)
        if self._tokens < count:
            return False
        self._tokens -= count
        return True

    def is_full(self, now: float) -> bool:
        """Return True if at ``now`` all tokens of the burst are available."""
        self._fill(now)
        return self._tokens >= self._burst

    def _fill(self, now: float) -> None:
        if self._at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
