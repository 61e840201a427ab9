"""Compare the numbers that heartbeats state with the messages that have arrived.

A heartbeat states the newest trade id and the newest sequence of its product. The messages with
these numbers may still be on their way. So a stated number is checked only when the next heartbeat
arrives, a second later and in another read. Messages still missing then are a gap, although no
message has revealed it. When the next heartbeat states a lower number, there is no check.

A heartbeat that states a sequence of ``full`` that has not arrived is kept until that message is
delivered or reported missing: clients take a heartbeat ahead of the data for a gap and load their
book again (COINBASE §6.1, §15). A later heartbeat replaces a kept one.

A heartbeat that states a number below the highest number confirms that the exchange set its numbers
back, when a message has such a number too (``sequences``).
"""

from collections.abc import Callable

from hedgehogd.arbitration.batch import Received
from hedgehogd.arbitration.product_state import Arrival, ProductState
from hedgehogd.arbitration.sequences import Verdict
from hedgehogd.domain.channel import FULL, MATCHES
from hedgehogd.domain.gap import Gap

ReportGap = Callable[[ProductState, str, Gap, Received], None]
ReportVerdict = Callable[[ProductState, str, Verdict, Received], None]


class Heartbeats:
    """Checks the numbers that heartbeats state, for all products of one feed: see the module.

    Args:
        report_gap: reports a gap and counts it.
        report_verdict: reports a verdict about the numbers of one channel.
        patience_s: seconds that must pass before another heartbeat counts as the next one.
    """

    def __init__(
        self, report_gap: ReportGap, report_verdict: ReportVerdict, patience_s: float
    ) -> None:
        self._report_gap = report_gap
        self._report_verdict = report_verdict
        self._patience_s = patience_s

    def receive(
        self, state: ProductState, arrival: Arrival, now: float, received: Received
    ) -> None:
        """Deliver a heartbeat of the primary connection; keep it while ``full`` lags it.

        Without ``full`` on the connection it is delivered at once. Restarts that it confirms, and
        gaps up to the numbers that an earlier heartbeat stated, are reported before.
        """
        head = arrival.head
        for channel, numbers in state.numbers.items():
            newest = head.last_trade_id if channel == MATCHES.topic_channel else head.sequence
            if newest is not None:
                verdict = numbers.confirm(newest, now, arrival.source.line)
                self._report_verdict(state, channel, verdict, received)
        is_next = now >= state.stated_at + self._patience_s
        if is_next:
            # A lower number in the next heartbeat withdraws the stated number.
            if (head.last_trade_id or 0) >= state.stated_trade:
                self._check(state, MATCHES.topic_channel, state.stated_trade, received)
            state.stated_trade = head.last_trade_id or 0
            state.stated_at = now
        early = state.early
        if early is not None and is_next:
            stated = early.head.sequence or 0
            if (head.sequence or 0) >= stated:
                self._check(state, FULL.topic_channel, stated, received)
                self.release(state, received)
            else:
                state.early = None
        if self._is_early(state, arrival):
            state.early = arrival  # the later heartbeat replaces the earlier one
        else:
            received.messages.append(arrival.message)

    def release(self, state: ProductState, received: Received) -> None:
        """Deliver the kept heartbeat if its sequence was delivered or reported missing."""
        early = state.early
        if early is not None and not self._is_early(state, early):
            state.early = None
            received.messages.append(early.message)

    def _is_early(self, state: ProductState, arrival: Arrival) -> bool:
        numbers, sequence = state.numbers.get(FULL.topic_channel), arrival.head.sequence
        if numbers is None or sequence is None or numbers.gap_before(sequence + 1) is None:
            return False
        return arrival.source.holds_any((FULL.topic_channel,), state.product_id)

    def _check(self, state: ProductState, channel: str, stated: int, received: Received) -> None:
        """Report the numbers up to ``stated`` that have not arrived as a gap."""
        numbers = state.numbers.get(channel)
        gap = None if numbers is None else numbers.gap_before(stated + 1)
        if numbers is not None and gap is not None:
            numbers.skip_to(stated)
            self._report_gap(state, channel, gap, received)
