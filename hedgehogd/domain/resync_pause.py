"""The pause between requests of new snapshots for faults that may not be repaired by them."""

import math

from hedgehogd.domain.limits import RESYNC_AGAIN_S, RESYNC_REPAIRED_S


class ResyncPause:
    """The pause after each request of a new snapshot, which every subscriber receives.

    The first one is ``RESYNC_REPAIRED_S``, each further one twice the one before it, up to
    ``RESYNC_AGAIN_S``. A repair calls for a new object.

    Times are on any clock that rises steadily, in seconds.

    Attributes:
        ends_at: when a snapshot may be requested again; minus infinity before the first request.
    """

    __slots__ = ("_pause_s", "ends_at")

    def __init__(self) -> None:
        self.ends_at = -math.inf
        self._pause_s = RESYNC_REPAIRED_S

    def begin(self, now: float) -> None:
        """Begin the pause after a request that is made now."""
        self.ends_at = now + self._pause_s
        self._pause_s = min(self._pause_s * 2, RESYNC_AGAIN_S)

    def is_over(self, now: float) -> bool:
        """Return True if a snapshot may be requested now."""
        return now >= self.ends_at
