"""The feed: one or two lines to the exchange, subscribed to exactly the topics in demand.

A line carries the whole feed, on as many connections as its plan has. ``Demand`` lists the
topics; each line's plan assigns them to connections; each ``Connection`` keeps itself alive; one
``UpstreamSession`` arbitrates between all connections. Deliveries enter the inbox in the order
in which the session decided on them.

The feed ends only when it is cancelled, or with ``FeedError.for_good`` when the exchange
refuses the first connection permanently.
"""

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress

import structlog
import trio

from hedgehogd.arbitration.batch import Received
from hedgehogd.arbitration.connection_state import Source
from hedgehogd.arbitration.session import UpstreamSession
from hedgehogd.domain import limits
from hedgehogd.domain.channel import FULL, HEARTBEAT, LEVEL2, MATCHES, Topic, upstream_topics
from hedgehogd.domain.gap import Gap
from hedgehogd.engine.delivery import Delivery
from hedgehogd.engine.demand import Demand
from hedgehogd.engine.health import FeedHealth, FeedState
from hedgehogd.feeds.accounting import account
from hedgehogd.feeds.dialer import Dialer
from hedgehogd.feeds.line import Line
from hedgehogd.feeds.staleness import Staleness

log = structlog.get_logger("feed")


def _ignore_trades(product_id: str, gap: Gap) -> None:
    """Do nothing: the default of ``on_missing_trades``, for a feed without backfill."""


