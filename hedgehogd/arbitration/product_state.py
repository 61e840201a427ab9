"""State of one product across all connections; ``session`` and ``arbiter`` change it."""

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
    """One message on its way through arbitration, which delivers, queues, keeps or drops it.

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
    """State of one product: its numbers, primary connection, and messages queued after a gap.

    All times are on the caller's clock, in seconds. Messages of topics that are not held change
    nothing here.

    Attributes:
        product_id: the product; empty for messages without a product, and for ``rfq_matches`` held
            for all products only.
        heard_at: when the last message of the product arrived, delivered or not, or when an
            upstream relay last reported its feed live again; before that, when this object was
            made.
        data_at: when the last message other than a heartbeat arrived; None before the first.
        has_heartbeat: a heartbeat of the product has arrived.
        numbers: the ``Numbers`` of each channel that is judged by number, by topic channel.
        leader: the primary: the connection that supplies the product's state; None for none.
        spare_since: when another line first brought state after the last state from the primary;
            None if it has brought none since.
        led_since: when a connection last became the primary by its own message; at first, when this
            object was made.
        number_at: when a message was last delivered by its number in ``matches``, ``full`` or
            ``level3``; minus infinity before the first.
        unknown_since: when the first update of a book without its snapshot arrived, or when the
            snapshot was last requested because updates arrived without it; None after a snapshot,
            and at first.
        has_snapshot: a snapshot of the book has arrived from the primary since it became primary.
        open_gap: the channel and the gap that another connection may still fill; None for none, and
            while messages are still queued after its channel was forgotten.
        queued: messages queued after the open gap, in order of arrival.
        declare_at: when the open gap is due; if its channel was forgotten, when the queued messages
            are judged. Without meaning otherwise.
        early: the arrival of a heartbeat kept because the sequence of ``full`` that it states has
            neither arrived nor been reported missing; None for none.
        stated_trade: the trade id of the primary's last heartbeat that counted (``heartbeats``), to
            be checked by the next one; 0 for none.
        stated_at: when that heartbeat was judged; minus infinity before the first.
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
        """Return the numbers of one channel; create them if there are none."""
        numbers = self.numbers.get(channel)
        if numbers is None:
            numbers = Numbers(
                TRADE_ID_STEP_MAX if channel == MATCHES.topic_channel else SEQUENCE_STEP_MAX,
                is_dense=channel != TICKER.topic_channel,
            )
            self.numbers[channel] = numbers
        return numbers

    def forget(self, channel: str) -> None:
        """Forget one channel that is no longer held: its numbers, open gap and queued messages.

        Queued messages of other channels stay queued; they are judged at ``declare_at`` at the
        latest.
        """
        self.numbers.pop(channel, None)
        if self.open_gap is not None and self.open_gap[0] == channel:
            self.open_gap = None
        if self.queued:
            self.queued = deque(a for a in self.queued if a.message.topic.channel != channel)
