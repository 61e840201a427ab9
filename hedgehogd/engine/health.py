"""How the feed is: written by the feed, read by ``/readyz``, metrics and the status page."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple


class FeedState(StrEnum):
    """What the upstream line is doing."""

    IDLE = "idle"  # nothing is wanted, so nothing is connected
    CONNECTING = "connecting"
    LIVE = "live"
    STALE = "stale"  # lost, or silent; being dialled again
    ENDED = "recording ended"


class LineHealth(NamedTuple):
    """How one line of the feed is.

    Attributes:
        number: 0 or 1.
        connections: how many connections it should have.
        live: how many bring data.
        products: products that flow on them.
        connects: connections opened since start.
        losses: connections lost since start.
        last_loss: why the one that is down was lost; empty when none is.
        heard_age_s: since it was last heard, in seconds; None when it is not connected.
        wins: numbers that it brought before the other line.
        lead_s: by how much, in seconds, the median; None before the first.
        gaps_saved: holes of the other line that it filled.
    """

    number: int
    connections: int
    live: int
    products: int
    connects: int
    losses: int
    last_loss: str
    heard_age_s: float | None
    wins: int
    lead_s: float | None
    gaps_saved: int


class HistoryState(StrEnum):
    """What this instance does for history."""

    OFF = "off"
    READING = "reading"  # another instance writes
    WRITING = "writing"
    FAILED = "failed"  # nothing is kept by us; it is tried again


class HistoryHealth:
    """The state of history.

    Attributes:
        state: what this instance does for it.
        reason: why it failed, for people; empty otherwise.
        kept: messages written since start.
        overruns: times that more came than could be written, so that some was lost.
        written_us: up to when all is written by us, µs since the epoch; 0 before.
    """

    def __init__(self) -> None:
        self.state = HistoryState.OFF
        self.reason = ""
        self.kept = 0
        self.overruns = 0
        self.written_us = 0

    def become(self, state: HistoryState, reason: str = "") -> None:
        """Change the state."""
        self.state, self.reason = state, reason


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
        alarms: what the exchange has against what is held always, by product and channel, one
            of them empty; both for what concerns neither.
        gaps: holes found in numbers since start.
        missing: numbers in those holes, by channel.
        quiet_products: products whose heartbeats have stopped although their line is alive.
        read_lines: returns how each line is.
        read_products: returns for each product how long ago it was heard, and how long ago
            it had data other than heartbeats, in seconds.
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
        self.alarms: dict[tuple[str, str], str] = {}
        self.gaps = 0
        self.missing: Counter[str] = Counter()
        self.quiet_products = 0
        self.read_lines: Callable[[], Sequence[LineHealth]] = lambda: ()
        self.read_products: Callable[[], Mapping[str, tuple[float, float | None]]] = dict

    def become(self, state: FeedState, now: float, reason: str = "") -> None:
        """Change the state at ``now``; a change of reason alone keeps the time."""
        if state is not self.state:
            self.changed_at = now
        self.state = state
        self.reason = reason

    @property
    def alarm(self) -> str:
        """The newest of ``alarms``; empty when there is none."""
        return next(reversed(self.alarms.values()), "")

    @property
    def is_ready(self) -> bool:
        """True when a new subscriber would get what there is to get."""
        return self.state in {FeedState.IDLE, FeedState.LIVE, FeedState.ENDED}
