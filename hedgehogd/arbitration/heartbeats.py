"""Check the numbers that heartbeats state against the messages that have arrived.

A heartbeat states the newest trade id and the newest sequence of its product. The messages with
these numbers may still be on their way. So the numbers are checked when the next heartbeat of the
primary arrives: trade ids of ``matches`` and sequences of ``full``; ``level3`` is not checked.
Numbers still missing then are reported as a gap. A number is not checked when the next heartbeat
states a lower one. A heartbeat that arrives less than ``patience_s`` after the last one that
counted does not count as the next one.

A heartbeat may state a sequence of ``full`` that has not arrived. Clients would take it for a gap
and load their book again (COINBASE §6.1, §15). So it is kept, and delivered when that sequence is
delivered or reported missing: at the latest before the next heartbeat. It is dropped when the next
heartbeat states a lower sequence, when another such heartbeat arrives within ``patience_s``, or
when the primary is lost.

A heartbeat that states a number below the highest number confirms a reset, if messages of its line
have had such lower numbers for long enough (``sequences``).
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
        report_gap: called to report a gap and count it.
        report_verdict: called with a verdict about the numbers of one channel, to report it.
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
        """Check the numbers of the last heartbeat, then deliver or keep this one; see the module.

        It is kept while the sequence of ``full`` that it states has not arrived, if its connection
        holds ``full`` and the sequence is plausible. Before that, resets that it confirms are
        reported. If it counts as the next heartbeat, gaps are reported then too, and the heartbeat
        kept before is delivered or dropped.
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
            state.early = arrival  # it replaces one kept less than ``patience_s`` ago
        else:
            received.messages.append(arrival.message)

    def release(self, state: ProductState, received: Received) -> None:
        """Deliver the kept heartbeat, if any, if its sequence was delivered or reported missing."""
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
        """Report the numbers above the highest one of the channel, up to ``stated``, as a gap.

        ``stated`` is the highest number then. Do nothing if the channel has no numbers yet, or if
        ``stated`` is not above the highest one or implausibly far above it.
        """
        numbers = state.numbers.get(channel)
        gap = None if numbers is None else numbers.gap_before(stated + 1)
        if numbers is not None and gap is not None:
            numbers.skip_to(stated)
            self._report_gap(state, channel, gap, received)
