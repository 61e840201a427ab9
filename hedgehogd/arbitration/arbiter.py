"""Decide, product by product, which message of which connection is delivered.

A product may arrive on several connections at once: on two lines, or on an old and a new
connection of one line while the product moves (``placement``). A message is *judged* by the rule of
its channel:

* ``matches`` by trade id, ``full`` and ``level3`` by sequence: a number above the highest one is
  delivered, whichever connection brings it. The numbers that it leaves out are a gap.
* ``ticker`` by sequence: a number above the highest one is delivered, and there are no gaps.
* Every other channel is state, and so is a message without its number. In general, the state that
  the product's primary connection brings is delivered (``primary``). ``heartbeats`` may keep a
  heartbeat for a while.

A trade on ``full`` counts in ``matches`` too, by its trade id. Resets and implausible numbers are
exceptions to these rules (``sequences``).

A gap is *open* while another connection may still fill it: the message that revealed it is queued,
and so are the later messages of the product that are not missing in it, heartbeats included. The
gap is *declared* when it is due, ``gap_patience_s`` after the arrival of the message that revealed
it, or earlier if the queue is full or fewer than two connections are left. Then a ``gap`` notice
reports the numbers still missing. A product without an open gap is *in order*.

    state     event                                          subscribers receive          next
    --------  ---------------------------------------------  ---------------------------  --------
    in order  a number above the highest, without a gap, or  the message                  in order
              state from the primary
    in order  a number at or below the highest, or state     nothing                      in order
              from another connection
    in order  a gap that no other connection can fill        ``gap``, then the message    in order
    in order  a gap that another connection may fill         nothing: it is queued        gap open
    gap open  a missing number, but not the last one         the message                  gap open
    gap open  the last missing number                        the message, then the queue  in order
    gap open  any other message of the product               nothing: it is queued        gap open
    gap open  the gap is declared                            ``gap``, then the queue      in order

A missing number that leaves out other ones is delivered after a ``gap`` notice for these: its
connection and the one that revealed the gap have passed them. The queued messages that its
connection brought before it are judged first, unless this connection revealed the gap.

When a gap ends, the queued messages are judged in order of arrival, before ``arbitrate``,
``expire`` or ``lost`` returns. One of them may open the next gap.

When the channel of an open gap is no longer held, the queued messages of the channel are dropped.
The other ones are judged when the gap would have been declared, without a notice of this gap.

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
        dropped: counts of dropped messages, by reason: ``repeat`` (the number is not new),
            ``spare`` (state from a connection that is not the primary), ``no_snapshot`` (an update
            of a book before the snapshot). The caller may count further reasons in it. Not counted:
            heartbeats that were kept, and messages that were queued when their topic was forgotten.
        gaps: number of ``gap`` notices, those about resets and those of an upstream relay included.
        missing: numbers reported missing, counted by topic channel; a gap of unknown size adds 0.
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
        self._with_gap: dict[str, ProductState] = {}  # from ``_open_gap`` to ``_close_gap``, by id
        self._is_racing = False  # two lines have a connection

    @property
    def told_stale(self) -> bool:
        """True while a relay at the other end of a connection reports its whole feed as stale."""
        return any(source.told_stale for source in self._sources)

    def connected(self, source: Source) -> None:
        """Add ``source``, a connection that begins: from now on it may fill gaps."""
        self._sources[source] = None
        self._is_racing = self._has_two_lines()

    def lost(
        self, source: Source, states: Iterable[ProductState], now: float, received: Received
    ) -> None:
        """Remove ``source``, which has ended, and set its ``is_lost``.

        When fewer than two connections remain, all open gaps are declared: no other connection can
        fill them. Then each of ``states`` of which it was the primary gets another primary, or
        none (``primary``), and its kept heartbeat is dropped. Queued messages of ``source`` stay
        queued.

        Args:
            source: the connection.
            states: the states of the products received on it.
            now: the caller's clock, seconds.
            received: gets the messages of the queues, the notices and the requests for snapshots.
        """
        source.is_lost = True
        self._sources.pop(source, None)
        self._is_racing = self._has_two_lines()
        if len(self._sources) < 2:  # no other connection can fill a gap
            for state in list(self._with_gap.values()):
                self._declare_when_due(state, now, received)
        for state in states:
            if state.leader is source:
                self._primary.follow_another(state, self._sources, received)

    def arbitrate(
        self, state: ProductState, arrival: Arrival, now: float, received: Received
    ) -> None:
        """Deliver, drop or queue one message, or keep a heartbeat; see the module.

        Queued messages may be delivered or dropped with it: it may end the open gap of its product.

        Args:
            state: the state of the message's product.
            arrival: the message.
            now: the caller's clock, seconds.
            received: gets all results, the messages in the order of their delivery.
        """
        if state.queued:
            self._arrive_after_gap(state, arrival, now, received)
        else:
            self._judge(state, arrival, now, received)

    def next_expiry(self) -> float | None:
        """Return when ``expire`` is next needed, on the caller's clock; None while it is not."""
        return min((state.declare_at for state in self._with_gap.values()), default=None)

    def expire(self, now: float, received: Received) -> None:
        """Declare the gaps due at ``now`` and judge the messages queued after them.

        Messages whose gap was forgotten with its channel are judged when it would have been due.
        ``received`` gets all results.
        """
        for state in [s for s in self._with_gap.values() if s.declare_at <= now]:
            self._declare(state, now, received)

    def forget(self, state: ProductState) -> None:
        """Forget a product that the feed no longer holds, and drop its queued messages.

        It is removed from ``products`` of every connection, and its numbers from ``race``. The
        caller has removed ``state`` from its own table.
        """
        state.queued.clear()
        self._with_gap.pop(state.product_id, None)
        for source in self._sources:
            source.products.discard(state.product_id)
        self.race.forget(state.product_id)

    def _has_two_lines(self) -> bool:
        return len({source.line for source in self._sources}) > 1

    def _judge(self, state: ProductState, arrival: Arrival, now: float, received: Received) -> None:
        """Judge a message: deliver or drop it, keep a heartbeat, or open the gap that it reveals.

        While a gap is open already, no message that is judged opens another one.
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
                # A new connection begins with the newest ticker. It was delivered before: none was
                # missed meanwhile.
                received.tell(TopicNotice(topic, b"", NoticeKind.WHOLE))
        else:
            self._follow(state, arrival, now, received)

    def _follow(
        self, state: ProductState, arrival: Arrival, now: float, received: Received
    ) -> None:
        """Judge a message of state: deliver it if ``primary`` allows it, else drop it.

        A heartbeat that ``primary`` allows is delivered or kept by ``heartbeats``.
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
        """Return the ``matches`` topic if the message is a trade that is new in ``matches``.

        Return None for any other message of ``full``. A new trade id is recorded as delivered. A
        gap before it, a reset and an implausible number are reported in ``received``.
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

        The gap of the message's own channel comes first. Without one, a trade of ``full`` may
        reveal a gap of ``matches``.
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
        """Say whether another connection may fill the gap in ``channel`` that a message reveals.

        False if no other connection holds ``channel`` (or ``full``, if it is ``matches``). False
        too if the message arrived ``gap_patience_s`` ago or earlier: it has been queued for long
        enough. False too while a gap is open: a message that is judged then does not wait.
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
        """Queue a message of a product with queued messages, or judge it if it is a missing one.

        If the gap then has no missing numbers left, the queued messages are judged. Otherwise the
        gap is declared if it is due, more than ``WAITING_MESSAGES_MAX`` messages are queued, or
        fewer than two connections exist.
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
        """Judge a message that is missing in the open gap, and queue any other one.

        Before a missing message, the queued messages that its connection brought earlier may be
        judged: see ``_release_earlier``.

        Returns:
            True if the message was missing, and the last number of the gap is now the highest one
            of its channel. The caller then closes the gap; ``race.saved`` counts it for the line of
            the message.
        """
        gap = state.open_gap
        if gap is None or not self._is_missing(gap, arrival):
            state.queued.append(arrival)
            # The queue is in order of arrival, so ``declare_at`` is the earlier of the two.
            state.declare_at = min(state.declare_at, arrival.at + self._patience_s)
            return False
        self._release_earlier(state, arrival, now, received)
        self._judge(state, arrival, now, received)
        is_filled = state.numbers_of(gap[0]).highest == gap[1].last
        if is_filled:
            self.race.saved[arrival.source.line] += 1
        return is_filled

    def _declare_when_due(self, state: ProductState, now: float, received: Received) -> None:
        """Call ``_declare`` if the open gap is due, or if fewer than two connections exist.

        Without queued messages, do nothing.
        """
        if state.queued and (now >= state.declare_at or len(self._sources) < 2):
            self._declare(state, now, received)

    def _release_earlier(
        self, state: ProductState, arrival: Arrival, now: float, received: Received
    ) -> None:
        """Judge the queued messages that the connection of a missing message brought before it.

        They leave the queue. If this connection revealed the gap, by the first message of the
        queue, do nothing.
        """
        source, queued = arrival.source, state.queued
        if queued[0].source is source:  # this connection revealed the gap
            return
        earlier = [each for each in queued if each.source is source]
        if earlier:
            state.queued = deque(each for each in queued if each.source is not source)
            for each in earlier:
                self._judge(state, each, now, received)

    def _is_missing(self, channel_gap: tuple[str, Gap], arrival: Arrival) -> bool:
        """Say whether the number of a message lies in a gap, delivered meanwhile or not.

        For a gap of ``matches`` it is the trade id, of a message of ``full`` too.
        """
        channel, gap = channel_gap
        came_on = arrival.message.topic.channel
        if channel == _MATCHES and came_on in _TRADES:
            number = arrival.head.trade_id
        else:
            number = _number_of(arrival) if came_on == channel else None
        return number is not None and gap.first <= number <= gap.last

    def _declare(self, state: ProductState, now: float, received: Received) -> None:
        """Report the numbers of the open gap that are still missing, if any; then judge the queue.

        They are those above the highest number of the channel. Without an open gap, none is
        reported.
        """
        open_gap = state.open_gap
        if open_gap is not None:
            channel, gap = open_gap
            numbers = state.numbers_of(channel)
            first = gap.first if numbers.highest is None else numbers.highest + 1
            if first <= gap.last:  # else an upstream relay has reported them
                numbers.skip_to(gap.last)
                self._report_gap(state, channel, Gap(first, gap.last), received)
        self._replay_queue(state, now, received)

    def _replay_queue(self, state: ProductState, now: float, received: Received) -> None:
        """Close the open gap and judge the messages queued after it; one may open the next gap.

        Two lines are not in step: the messages missing before a queued message may be queued after
        it. So a gap is not declared while the queue has a message that is missing in it, even if
        it is due. At the end, a gap that is due is declared.
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
        """Close the open gap of a product; remove and return the messages queued after it."""
        queued, state.queued, state.open_gap = state.queued, deque(), None
        self._with_gap.pop(state.product_id, None)
        return queued

    def _report_gap(self, state: ProductState, channel: str, gap: Gap, received: Received) -> None:
        topic = intern_topic(channel, state.product_id)
        self.gaps += 1
        self.missing[topic.channel] += gap.last - gap.first + 1
        received.tell(TopicNotice(topic, notices.gap(topic, gap), NoticeKind.GAP))
        # Updates of the book have no numbers: some may be missing too. If no message with a number
        # was delivered since the primary's first message, its snapshot is newer than the gap.
        if state.number_at >= state.led_since:
            received.resync_books(state.product_id)
        if topic.channel == _MATCHES:
            received.missing_trades.append((topic.product_id, gap))

    def _report_verdict(
        self, state: ProductState, channel: str, verdict: Verdict, received: Received
    ) -> None:
        """Report the gap, the unexpected number and the reset of a verdict, if it has them.

        A reset has a ``gap`` notice of its own only if the verdict has no gap. From a reset on,
        ``race`` compares with its number.
        """
        if verdict.oddity:
            topic = intern_topic(channel, state.product_id)
            received.oddities.append(f"{topic} {verdict.oddity}")
        if verdict.restart is not None:
            self.race.reset(state.product_id, channel, verdict.restart)
        if verdict.gap is not None:
            self._report_gap(state, channel, verdict.gap, received)
        elif verdict.restart is not None:
            self.gaps += 1
            topic = intern_topic(channel, state.product_id)
            notice = notices.restarted(topic, verdict.restart)
            received.tell(TopicNotice(topic, notice, NoticeKind.GAP))


def _number_of(arrival: Arrival) -> int | None:
    """Return the number by which gaps of the message's channel are found.

    It is the trade id in ``matches`` and the sequence in ``full`` and ``level3``. None for other
    channels, and for a message without this number.
    """
    channel = arrival.message.topic.channel
    if channel == _MATCHES:
        return arrival.head.trade_id
    return arrival.head.sequence if channel in _BY_SEQUENCE else None