class CoinbaseFeed:
    """Deliver the messages of all topics in demand from the exchange into ``inbox``.

    The feed is the ``Sink`` of its connections.

    Args:
        dialer: connects to the exchange.
        demand: the topics that subscribers and the configuration want.
        inbox: receives the deliveries; closed when ``run`` ends.
        health: the state of the feed; the feed and its connections write it, and its lines are
            added to ``health.lines``.
        lines: number of lines, 1 or 2.
        gap_patience_s: how long messages after a gap in one line wait for the other, in seconds.
        on_missing_trades: called with the product and the gap in its trade ids.

    Attributes:
        dialer: connects to the exchange.
        demand: the topics that subscribers and the configuration want.
        health: the state of the feed.
        stale_after_s: silence after which a connection is dead or a product silent, in seconds.
        session: arbitrates between all connections of the feed.
    """

    def __init__(
        self,
        dialer: Dialer,
        demand: Demand,
        inbox: trio.MemorySendChannel[Delivery],
        health: FeedHealth,
        *,
        lines: int = 1,
        gap_patience_s: float = limits.GAP_PATIENCE_S,
        on_missing_trades: Callable[[str, Gap], None] = _ignore_trades,
    ) -> None:
        self.dialer = dialer
        self.demand = demand
        self.health = health
        self.stale_after_s = dialer.stale_after_s
        self.session = UpstreamSession(gap_patience_s, health.dropped, health.products)
        self._inbox = inbox
        self._lines = [
            Line(number, dialer, self, self.session, health, self.wake) for number in range(lines)
        ]
        self._on_missing_trades = on_missing_trades
        self._gap = trio.Event()
        self._remembered: frozenset[Topic] = frozenset()
        self._refused: frozenset[str] = frozenset()
        self._staleness = Staleness(self.session, health)
        self._again_at: dict[str, float] = {}  # when each refused channel is requested again
        self._complained_at = 0.0
        self._relay_is_stale = False  # upstream is another hedgehogd, and its own feed is stale
        health.lines += self._lines

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the feed until cancelled; started at once, before the first connection.

        Raises:
            FeedError: the exchange refused the first connection permanently; in an exception
                group.
        """
        task_status.started()
        async with self._inbox, trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_gaps)
            while True:
                self.demand.changed.clear()
                await self._plan(nursery)
                at = self._next_change_at()
                with trio.move_on_at(float("inf") if at is None else at):
                    await self.demand.changed.wait()
                await trio.sleep(limits.SUBSCRIBE_COLLECT_S)

    def wake(self) -> None:
        """Make ``run`` plan again, as after a change of demand."""
        self.demand.changed.set()

    async def deliver(self, received: Received) -> None:
        """Put ``received`` into the inbox; wait while the inbox is full.

        Before that, log and count it, report its missing trades, request the snapshots that it
        needs, and raise and end alarms.

        Its sequence numbers are counted as delivered already, so the delivery must not be lost:
        the wait continues when the connection is cancelled, until the broker receives the
        delivery or has ended.
        """
        received.hide(self.dialer.secrets)
        account(received, self.session, self.health)
        self._resync(received.resyncs)
        for product_id, gap in received.missing_trades:
            self._on_missing_trades(product_id, gap)
        if self.session.refused != self._refused:
            self.wake()
        if self.session.arbiter.next_expiry() is not None:
            self._gap.set()
        if self.health.alarms:
            self._end_alarms(received)
        self._raise_alarm(received)
        if received.messages or received.notices or received.refusals:
            await self._put(
                Delivery(
                    received.messages, received.notices, received.notices_at, received.refusals
                )
            )
        if self.session.told_stale != self._relay_is_stale:
            self._relay_is_stale = self.session.told_stale
            await self.state_changed()

    async def ended(self, source: Source) -> None:
        """Remove ``source``, a connection that has ended; deliver the messages queued for it."""
        await self.deliver(self.session.lost(source, trio.current_time()))

    async def state_changed(self) -> None:
        """Update the state in ``health``; deliver notices about a stale or live feed or products.

        Only changes since the last call are reported.
        """
        notices = self._staleness.of_lines(self._lines)
        if notices:
            await self._put(Delivery([], notices))

    async def watch_products(
        self,
        source: Source,
        now: float,
        resubscribe: Callable[[Sequence[Topic], AbstractSet[str]], None],
    ) -> None:
        """Deliver notices about products that became silent or live; see ``Sink``."""
        unheard = source.unheard(now, self.stale_after_s)
        quiet = frozenset(self.session.quiet_products(source, now, self.stale_after_s)) | {
            t.product_id
            for t in unheard
            if t.channel == HEARTBEAT.topic_channel
            and source.heard_heartbeat
            and not self._is_live(t.product_id, now)
        }
        silent = [t for t in source.held or () if t.product_id in quiet or t in unheard]
        if silent:
            resubscribe(silent, quiet)
        live = frozenset(
            state.product_id
            for state in self.session.states(source)
            if state.leader is source and now - state.heard_at < self.stale_after_s
        )
        notices = self._staleness.of_products(quiet, live | quiet)
        self._end_complaint(now)
        if notices:
            await self._put(Delivery([], notices))

    def _is_live(self, product_id: str, now: float) -> bool:
        """Return whether the last message of the product, on any connection, is recent."""
        state = self.session.products.get(product_id)
        return state is not None and now - state.heard_at < self.stale_after_s

    async def _plan(self, nursery: trio.Nursery) -> None:
        """Adapt plans, connections, alarms and remembered topics to the demand."""
        now = trio.current_time()
        wanted = self.demand.wanted(now)
        self._forget_alarms()
        await self._try_refused_again(now)
        if self.session.refused != self._refused:
            self._refused = self.session.refused
            for line in self._lines:
                line.plan.refused(self._refused)
        asked = upstream_topics(wanted, self._refused)
        trades = {MATCHES.topic(t.product_id) for t in asked if t.channel == FULL.topic_channel}
        await self._remember_only(wanted | asked | trades)
        for line in self._lines:
            line.plan.follow(asked, now)
            for connection in line.add_connections():
                nursery.start_soon(connection.run)
            for connection in line.connections.values():
                connection.wake()
        self._resync(self.demand.take_snapshots())
        await self.state_changed()

    async def _try_refused_again(self, now: float) -> None:
        """End the refusal of each channel that the exchange may accept by now.

        That is ``KEY_AGAIN_S`` after a refusal for a wrong key, ``REFUSED_AGAIN_S`` after any
        other one. A ``level2`` that is refused for a missing key stays refused: ``level2_batch``
        replaces it. A delivery informs the broker.
        """
        session = self.session
        for channel in session.refused - self._again_at.keys():
            if channel in session.key_failed:
                self._again_at[channel] = now + limits.KEY_AGAIN_S
            elif channel != LEVEL2.topic_channel:
                self._again_at[channel] = now + limits.REFUSED_AGAIN_S
        due = frozenset(channel for channel, at in self._again_at.items() if at <= now)
        if due:
            for channel in due:
                del self._again_at[channel]
            session.try_again(due)
            await self._put(Delivery([], allowed=tuple(sorted(due))))

    def _next_change_at(self) -> float | None:
        times = [line.plan.next_change_at() for line in self._lines]
        times += (self.demand.next_change_at(), *self._again_at.values())
        return min((at for at in times if at is not None), default=None)

    async def _remember_only(self, topics: frozenset[Topic]) -> None:
        """Forget all topics but ``topics``, in the session and, by a delivery, in the broker.

        It is called before the requests are sent, so no answer arrives earlier. When a forgotten
        topic is subscribed to again, its numbers are not compared with the earlier ones.
        """
        if topics == self._remembered:
            return
        for topic in self._remembered - topics:
            self.session.forget(topic)
        self._remembered = topics
        self.session.hold_only(topics)
        await self._put(Delivery([], flows=topics))

    def _resync(self, topics: Iterable[Topic]) -> None:
        """Resubscribe ``topics`` for a snapshot, each on its product's primary connection.

        Without a primary connection, every connection that holds the topic resubscribes.
        """
        for topic in topics:
            state = self.session.products.get(topic.product_id)
            for line in self._lines:
                for connection in line.connections.values():
                    source = connection.source
                    leads = state is None or state.leader in {None, source}
                    if source and source.held and topic in source.held and leads:
                        connection.renewals.ask_fresh([topic])
                        connection.wake()

    async def _watch_gaps(self) -> None:
        """Deliver messages after a gap, for ever, when their wait for the missing ones expires."""
        while True:
            await self._gap.wait()
            at = self.session.arbiter.next_expiry()
            if at is None:
                self._gap = trio.Event()
                continue
            await trio.sleep_until(at)
            await self.deliver(self.session.expire(trio.current_time()))

    async def _put(self, delivery: Delivery) -> None:
        """Put ``delivery`` into the inbox, after all earlier deliveries.

        Its sequence numbers are counted as delivered already, so it must not be lost: the wait
        is shielded from the cancellation of the connection that received it. It ends when the
        broker receives the delivery or has ended.
        """
        with trio.CancelScope(shield=True), suppress(trio.BrokenResourceError):
            await self._inbox.send(delivery)

    def _raise_alarm(self, received: Received) -> None:
        """Raise an alarm (``/readyz``) if the exchange refuses held topics or sends an error.

        A refused ``level2`` is no alarm: ``level2_batch`` replaces it.
        """
        for refusal in received.refusals:
            has_substitute = refusal.channel == LEVEL2.topic_channel
            if not has_substitute and self.demand.holds(refusal.product_id, refusal.channel):
                about = (refusal.product_id, refusal.channel)
                self.health.alarms[about] = f"{refusal.message}: {refusal.reason}"
        if received.complaints:
            self.health.alarms["", ""] = received.complaints[-1]
            self._complained_at = trio.current_time()

    def _forget_alarms(self) -> None:
        """Forget the alarms of products and channels that are no longer held."""
        alarms = self.health.alarms
        for about in [about for about in alarms if any(about) and not self.demand.holds(*about)]:
            del alarms[about]

    def _end_alarms(self, received: Received) -> None:
        """End the alarm of each refused product or channel when its messages arrive again."""
        for message in received.messages:
            self.health.alarms.pop((message.topic.product_id, ""), None)
            self.health.alarms.pop(("", message.topic.channel), None)

    def _end_complaint(self, now: float) -> None:
        """End the alarm of an upstream error if it is old enough and all topics flow now.

        Old enough means: ``stale_after_s`` has passed since the last upstream error.
        """
        if ("", "") in self.health.alarms and now - self._complained_at >= self.stale_after_s:
            connections = [c for line in self._lines for c in line.connections.values()]
            sources = [c.source for c in connections if c.source is not None]
            if (
                self.health.state is FeedState.LIVE
                and not self.health.reason
                and not self.health.quiet_products
                and not self.session.key_failed
                and all(source.flows(now) for source in sources)
            ):
                del self.health.alarms["", ""]
