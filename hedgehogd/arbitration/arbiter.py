"""Decide, product by product, which message of which connection is delivered.

A product may arrive on several connections at once: on two lines, or on an old and a new
connection of one line while the product moves (``placement``). Each channel has its own rule:

* ``matches`` by trade id, ``full`` and ``level3`` by sequence: the next number is delivered,
  whichever connection brings it. A message that reveals a gap is queued while another connection
  may still fill the gap, and so is every later message of the product, heartbeats included.
  After ``gap_patience_s`` the gap is declared.
* ``ticker``: a number above the highest one delivered is delivered.
* Every other channel is state. It follows one connection, the product's primary, and moves when
  the primary is lost or silent (``primary``). A book moves with a new snapshot.

States of one product. With one connection a product is always in order.

    state     event                                         next      subscribers receive
    --------  --------------------------------------------  --------  --------------------------
    in order  the next number, or state from the primary    in order  the message
    in order  a number at or below the highest, or state    in order  nothing (``dropped``)
              from another connection
    in order  a number that reveals a gap that no other     in order  ``gap``, then the message
              connection can fill
    in order  a number that reveals a gap that another      gap open  nothing: it is queued
              connection may fill
    gap open  a missing number, but not the last one        gap open  the message
    gap open  the last missing number                       replay    the message
    gap open  any other message of the product              gap open  nothing: it is queued
    gap open  ``gap_patience_s`` is over, the queue is      replay    ``gap``
              full, or one connection is left
    replay    a queued message is in order                  replay    the message
    replay    a queued message reveals the next gap         gap open  nothing: the rest is queued
    replay    the queue is empty                            in order  nothing

When the channel of an open gap is no longer held, its queue is replayed without a ``gap`` notice,
at the latest when the gap would have been declared.
Replay is over before ``arbitrate``, ``expire`` or ``lost`` returns. A missing number also
releases the messages that its own connection brought before it: they precede the gap.

Sans-I/O: time is an argument.
"""

from collections import Counter, deque
from collections.abc import Iterable

from hedgehogd.arbitration.batch import NoticeKind, Received, TopicNotice
from hedgehogd.arbitration.connection_state import Source
from hedgehogd.arbitration.heartbeats import Heartbeats
from hedgehogd.arbitration.line_statistics import Race
from hedgehogd.arbitration.primary import PrimaryRules
from hedgehogd.arbitration.product_state import Arrival, ProductState
from hedgehogd.arbitration.sequences import Verdict
from hedgehogd.domain.channel import (
    FULL,
    LEVEL3,
    MATCHES,
    TICKER,
    Topic,
)
from hedgehogd.domain.gap import Gap
from hedgehogd.domain.limits import (
    GAP_PATIENCE_S,
    WAITING_MESSAGES_MAX,
)
from hedgehogd.domain.message import intern_topic
from hedgehogd.protocol import notices

_MATCHES, _FULL, _LEVEL3, _TICKER = (
    channel.topic_channel for channel in (MATCHES, FULL, LEVEL3, TICKER)
)
_BY_SEQUENCE = frozenset({_FULL, _LEVEL3})
_NUMBERED = _BY_SEQUENCE | {_MATCHES, _TICKER}
_TRADES = (_MATCHES, _FULL)


