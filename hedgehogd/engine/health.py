"""How the feed is: written by the feed, read by ``/readyz``, metrics and the status page."""

from collections import Counter
from enum import StrEnum


class FeedState(StrEnum):
    """What the upstream line is doing."""

    IDLE = "idle"  # nothing is wanted, so nothing is connected
    CONNECTING = "connecting"
    LIVE = "live"
    STALE = "stale"  # lost, or silent; being dialled again
    ENDED = "recording ended"


class FeedHealth:
    """The state of the feed.

    Attributes:
        state: what the line is doing.
        reason: why it is not live, for people; empty when it is.
        changed_at: when ``state`` changed, on the clock of ``trio.current_time``, seconds.
        heard_at: when the last byte came, on the same clock; None before the first.
        connects: connections opened since start.
        losses: connections lost since start, by reason.
        dropped: upstream messages dropped since start, by reason.
        complaints: ``error`` messages of the exchange that concerned no single product.
        gaps: holes found in trade ids since start.
        trades_missing: trades in those holes.
    """

    def __init__(self) -> None:
        self.state = FeedState.IDLE
        self.reason = ""
        self.changed_at = 0.0
        self.heard_at: float | None = None
        self.connects = 0
        self.losses: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.complaints = 0
        self.gaps = 0
        self.trades_missing = 0

    def become(self, state: FeedState, now: float, reason: str = "") -> None:
        """Change the state at ``now``; a change of reason alone keeps the time."""
        if state is not self.state:
            self.changed_at = now
        self.state = state
        self.reason = reason

    @property
    def is_ready(self) -> bool:
        """True when a new subscriber would get what there is to get."""
        return self.state in {FeedState.IDLE, FeedState.LIVE, FeedState.ENDED}
