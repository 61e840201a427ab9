"""The feed: one or two lines to the exchange, asked for exactly what is wanted.

A line is a whole feed of its own, made of as many connections as its plan has. What wants
to flow comes from ``Demand``; each line's plan says which connection holds it, each
``Connection`` keeps itself alive, and one ``UpstreamSession`` decides between all of them
what is delivered. Deliveries enter the inbox in the order of those decisions.

The feed ends for its cancellation alone, or with ``FeedError.for_good`` when the exchange
refuses the very first connection.
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
    """Nobody fetches what is missing."""


class CoinbaseFeed:
    """Keep what is wanted flowing from the exchange into ``inbox``.

    It is the ``Sink`` of its connections.

    Args:
        dialer: connects to the exchange.
        demand: what is wanted.
        inbox: where deliveries go; closed when ``run`` ends.
        health: written here, read by others.
        lines: how many whole feeds to hold, 1 or 2.
        gap_patience_s: how long a hole in one line waits for the other, in seconds.
        on_missing_trades: told of each hole in trade ids, by product.

    Attributes:
        dialer: connects to the exchange.
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
        self._hole = trio.Event()
        self._remembered: frozenset[Topic] = frozenset()
        self._refused: frozenset[str] = frozenset()
        self._staleness = Staleness(self.session, health)
        self._again_at: dict[str, float] = {}  # when a refused channel is asked for again
        self._complained_at = 0.0
        self._relay_is_stale = False  # another hedgehogd feeds us, and its own feed is stale
        health.lines += self._lines

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the feed until cancelled.

        Raises:
            FeedError: the exchange refused the first connection for good.
        """
        task_status.started()
        async with self._inbox, trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_holes)
            while True:
                self.demand.changed.clear()
                await self._plan(nursery)
                at = self._next_change_at()
                with trio.move_on_at(float("inf") if at is None else at):
                    await self.demand.changed.wait()
                await trio.sleep(limits.SUBSCRIBE_COLLECT_S)

    def wake(self) -> None:
        """Plan again, as when the demand has changed."""
        self.demand.changed.set()

    async def deliver(self, received: Received) -> None:
        """Put what was received into the inbox; waits while that is full.

        What has been decided has to arrive: the numbers are counted already. So the wait
        goes on when the connection is cancelled; it ends when the broker takes it or is gone.
        """
        received.hide(self.dialer.secrets)
        account(received, self.session, self.health)
        self._resync(received.resyncs)
        for product_id, gap in received.missing_trades:
            self._on_missing_trades(product_id, gap)
        if self.session.refused != self._refused:
            self.wake()
        if self.session.arbiter.next_expiry() is not None:
            self._hole.set()
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
        """A connection has ended: deliver what no longer waits for it."""
        await self.deliver(self.session.lost(source, trio.current_time()))

    async def state_changed(self) -> None:
        """Tell what has changed about which connections are live."""
        told = self._staleness.of_lines(self._lines, trio.current_time())
        if told:
            await self._put(Delivery([], told))

    async def watch_products(
        self,
        source: Source,
        now: float,
        resubscribe: Callable[[Sequence[Topic], AbstractSet[str]], None],
    ) -> None:
        """Tell which products of ``source`` have fallen silent or are back; ask for them anew."""
        unheard = source.unheard(now, self.stale_after_s)
        quiet = frozenset(self.session.quiet_products(source, now, self.stale_after_s)) | {
            t.product_id
            for t in unheard
            if t.channel == HEARTBEAT.topic_channel
            and source.heard_heartbeat
            and not self._is_heard(t.product_id, now)
        }
        silent = [t for t in source.held or () if t.product_id in quiet or t in unheard]
        if silent:
            resubscribe(silent, quiet)
        heard = frozenset(
            state.product_id
            for state in self.session.states(source)
            if state.leader is source and now - state.heard_at < self.stale_after_s
        )
        told = self._staleness.of_products(quiet, heard | quiet)
        self._end_complaint(now)
        if told:
            await self._put(Delivery([], told))

    def _is_heard(self, product_id: str, now: float) -> bool:
        """Say whether the product flows, on whichever connection."""
        state = self.session.products.get(product_id)
        return state is not None and now - state.heard_at < self.stale_after_s

    async def _plan(self, nursery: trio.Nursery) -> None:
        """Bring plans, connections and memory in line with what is wanted."""
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
        """Have channels asked for again whose refusal may have been lifted.

        Not ``level2`` for want of a key: ``level2_batch`` stands in for it.
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
        """Forget topics that no longer flow, here and down the pipe.

        Called before anything is asked for, so no answer comes too early. When they flow
        again nothing is compared with what came before.
        """
        if topics == self._remembered:
            return
        for topic in self._remembered - topics:
            self.session.forget(topic)
        self._remembered = topics
        self.session.hold_only(topics)
        await self._put(Delivery([], flows=topics))

    def _resync(self, topics: Iterable[Topic]) -> None:
        """Have ``topics`` begin anew, on the connection that they are followed on."""
        for topic in topics:
            state = self.session.products.get(topic.product_id)
            for line in self._lines:
                for connection in line.connections.values():
                    source = connection.source
                    leads = state is None or state.leader in {None, source}
                    if source and source.held and topic in source.held and leads:
                        connection.renewals.ask_anew([topic])
                        connection.wake()

    async def _watch_holes(self) -> None:
        """Deliver what has waited long enough for a hole to be filled, for ever."""
        while True:
            await self._hole.wait()
            at = self.session.arbiter.next_expiry()
            if at is None:
                self._hole = trio.Event()
                continue
            await trio.sleep_until(at)
            await self.deliver(self.session.expire(trio.current_time()))

    async def _put(self, delivery: Delivery) -> None:
        """Put ``delivery`` into the inbox, after all that others put there before.

        Its numbers are counted already, so it has to arrive: the wait goes on when the
        connection that brought it is cancelled. It ends when the broker takes it or is gone.
        """
        with trio.CancelScope(shield=True), suppress(trio.BrokenResourceError):
            await self._inbox.send(delivery)

    def _raise_alarm(self, received: Received) -> None:
        """Let ``/readyz`` say what the exchange has against what is held always."""
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
        """What was refused has arrived: the refusal was lifted."""
        for message in received.messages:
            self.health.alarms.pop((message.topic.product_id, ""), None)
            self.health.alarms.pop(("", message.topic.channel), None)

    def _end_complaint(self, now: float) -> None:
        """End the alarm of a complaint when all that is held has flowed since, for long enough."""
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
