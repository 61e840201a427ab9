"""Which message of which connection is delivered, product by product.

A product may come over several connections at once: two lines, or an old and a new variant
of it while it moves (DESIGN §5). Each of its channels has its own rule:

* ``matches`` by trade id, ``full`` and ``level3`` by sequence: the next number wins, from
  whichever connection. A number that reveals a hole waits, and all that comes later of this
  product with it, heartbeats included, while another connection may still fill the hole;
  after ``gap_patience_s`` a gap is declared.
* ``ticker``: the newer number wins.
* all else is state: it follows one connection, the product's leader, and moves when that is
  lost or silent. A book moves with a fresh snapshot.

With one connection nothing ever waits: a hole is a gap at once.

Sans-I/O: time is an argument.
"""

from collections import Counter, deque
from collections.abc import Iterable

from hedgehogd.arbitration.batch import NoticeKind, Received, TopicNotice
from hedgehogd.arbitration.connection_state import Source
from hedgehogd.arbitration.heartbeats import Claims
from hedgehogd.arbitration.line_statistics import Race
from hedgehogd.arbitration.primary import Leading
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
    """The rules above, for all products of one feed.

    Attributes:
        dropped: messages not delivered, by reason: ``repeat`` (a number delivered already),
            ``spare`` (state from a connection that does not lead), ``no_snapshot`` (changes
            to a book that is not known).
        gaps: holes declared.
        missing: numbers in those holes, by channel.
        race: which line is first.
    """

    def __init__(self, gap_patience_s: float = GAP_PATIENCE_S) -> None:
        self.dropped: Counter[str] = Counter()
        self.gaps = 0
        self.missing: Counter[str] = Counter()
        self.race = Race()
        self._leading = Leading(self.dropped)
        self._claims = Claims(self._tell_gap, self._report, gap_patience_s)
        self._patience_s = gap_patience_s
        self._sources: dict[Source, None] = {}
        self._waiting: dict[str, ProductState] = {}
        self._is_racing = False  # two lines deliver the same

    @property
    def told_stale(self) -> bool:
        """True when a connection says that what is behind it is stale."""
        return any(source.told_stale for source in self._sources)

    def connected(self, source: Source) -> None:
        """``source`` may deliver from now on."""
        self._sources[source] = None
        self._is_racing = self._has_two_lines()

    def lost(
        self, source: Source, states: Iterable[ProductState], now: float, received: Received
    ) -> None:
        """End ``source``: nothing waits for it, and each product of ``states`` that it led moves.

        Args:
            source: the connection.
            states: the products received on it.
            now: the caller's clock, seconds.
            received: where released messages and notices go.
        """
        source.is_lost = True
        self._sources.pop(source, None)
        self._is_racing = self._has_two_lines()
        if len(self._sources) < 2:  # who revealed a hole cannot fill it
            for state in list(self._waiting.values()):
                self._give_up(state, now, received)
        for state in states:
            if state.leader is source:
                self._leading.follow_another(state, self._sources, received)

    def take(self, state: ProductState, arrival: Arrival, now: float, received: Received) -> None:
        """Deliver, drop or hold one message."""
        if state.waiting:
            self._take_behind_hole(state, arrival, now, received)
        else:
            self._judge(state, arrival, now, received)

    def next_expiry(self) -> float | None:
        """Return when the next hole becomes a gap, or None."""
        return min((state.waiting_until for state in self._waiting.values()), default=None)

    def expire(self, now: float, received: Received) -> None:
        """Declare the gaps whose time has come."""
        for state in [s for s in self._waiting.values() if s.waiting_until <= now]:
            self._declare(state, now, received)

    def forget(self, state: ProductState) -> None:
        """The product is no longer held by anyone."""
        state.waiting.clear()
        self._waiting.pop(state.product_id, None)
        for source in self._sources:
            source.products.discard(state.product_id)
        self.race.forget(state.product_id)

    def _has_two_lines(self) -> bool:
        return len({source.line for source in self._sources}) > 1

    def _judge(self, state: ProductState, arrival: Arrival, now: float, received: Received) -> None:
        """Apply the rule of the message's channel; nothing waits."""
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
            self._report(state, _TICKER, verdict, received)
            if verdict.deliver:
                received.messages.append(arrival.message)
                return
            self.dropped["repeat"] += 1
            if head.sequence == numbers.highest and not self._is_racing:
                # What a new connection is greeted with: there was no other meanwhile.
                received.tell(TopicNotice(topic, b"", NoticeKind.WHOLE))
        else:
            self._follow(state, arrival, now, received)

    def _follow(
        self, state: ProductState, arrival: Arrival, now: float, received: Received
    ) -> None:
        """Deliver state, when it comes from the connection that leads."""
        if not self._leading.delivers(state, arrival, now, received):
            return
        if arrival.head.type == "heartbeat":
            self._claims.heartbeat(state, arrival, now, received)
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
            hole = self._hole(state, arrival)
            if hole is not None and self._may_wait(state, hole[0], arrival, now):
                self._wait(state, hole, arrival)
                return
            if self._is_racing:
                self.race.observe(
                    state.product_id, channel, number, arrival.source.line, arrival.at
                )
        is_newest = arrival.head.type == "last_match"
        verdict = numbers.observe(
            number, now, arrival.source.line, arrival.message.payload, is_newest=is_newest
        )
        self._report(state, channel, verdict, received)
        if not verdict.deliver:
            self.dropped["repeat"] += 1
            return
        message = arrival.message
        state.number_at = now
        if channel == _FULL:
            message.also = self._trade_of_full(state, arrival, now, received)
        received.messages.append(message)
        if state.early is not None:
            self._claims.caught_up(state, received)

    def _trade_of_full(
        self, state: ProductState, arrival: Arrival, now: float, received: Received
    ) -> Topic | None:
        """Return the ``matches`` topic when a trade that came on ``full`` is new there."""
        topic, trade_id = intern_topic(_MATCHES, state.product_id), arrival.head.trade_id
        if trade_id is None:
            return None
        verdict = state.numbers_of(_MATCHES).observe(
            trade_id, now, arrival.source.line, arrival.message.payload
        )
        self._report(state, _MATCHES, verdict, received)
        return topic if verdict.deliver else None

    def _hole(self, state: ProductState, arrival: Arrival) -> tuple[str, Gap] | None:
        """Return the channel and the hole that a message would reveal."""
        channel, number = arrival.message.topic.channel, _number_of(arrival)
        if number is None:
            return None
        gap = state.numbers_of(channel).hole_before(number)
        if gap is not None:
            return channel, gap
        trade_id = arrival.head.trade_id
        if channel == _FULL and trade_id is not None:
            gap = state.numbers_of(_MATCHES).hole_before(trade_id)
            if gap is not None:
                return _MATCHES, gap
        return None

    def _may_wait(self, state: ProductState, channel: str, arrival: Arrival, now: float) -> bool:
        """Say whether a hole in ``channel`` may still be filled by another connection.

        Not when the arrival has waited long enough behind earlier holes; nor when it is part
        of what is missing: then both connections are past what comes before it.
        """
        if state.hole is not None or now >= arrival.at + self._patience_s:
            return False
        carriers = _TRADES if channel == _MATCHES else (channel,)
        return any(
            source is not arrival.source and source.holds_any(carriers, state.product_id)
            for source in self._sources
        )

    def _wait(self, state: ProductState, hole: tuple[str, Gap], arrival: Arrival) -> None:
        state.waiting_until = arrival.at + self._patience_s
        state.hole = hole
        state.waiting.append(arrival)
        self._waiting[state.product_id] = state

    def _take_behind_hole(
        self, state: ProductState, arrival: Arrival, now: float, received: Received
    ) -> None:
        """Something came for a product in which a hole is open."""
        if self._put_behind_hole(state, arrival, now, received):
            self._release(state, now, received)
        elif len(state.waiting) > WAITING_MESSAGES_MAX:
            self._declare(state, now, received)
        else:
            self._give_up(state, now, received)

    def _put_behind_hole(
        self, state: ProductState, arrival: Arrival, now: float, received: Received
    ) -> bool:
        """Let a message wait, unless it is missing; return whether the hole is filled now."""
        hole = state.hole
        if hole is None or not self._is_in(hole, arrival):
            state.waiting.append(arrival)
            # Who has waited already may stand behind one that came later.
            state.waiting_until = min(state.waiting_until, arrival.at + self._patience_s)
            return False
        self._let_go_before(state, arrival, now, received)
        self._judge(state, arrival, now, received)
        is_filled = state.numbers_of(hole[0]).highest == hole[1].last
        if is_filled:
            self.race.saved[arrival.source.line] += 1
        return is_filled

    def _give_up(self, state: ProductState, now: float, received: Received) -> None:
        """Wait no longer when it has been long enough, or nobody is left to wait for."""
        if state.waiting and (now >= state.waiting_until or len(self._sources) < 2):
            self._declare(state, now, received)

    def _let_go_before(
        self, state: ProductState, arrival: Arrival, now: float, received: Received
    ) -> None:
        """What its connection brought before a missing message is before the hole as well."""
        source, waiting = arrival.source, state.waiting
        if waiting[0].source is source:  # which has revealed the hole
            return
        before = [each for each in waiting if each.source is source]
        if before:
            state.waiting = deque(each for each in waiting if each.source is not source)
            for each in before:
                self._judge(state, each, now, received)

    def _is_in(self, hole: tuple[str, Gap], arrival: Arrival) -> bool:
        """Say whether a message is among the missing ones."""
        channel, gap = hole
        came_on = arrival.message.topic.channel
        if channel == _MATCHES and came_on in _TRADES:
            number = arrival.head.trade_id
        else:
            number = _number_of(arrival) if came_on == channel else None
        return number is not None and gap.first <= number <= gap.last

    def _declare(self, state: ProductState, now: float, received: Received) -> None:
        """Nobody fills the hole: tell the gap, and let go what waited behind it."""
        hole = state.hole
        if hole is not None:
            channel, gap = hole
            numbers = state.numbers_of(channel)
            first = gap.first if numbers.highest is None else numbers.highest + 1
            if first <= gap.last:  # it may have been told by the relay that feeds us
                numbers.skip_to(gap.last)
                self._tell_gap(state, channel, Gap(first, gap.last), received)
        self._release(state, now, received)

    def _release(self, state: ProductState, now: float, received: Received) -> None:
        """Judge again, in order, what waited; another hole may stop it.

        What is missing before one of them may stand behind it: two lines are not in step. So
        nothing is given up before all have been looked at.
        """
        waiting = self._stop_waiting(state)
        while waiting:
            arrival = waiting.popleft()
            if state.waiting:
                if self._put_behind_hole(state, arrival, now, received):
                    waiting.extendleft(reversed(self._stop_waiting(state)))
                continue
            hole = self._hole(state, arrival)
            if hole is not None and any(self._is_in(hole, each) for each in waiting):
                self._wait(state, hole, arrival)
            else:
                self._judge(state, arrival, now, received)
        self._give_up(state, now, received)

    def _stop_waiting(self, state: ProductState) -> deque[Arrival]:
        """Return what waited for the hole of a product; it has none any more."""
        waiting, state.waiting, state.hole = state.waiting, deque(), None
        self._waiting.pop(state.product_id, None)
        return waiting

    def _tell_gap(self, state: ProductState, channel: str, gap: Gap, received: Received) -> None:
        topic = intern_topic(channel, state.product_id)
        self.gaps += 1
        self.missing[topic.channel] += gap.last - gap.first + 1
        received.tell(TopicNotice(topic, notices.gap(topic, gap), NoticeKind.GAP))
        # Updates to its book have no numbers; what was lost with the others nobody knows. When
        # nothing has come since its leader began to lead, the leader's snapshot is younger.
        if state.number_at >= state.led_since:
            received.resync_books(state.product_id)
        if topic.channel == _MATCHES:
            received.missing_trades.append((topic.product_id, gap))

    def _report(
        self, state: ProductState, channel: str, verdict: Verdict, received: Received
    ) -> None:
        """Report what is odd about a number: a gap before it, or that the exchange restarted."""
        if verdict.oddity:
            topic = intern_topic(channel, state.product_id)
            received.oddities.append(f"{topic} {verdict.oddity}")
        if verdict.gap is not None:
            self._tell_gap(state, channel, verdict.gap, received)
        elif verdict.restart is not None:
            self.gaps += 1
            topic = intern_topic(channel, state.product_id)
            notice = notices.restarted(topic, verdict.restart)
            received.tell(TopicNotice(topic, notice, NoticeKind.GAP))


def _number_of(arrival: Arrival) -> int | None:
    """Return the number by which a message's channel is watched for holes, if it has one."""
    channel = arrival.message.topic.channel
    if channel == _MATCHES:
        return arrival.head.trade_id
    return arrival.head.sequence if channel in _BY_SEQUENCE else None
