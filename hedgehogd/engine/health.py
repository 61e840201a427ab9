"""Health of feed and history, for ``/readyz``, metrics and the status page."""

from collections import Counter
from enum import StrEnum
from typing import NamedTuple, Protocol

import trio

from hedgehogd.arbitration.product_state import ProductState


class FeedState(StrEnum):
    """State of the upstream feed."""

    IDLE = "idle"  # no topic is wanted, so no connection is open
    CONNECTING = "connecting"
    LIVE = "live"
    STALE = "stale"  # a connection is lost or silent, or an upstream relay is stale
    ENDED = "recording ended"


class LineHealth(NamedTuple):
    """Health of one line of the feed.

    Attributes:
        number: 0 or 1.
        connections: how many connections it should have.
        live: how many connections deliver data.
        products: how many products they receive; one on several connections counts for each.
        connects: connections opened since start.
        losses: connections lost since start.
        last_loss: why the connection that is down was lost; empty when none is down.
        heard_age_s: seconds since one of its connections was opened or last received data; None
            when it is not connected.
        wins: numbers that it delivered before the other line.
        lead_s: median lead over the other line, in seconds; None before the first lead.
        gaps_saved: gaps that it filled: see ``Race.saved``.
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


class Line(Protocol):
    """One line of the feed, as ``FeedHealth`` uses it."""

    def health(self, now: float) -> LineHealth:
        """Return the state of the line at ``now`` (``trio.current_time``)."""


class HistoryState(StrEnum):
    """The part of this instance in recording history."""

    OFF = "off"
    READING = "reading"  # another instance writes
    WRITING = "writing"
    FAILED = "failed"  # this instance records nothing, and tries again


class HistoryHealth:
    """The state of history.

    Attributes:
        state: the part of this instance in it.
        reason: why it failed, for people; empty otherwise.
        kept: messages that this instance has archived durably since start.
        overruns: how often messages left the tape before they were appended to the log, or records
            the window before they were archived: history has a gap.
        written_us: receive time of the newest record of the log that is archived, µs since the
            epoch; 0 before the first. It rises with new records alone.
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
        state: the state of the feed.
        reason: why it is not live, for people; empty when it is.
        heard_at: when messages were last received from the feed, on the clock of
            ``trio.current_time``, seconds; None before the first.
        connects: connections opened since start.
        losses: connections lost since start, by reason.
        dropped: upstream messages dropped since start, by reason.
        complaints: number of ``error`` messages since start that were about neither a product nor a
            refused channel, or about our key.
        alarms: texts of errors of the exchange: about configured topics by product and channel, one
            of them empty; about neither with both empty.
        gaps: ``gap`` notices of the feed since start.
        missing: missing numbers in gaps since start, by channel.
        quiet_products: number of products without heartbeats on a live line.
        lines: the lines of the feed, which it adds when it is built.
        products: the state of each product on the feed, kept by the feed's session.
    """

    def __init__(self) -> None:
        self.state = FeedState.IDLE
        self.reason = ""
        self.heard_at: float | None = None
        self.connects = 0
        self.losses: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.complaints = 0
        self.alarms: dict[tuple[str, str], str] = {}
        self.gaps = 0
        self.missing: Counter[str] = Counter()
        self.quiet_products = 0
        self.lines: list[Line] = []
        self.products: dict[str, ProductState] = {}

    def become(self, state: FeedState, reason: str = "") -> None:
        """Change the state."""
        self.state, self.reason = state, reason

    def read_lines(self) -> list[LineHealth]:
        """Return the state of each line."""
        now = trio.current_time()
        return [line.health(now) for line in self.lines]

    def read_products(self) -> dict[str, tuple[float, float | None]]:
        """Return the ages of each product's last message and of its last data, in seconds.

        A heartbeat is a message and no data; the second age is None before the first data.
        """
        now = trio.current_time()
        return {
            product_id: (
                now - state.heard_at,
                None if state.data_at is None else now - state.data_at,
            )
            for product_id, state in self.products.items()
            if product_id
        }

    @property
    def alarm(self) -> str:
        """The text of ``alarms`` that was added last; empty when there is none."""
        return next(reversed(self.alarms.values()), "")

    @property
    def is_ready(self) -> bool:
        """True while idle, live, or after the end of a recording; then ``/readyz`` may be 200."""
        return self.state in {FeedState.IDLE, FeedState.LIVE, FeedState.ENDED}
