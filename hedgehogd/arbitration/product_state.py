"""What is known of one product across all connections: for ``arbiter``, which has the rules."""

import math
from collections import deque

import msgspec

from hedgehogd.arbitration.connection_state import Source
from hedgehogd.arbitration.sequences import Numbers
from hedgehogd.domain.channel import MATCHES, TICKER
from hedgehogd.domain.gap import Gap
from hedgehogd.domain.limits import SEQUENCE_STEP_MAX, TRADE_ID_STEP_MAX
from hedgehogd.domain.message import Head, Message


class Arrival(msgspec.Struct, gc=False):
    """One message that has arrived and is not delivered yet.

    Attributes:
        source: the connection that brought it.
        head: what was read of it.
        message: what subscribers will get.
        at: when it arrived, on the caller's clock, seconds.
    """

    source: Source
    head: Head
    message: Message
    at: float


class ProductState:
    """One product: its numbers, its leader, what waits behind a hole.

    Attributes:
        heard_at: when anything of it came last, on the caller's clock, seconds.
        data_at: the same for anything but heartbeats; None before the first.
        has_heartbeat: a heartbeat of it has come.
        leader: the connection that its state follows.
        spare_since: when another line brought state of it, nothing from the leader since;
            None when the leader was last.
        led_since: when it began to.
        number_at: when a numbered message of it was delivered last.
        unknown_since: when the first update came without a snapshot; None for none.
        has_snapshot: the leader has sent the book's snapshot.
        waiting: what waits behind a hole, in order of arrival.
        waiting_until: when the hole becomes a gap.
        early: a heartbeat that waits for the event of ``full`` that it names.
        claimed_trade: the newest trade that a heartbeat has named; 0 for none.
        claimed_at: when it did.
    """

    __slots__ = (
        "claimed_at",
        "claimed_trade",
        "data_at",
        "early",
        "has_heartbeat",
        "has_snapshot",
        "heard_at",
        "hole",
        "leader",
        "led_since",
        "number_at",
        "numbers",
        "product_id",
        "spare_since",
        "unknown_since",
        "waiting",
        "waiting_until",
    )

    def __init__(self, product_id: str, now: float) -> None:
        self.product_id = product_id
        self.numbers: dict[str, Numbers] = {}
        self.leader: Source | None = None
        self.spare_since: float | None = None
        self.has_snapshot = False
        self.unknown_since: float | None = None
        self.led_since = now
        self.number_at = -float("inf")
        self.heard_at = now
        self.data_at: float | None = None
        self.has_heartbeat = False
        self.waiting: deque[Arrival] = deque()
        self.waiting_until = 0.0
        self.hole: tuple[str, Gap] | None = None
        self.early: Arrival | None = None
        self.claimed_trade = 0
        self.claimed_at = -math.inf

    def numbers_of(self, channel: str) -> Numbers:
        """Return what watches the numbers of one channel."""
        numbers = self.numbers.get(channel)
        if numbers is None:
            numbers = Numbers(
                TRADE_ID_STEP_MAX if channel == MATCHES.topic_channel else SEQUENCE_STEP_MAX,
                is_dense=channel != TICKER.topic_channel,
            )
            self.numbers[channel] = numbers
        return numbers

    def forget(self, channel: str) -> None:
        """One channel is no longer held: nothing waits for it, or of it."""
        self.numbers.pop(channel, None)
        if self.hole is not None and self.hole[0] == channel:
            self.hole = None
        if self.waiting:
            self.waiting = deque(a for a in self.waiting if a.message.topic.channel != channel)