class Arbiter:
    """Decides which messages are delivered, for all products of one feed: see the module.

    Attributes:
        dropped: messages not delivered, by reason: ``repeat`` (a number delivered already),
            ``spare`` (state from a connection that is not the primary), ``no_snapshot``
            (updates of a book without a snapshot). The caller may count further reasons in it.
        gaps: number of ``gap`` notices, those for numbers that the exchange restarted and those
            of a relay included.
        missing: number of missing messages in gaps, by channel.
        race: which line delivers first, and by how much.
    """

    def __init__(
        self, gap_patience_s: float = GAP_PATIENCE_S, dropped: Counter[str] | None = None
    ) -> None:
        self.dropped: Counter[str] = Counter() if dropped is None else dropped
        self.gaps = 0
        self.missing: Counter[str] = Counter()
        self.race = Race()
        self._primary = PrimaryRules(self.dropped)
        self._heartbeats = Heartbeats(self._report_gap, self._report_verdict, gap_patience_s)
        self._patience_s = gap_patience_s
        self._sources: dict[Source, None] = {}
        self._with_gap: dict[str, ProductState] = {}  # products with an open gap
        self._is_racing = False  # two lines deliver the same messages

    @property
    def told_stale(self) -> bool:
        """True while a relay at the other end of a live connection reports its feed as stale."""
        return any(source.told_stale for source in self._sources)

    def connected(self, source: Source) -> None:
        """Add ``source``: it may deliver from now on."""
        self._sources[source] = None
        self._is_racing = self._has_two_lines()

    def lost(
        self, source: Source, states: Iterable[ProductState], now: float, received: Received
    ) -> None:
        """Remove ``source``, which has ended.

        Products that it was the primary of get another primary, or none. When fewer than two
        connections remain, all open gaps are declared: no connection can fill them.

        Args:
            source: the connection.
            states: the states of the products received on it.
            now: the caller's clock, seconds.
            received: gets the released messages, the notices and the requests for snapshots.
        """
        source.is_lost = True
        self._sources.pop(source, None)
        self._is_racing = self._has_two_lines()
        if len(self._sources) < 2:  # the connection that revealed a gap cannot fill it
            for state in list(self._with_gap.values()):
                self._declare_when_due(state, now, received)
        for state in states:
            if state.leader is source:
                self._primary.follow_another(state, self._sources, received)

    def arbitrate(
        self, state: ProductState, arrival: Arrival, now: float, received: Received
    ) -> None:
        """Deliver, drop or queue one message; it may release queued ones.

        Args:
            state: the state of the message's product.
            arrival: the message.
            now: the caller's clock, seconds.
            received: gets the delivered messages, in order, and the notices.
        """
        if state.queued:
            self._arrive_after_gap(state, arrival, now, received)
        else:
            self._judge(state, arrival, now, received)

    def next_expiry(self) -> float | None:
        """Return when the next open gap is due, on the caller's clock; None without one."""
        return min((state.declare_at for state in self._with_gap.values()), default=None)

    def expire(self, now: float, received: Received) -> None:
        """Declare the gaps due at ``now``; notices and released messages go to ``received``."""
        for state in [s for s in self._with_gap.values() if s.declare_at <= now]:
            self._declare(state, now, received)

    def forget(self, state: ProductState) -> None:
        """Forget a product that no connection holds, and drop its queued messages.

        The caller has removed ``state`` from its own table.
        """
        state.queued.clear()
        self._with_gap.pop(state.product_id, None)
        for source in self._sources:
            source.products.discard(state.product_id)
        self.race.forget(state.product_id)

    def _has_two_lines(self) -> bool:
        return len({source.line for source in self._sources}) > 1

    def _judge(self, state: ProductState, arrival: Arrival, now: float, received: Received) -> None:
        """Apply the rule of the channel: deliver, drop, or queue a message that reveals a gap.

        A gap that is open already does not delay it.
        """
        head, topic = arrival.head, arrival.message.topic
        channel = topic.channel
        if channel not in _NUMBERED:
            self._follow(state, arrival, now, received)
        elif (number := _number_of(arrival)) is not None:
            self._judge_number(state, arrival, number, now, received)
        elif channel == _TICKER and head.sequence is not None:
            numbers = state.numbers_of(_TICKER)
            verdict = numbers.observe(
                head.sequence, now, arrival.source.line, arrival.message.payload
            )
            self._report_verdict(state, _TICKER, verdict, received)
            if verdict.deliver:
                received.messages.append(arrival.message)
                return
            self.dropped["repeat"] += 1
            if head.sequence == numbers.highest and not self._is_racing:
                # A new connection begins with the newest ticker: no ticker came after it.
                received.tell(TopicNotice(topic, b"", NoticeKind.WHOLE))
        else:
            self._follow(state, arrival, now, received)

    def _follow(
        self, state: ProductState, arrival: Arrival, now: float, received: Received
    ) -> None:
        """Deliver a message that has no number to be judged by, if ``primary`` allows it.

        ``heartbeats`` may keep a heartbeat back.
        """
        if not self._primary.delivers(state, arrival, now, received):
            return
        if arrival.head.type == "heartbeat":
            self._heartbeats.receive(state, arrival, now, received)
        else:
            received.messages.append(arrival.message)

    def _judge_number(
        self,
        state: ProductState,
        arrival: Arrival,
        number: int,
        now: float,
        received: Received,
    ) -> None:
        channel = arrival.message.topic.channel
        numbers = state.numbers_of(channel)
        if len(self._sources) > 1:
            gap = self._gap_before(state, arrival)
            if gap is not None and self._may_be_filled(state, gap[0], arrival, now):
                self._open_gap(state, gap, arrival)
                return
            if self._is_racing:
                self.race.observe(
                    state.product_id, channel, number, arrival.source.line, arrival.at
                )
        is_newest = arrival.head.type == "last_match"
        verdict = numbers.observe(
            number, now, arrival.source.line, arrival.message.payload, is_newest=is_newest
        )
        self._report_verdict(state, channel, verdict, received)
        if not verdict.deliver:
            self.dropped["repeat"] += 1
            return
        message = arrival.message
        state.number_at = now
        if channel == _FULL:
            message.also = self._trade_of_full(state, arrival, now, received)
        received.messages.append(message)
        if state.early is not None:
            self._heartbeats.release(state, received)

    def _trade_of_full(
        self, state: ProductState, arrival: Arrival, now: float, received: Received
    ) -> Topic | None:
        """Return the ``matches`` topic if a message of ``full`` is a trade new there, else None.

        Its trade id then counts as delivered; a gap before it is reported.
        """
        topic, trade_id = intern_topic(_MATCHES, state.product_id), arrival.head.trade_id
        if trade_id is None:
            return None
        verdict = state.numbers_of(_MATCHES).observe(
            trade_id, now, arrival.source.line, arrival.message.payload
        )
        self._report_verdict(state, _MATCHES, verdict, received)
        return topic if verdict.deliver else None

    def _gap_before(self, state: ProductState, arrival: Arrival) -> tuple[str, Gap] | None:
        """Return the channel and the gap that a message would reveal; None for no gap.

        A trade of ``full`` may reveal a gap of ``matches``.
        """
        channel, number = arrival.message.topic.channel, _number_of(arrival)
        if number is None:
            return None
        gap = state.numbers_of(channel).gap_before(number)
        if gap is not None:
            return channel, gap
        trade_id = arrival.head.trade_id
        if channel == _FULL and trade_id is not None:
            gap = state.numbers_of(_MATCHES).gap_before(trade_id)
            if gap is not None:
                return _MATCHES, gap
        return None

    def _may_be_filled(
        self, state: ProductState, channel: str, arrival: Arrival, now: float
    ) -> bool:
        """Say whether another connection may still fill a gap in ``channel``.

        Not when the message has been queued for ``gap_patience_s`` after earlier gaps. Not when a
        gap is open, and the message is one of the missing ones: then both connections have passed
        the numbers before it.
        """
        if state.open_gap is not None or now >= arrival.at + self._patience_s:
            return False
        carriers = _TRADES if channel == _MATCHES else (channel,)
        return any(
            source is not arrival.source and source.holds_any(carriers, state.product_id)
            for source in self._sources
        )

    def _open_gap(self, state: ProductState, gap: tuple[str, Gap], arrival: Arrival) -> None:
        state.declare_at = arrival.at + self._patience_s
        state.open_gap = gap
        state.queued.append(arrival)
        self._with_gap[state.product_id] = state

    def _arrive_after_gap(
        self, state: ProductState, arrival: Arrival, now: float, received: Received
    ) -> None:
        """Queue or deliver a message of a product with an open gap.

        The queue is replayed when the message fills the gap, or when the gap is declared: it is
        due, or the queue is full.
        """
        if self._queue_or_fill(state, arrival, now, received):
            self._replay_queue(state, now, received)
        elif len(state.queued) > WAITING_MESSAGES_MAX:
            self._declare(state, now, received)
        else:
            self._declare_when_due(state, now, received)

    def _queue_or_fill(
        self, state: ProductState, arrival: Arrival, now: float, received: Received
    ) -> bool:
        """Queue a message, or judge a missing one; return True if the gap is then over.

        It is over with its last number; numbers skipped before that are reported as a gap of their
        own. The queued messages that its connection brought before a missing one are judged first.
        """
        gap = state.open_gap
        if gap is None or not self._is_missing(gap, arrival):
            state.queued.append(arrival)
            # During a replay the queue may hold messages that arrived before those ahead of them.
            state.declare_at = min(state.declare_at, arrival.at + self._patience_s)
            return False
        self._release_earlier(state, arrival, now, received)
        self._judge(state, arrival, now, received)
        is_filled = state.numbers_of(gap[0]).highest == gap[1].last
        if is_filled:
            self.race.saved[arrival.source.line] += 1
        return is_filled

    def _declare_when_due(self, state: ProductState, now: float, received: Received) -> None:
        """Declare the open gap, if any, when it is due or fewer than two connections exist."""
        if state.queued and (now >= state.declare_at or len(self._sources) < 2):
            self._declare(state, now, received)

    def _release_earlier(
        self, state: ProductState, arrival: Arrival, now: float, received: Received
    ) -> None:
        """Judge the queued messages that the connection of a missing message brought before it.

        None is judged if that connection has revealed the gap.
        """
        source, queued = arrival.source, state.queued
        if queued[0].source is source:  # this connection has revealed the gap
            return
        earlier = [each for each in queued if each.source is source]
        if earlier:
            state.queued = deque(each for each in queued if each.source is not source)
            for each in earlier:
                self._judge(state, each, now, received)

    def _is_missing(self, channel_gap: tuple[str, Gap], arrival: Arrival) -> bool:
        """Say whether a message is one of those missing in a gap."""
        channel, gap = channel_gap
        came_on = arrival.message.topic.channel
        if channel == _MATCHES and came_on in _TRADES:
            number = arrival.head.trade_id
        else:
            number = _number_of(arrival) if came_on == channel else None
        return number is not None and gap.first <= number <= gap.last

    def _declare(self, state: ProductState, now: float, received: Received) -> None:
        """Report the part of the open gap that is still missing; judge the messages after it."""
        open_gap = state.open_gap
        if open_gap is not None:
            channel, gap = open_gap
            numbers = state.numbers_of(channel)
            first = gap.first if numbers.highest is None else numbers.highest + 1
            if first <= gap.last:  # else the upstream relay has reported it
                numbers.skip_to(gap.last)
                self._report_gap(state, channel, Gap(first, gap.last), received)
        self._replay_queue(state, now, received)

    def _replay_queue(self, state: ProductState, now: float, received: Received) -> None:
        """Close the open gap and judge the messages queued after it; one may open the next gap.

        Two lines are not in step: the messages missing before a queued message may be queued after
        it. So a gap is not declared while the queue has a message that is missing in it.
        """
        queued = self._close_gap(state)
        while queued:
            arrival = queued.popleft()
            if state.queued:
                if self._queue_or_fill(state, arrival, now, received):
                    queued.extendleft(reversed(self._close_gap(state)))
                continue
            gap = self._gap_before(state, arrival)
            if gap is not None and any(self._is_missing(gap, each) for each in queued):
                self._open_gap(state, gap, arrival)
            else:
                self._judge(state, arrival, now, received)
        self._declare_when_due(state, now, received)

    def _close_gap(self, state: ProductState) -> deque[Arrival]:
        """Close the open gap of a product and return the messages that were queued after it."""
        queued, state.queued, state.open_gap = state.queued, deque(), None
        self._with_gap.pop(state.product_id, None)
        return queued

    def _report_gap(self, state: ProductState, channel: str, gap: Gap, received: Received) -> None:
        topic = intern_topic(channel, state.product_id)
        self.gaps += 1
        self.missing[topic.channel] += gap.last - gap.first + 1
        received.tell(TopicNotice(topic, notices.gap(topic, gap), NoticeKind.GAP))
        # Updates of the book have no numbers: some may be missing too. When no numbered message was
        # delivered since the primary became primary, its snapshot is newer than the gap.
        if state.number_at >= state.led_since:
            received.resync_books(state.product_id)
        if topic.channel == _MATCHES:
            received.missing_trades.append((topic.product_id, gap))

    def _report_verdict(
        self, state: ProductState, channel: str, verdict: Verdict, received: Received
    ) -> None:
        """Report the gap, the unexpected number and the restart of a verdict, if it has them.

        A restart has a ``gap`` notice of its own only when the verdict has no gap.
        """
        if verdict.oddity:
            topic = intern_topic(channel, state.product_id)
            received.oddities.append(f"{topic} {verdict.oddity}")
        if verdict.gap is not None:
            self._report_gap(state, channel, verdict.gap, received)
        elif verdict.restart is not None:
            self.gaps += 1
            topic = intern_topic(channel, state.product_id)
            notice = notices.restarted(topic, verdict.restart)
            received.tell(TopicNotice(topic, notice, NoticeKind.GAP))


def _number_of(arrival: Arrival) -> int | None:
    """Return the number by which gaps of the message's channel are found, or None.

    It is the trade id in ``matches`` and the sequence in ``full`` and ``level3``.
    """
    channel = arrival.message.topic.channel
    if channel == _MATCHES:
        return arrival.head.trade_id
    return arrival.head.sequence if channel in _BY_SEQUENCE else None
