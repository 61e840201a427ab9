"""One daemon process: the parts that floors above share, and what they count."""

from collections import Counter
from dataclasses import dataclass, field

from hedgehogd.engine.broker import Broker
from hedgehogd.engine.health import FeedHealth
from hedgehogd.engine.session import Pipe, Sessions


@dataclass
class StreamCounts:
    """What happened to streams since start; every bad input and every drop is in here.

    Attributes:
        refusals: requests, frames and commands refused, by reason.
        ends: streams that ended, by reason.
        drops: messages that a subscriber did not get, by reason; it was told or closed.
        accept_pauses: how often accepting paused because file descriptors ran out.
        visitors: connections open now that are not streams.
    """

    refusals: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    drops: Counter[str] = field(default_factory=Counter)
    accept_pauses: int = 0
    visitors: int = 0


@dataclass
class Instance:
    """One daemon process.

    Attributes:
        number: the instance's number; session ids start with it.
        pipe: tape, hub, demand and what belongs to them.
        sessions: the open streams.
        broker: the task that publishes.
        health: how the feed is.
        counts: what happened to streams.
        is_draining: going down: not ready, takes no new streams.
    """

    number: int
    pipe: Pipe
    sessions: Sessions
    broker: Broker
    health: FeedHealth
    counts: StreamCounts = field(default_factory=StreamCounts)
    is_draining: bool = False

    def readiness(self) -> tuple[bool, str]:
        """Return whether a balancer should send subscribers here, and why (not)."""
        if self.is_draining:
            return False, "draining"
        health = self.health
        return (
            health.is_ready,
            f"{health.state}: {health.reason}" if health.reason else health.state,
        )
