"""State of one product across all connections, changed by ``arbiter`` and its parts."""

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
    """One message on its way through arbitration, which delivers, queues or drops it.

    Attributes:
        source: the connection that it arrived on.
        head: its head.
        message: the message, as subscribers receive it.
        at: when it arrived, on the caller's clock, seconds.
    """

    source: Source
    head: Head
    message: Message
    at: float


class ProductState:
    """State of one product: last numbers, primary connection, messages queued after a gap.

    All times are on the caller's clock, in seconds.

    Attributes:
        product_id: the product; empty for messages without a product.
        heard_at: when the last message of the product arrived, delivered or not; before the first
            one, when this object was made.
        data_at: when the last message other than a heartbeat arrived; None before the first.
        has_heartbeat: a heartbeat of the product has arrived.
        numbers: the last numbers, by topic channel.
        leader: the primary: the connection that supplies the product's state; None for none.
        spare_since: when another line delivered state, and the primary none since; None when the
            last state came from the primary.
        led_since: when a connection last became the primary by its own message; at first, when this
            object was made.
        number_at: when a message of ``matches``, ``full`` or ``level3`` was last delivered; minus
            infinity before the first.
        unknown_since: when an update arrived before the snapshot, or a snapshot was last requested
            for that; None for neither.
        has_snapshot: the primary has sent the book's snapshot.
        open_gap: the channel and the gap that another connection may still fill; None for none.
        queued: messages queued after the open gap, in order of arrival.
        declare_at: when the open gap is due; without meaning if no message is queued.
        early: a heartbeat kept until the sequence of ``full`` that it states arrives.
        stated_trade: the trade id that the last heartbeat states, not yet checked; 0 for none.
        stated_at: when that heartbeat arrived; minus infinity before the first.
    """

    __slots__ = (
        "data_at",
        "declare_at",
        "early",
        "has_heartbeat",
        "has_snapshot",
        "heard_at",
        "leader",
        "led_since",
        "number_at",
        "numbers",
        "open_gap",
        "product_id",
        "queued",
        "spare_since",
        "stated_at",
        "stated_trade",
        "unknown_since",
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
        self.queued: deque[Arrival] = deque()
        self.declare_at = 0.0
        self.open_gap: tuple[str, Gap] | None = None
        self.early: Arrival | None = None
        self.stated_trade = 0
        self.stated_at = -math.inf

    def numbers_of(self, channel: str) -> Numbers:
        """Return the numbers of one channel, which the first call creates."""
        numbers = self.numbers.get(channel)
        if numbers is None:
            numbers = Numbers(
                TRADE_ID_STEP_MAX if channel == MATCHES.topic_channel else SEQUENCE_STEP_MAX,
                is_dense=channel != TICKER.topic_channel,
            )
            self.numbers[channel] = numbers
        return numbers

    def forget(self, channel: str) -> None:
        """Forget one channel that is no longer held, with its open gap and its queued messages.

        Queued messages of other channels stay queued, until ``declare_at`` at the latest.
        """
        self.numbers.pop(channel, None)
        if self.open_gap is not None and self.open_gap[0] == channel:
            self.open_gap = None
        if self.queued:
            self.queued = deque(a for a in self.queued if a.message.topic.channel != channel)
