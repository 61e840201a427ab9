"""What heartbeats claim: the newest trade and the newest event of a product.

Both may be on their way still, so a claim is believed only when the next heartbeat comes,
a second later, and not in the same read. Then what is missing is a gap, although nothing
has come that would reveal it.

A heartbeat that names an event of ``full`` that has not come yet waits for it: clients take
one that runs ahead of the data for a loss and load their book again (FEED §6.1, §15).

A heartbeat that names a number below the mark confirms that the exchange set the numbers back,
when a message has such a number too (``sequences``).
"""

from collections.abc import Callable

from hedgehogd.arbitration.batch import Received
from hedgehogd.arbitration.product_state import Arrival, ProductState
from hedgehogd.arbitration.sequences import Verdict
from hedgehogd.domain.channel import FULL, MATCHES
from hedgehogd.domain.gap import Gap

TellGap = Callable[[ProductState, str, Gap, Received], None]
Report = Callable[[ProductState, str, Verdict, Received], None]


class Claims:
    """The rules above, for all products of one feed.

    Args:
        tell_gap: tells a gap, and counts it.
        report: reports a verdict about the numbers of one channel.
        patience_s: heartbeats closer to each other than this say nothing about each other.
    """

    def __init__(self, tell_gap: TellGap, report: Report, patience_s: float) -> None:
        self._tell_gap = tell_gap
        self._report = report
        self._patience_s = patience_s

    def heartbeat(
        self, state: ProductState, arrival: Arrival, now: float, received: Received
    ) -> None:
        """Deliver the heartbeat of a product's leader, or keep it until its event has come."""
        head = arrival.head
        for channel, numbers in state.numbers.items():
            newest = head.last_trade_id if channel == MATCHES.topic_channel else head.sequence
            if newest is not None:
                verdict = numbers.confirm(newest, now, arrival.source.line)
                self._report(state, channel, verdict, received)
        is_next = now >= state.claimed_at + self._patience_s
        if is_next:
            # A claim that the next heartbeat takes back was not true.
            if (head.last_trade_id or 0) >= state.claimed_trade:
                self._check(state, MATCHES.topic_channel, state.claimed_trade, received)
            state.claimed_trade = head.last_trade_id or 0
            state.claimed_at = now
        early = state.early
        if early is not None and is_next:
            claimed = early.head.sequence or 0
            if (head.sequence or 0) >= claimed:
                self._check(state, FULL.topic_channel, claimed, received)
                self.caught_up(state, received)
            else:
                state.early = None
        if self._is_early(state, arrival):
            state.early = arrival  # a later one replaces it
        else:
            received.messages.append(arrival.message)

    def caught_up(self, state: ProductState, received: Received) -> None:
        """An event of ``full`` was delivered, or told to be missing: let the heartbeat go."""
        early = state.early
        if early is not None and not self._is_early(state, early):
            state.early = None
            received.messages.append(early.message)

    def _is_early(self, state: ProductState, arrival: Arrival) -> bool:
        numbers, sequence = state.numbers.get(FULL.topic_channel), arrival.head.sequence
        if numbers is None or sequence is None or numbers.hole_before(sequence + 1) is None:
            return False
        return arrival.source.holds_any((FULL.topic_channel,), state.product_id)

    def _check(self, state: ProductState, channel: str, claimed: int, received: Received) -> None:
        """Tell a gap when what was claimed has not come."""
        numbers = state.numbers.get(channel)
        hole = None if numbers is None else numbers.hole_before(claimed + 1)
        if numbers is not None and hole is not None:
            numbers.skip_to(claimed)
            self._tell_gap(state, channel, hole, received)
