"""One upstream connection that dials again after any end.

A connection is one slot of one line. It dials when the plan assigns topics to its slot and
closes when the plan assigns none (Coinbase closes connections that do not subscribe, COINBASE
§3.1). It compares its subscriptions with the plan and sends the difference, in as few requests
as the exchange's limits allow.

A connection is dead in two cases:

* No byte has arrived for ``stale_after_s``, although it pinged.
* It subscribes to heartbeats, and no data of a product has arrived for ``stale_after_s``,
  even if its pings are answered: sockets that stay open and silent are the most common
  complaint about this exchange (COINBASE §16.1). Products that were moved to this connection
  because they are silent do not count, and silence of a relay that reports its own feed as stale
  is no evidence.

If only some products or topics are silent, the connection subscribes to these again and keeps all
other subscriptions; a product for which that does not help moves to another connection. An
exchange that sends data and never a heartbeat does not support heartbeats; their absence is no
evidence there.
"""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

import structlog
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from hedgehogd import __version__
from hedgehogd.arbitration.batch import Received
from hedgehogd.arbitration.connection_state import Source
from hedgehogd.arbitration.placement import Plan
from hedgehogd.arbitration.resubscribe import Renewals
from hedgehogd.arbitration.session import UpstreamSession
from hedgehogd.domain import limits
from hedgehogd.domain.channel import HEARTBEAT, LEVEL2, LEVEL2_BATCH, Topic
from hedgehogd.domain.errors import FeedError
from hedgehogd.engine.health import FeedHealth
from hedgehogd.feeds.dialer import Dialer
from hedgehogd.feeds.disconnects import (
    OUTSIDE_ERRORS,
    cause_of,
    describe,
    is_for_good,
    is_rate_limit,
)
from hedgehogd.feeds.tap import FrameTap
from hedgehogd.protocol import coinbase
from hedgehogd.protocol.backoff import Backoff
from hedgehogd.protocol.frames import Frames

log = structlog.get_logger("feed")

_REMEDY = "dialling again; check network, DNS and proxy, or try --feed demo"
_BOOKS = frozenset(channel.topic_channel for channel in (LEVEL2, LEVEL2_BATCH))
_HEADERS = [(b"User-Agent", f"hedgehogd/{__version__}".encode())]


class Sink(Protocol):
    """The receiving end of a feed's connections: it delivers messages and reports states."""

    async def deliver(self, received: Received) -> None:
        """Deliver the result of one read; wait while the inbox is full, even if cancelled."""

    async def ended(self, source: Source) -> None:
        """Remove ``source``, a connection that has ended; deliver the messages queued for it."""

    async def state_changed(self) -> None:
        """Report the staleness that changed because a connection became live or was lost."""

    async def watch_products(
        self,
        source: Source,
        now: float,
        resubscribe: Callable[[Sequence[Topic], AbstractSet[str]], None],
    ) -> None:
        """Report products of ``source`` that became silent or live; resubscribe silent topics.

        Args:
            source: an open connection. A product is silent if no message of it has arrived on any
                connection for ``stale_after_s``, and either ``source`` is its primary and it has
                had a heartbeat, or ``source`` has received none of its heartbeats, but some of
                another product.
            now: the time on the clock of ``trio.current_time``, in seconds.
            resubscribe: called, if there are silent topics, with these topics and with the ids
                of the products that are silent although their heartbeat is subscribed to.
        """


class Connection:
    """One connection of a line: open while the plan has topics for it, dialled again when lost.

    Args:
        dialer: connects to the exchange.
        sink: receives messages and changes of state.
        session: arbitrates between all connections of the feed.
        health: the state of the feed; connections, losses, dropped messages and the time of the
            last message are written into it.
        plan: the placement of products of the line.
        line: number of the line.
        slot: number of the connection in ``plan``.
        wake: called when the feed has to plan again.

    Attributes:
        slot: its number in the line's plan.
        source: arbitration's record of the open connection; None while there is none.
        is_live: it is open, and data of a product has arrived on it.
        loss: why the last connection ended or the last dial failed; empty before, when a new one
            is live, and while the plan has no topics for it.
        connects: handshakes completed since start.
        losses: connections lost and dials failed since start.
        renewals: topics to subscribe to again; call ``wake`` after adding to it.
        heard_at: when data arrived last, or when it was opened, on ``trio.current_time``'s clock.
            While heartbeats are due, only data of products counts.
    """

    def __init__(
        self,
        dialer: Dialer,
        sink: Sink,
        session: UpstreamSession,
        health: FeedHealth,
        plan: Plan,
        *,
        line: int,
        slot: int,
        wake: Callable[[], None],
    ) -> None:
        self.slot = slot
        self.source: Source | None = None
        self.is_live = False
        self.loss = ""
        self.connects = 0
        self.losses = 0
        self._dialer = dialer
        self._sink = sink
        self._session = session
        self._health = health
        self._plan = plan
        self._line = line
        self._wake_feed = wake
        self._backoff = Backoff(limits.BACKOFF_FIRST_S, limits.BACKOFF_MAX_S, dialer.random)
        self._changed = trio.Event()
        self._known_silent: set[Topic] = set()
        self.heard_at = 0.0
        self.renewals = Renewals()

    def wake(self) -> None:
        """Compare the subscriptions with the plan and with ``renewals`` again."""
        self._changed.set()

    def resubscribe(self, silent: Sequence[Topic], quiet: AbstractSet[str]) -> None:
        """Subscribe to ``silent`` topics again; move a product for which that does not help.

        A product moves to another connection after ``RENEWALS_BEFORE_MOVE_MAX`` tries. A missing
        ticker or match proves nothing: there may have been no trade. A book always arrives, and so
        does a heartbeat of a product in ``quiet``: only these two are evidence.
        """
        new = [str(topic) for topic in silent if topic not in self._known_silent]
        self._known_silent.update(silent)
        if new:
            log.warning("silent topics", line=self._line, topics=new[:10], count=len(new))
        self.renewals.ask_fresh(silent)
        self.wake()
        for topic in silent:
            is_heartbeat = topic.channel == HEARTBEAT.topic_channel
            is_evidence = topic.channel in _BOOKS or (is_heartbeat and topic.product_id in quiet)
            if is_evidence and self.renewals.tries(topic) >= limits.RENEWALS_BEFORE_MOVE_MAX:
                self._plan.avoid(self.slot, topic.product_id)
                self._wake_feed()

    async def run(self) -> None:
        """Keep a connection with the topics of the plan until cancelled.

        Raises:
            FeedError: the exchange refused the feed's first connection permanently.
        """
        while True:
            if not self._plan.topics(self.slot):
                self.loss = ""
                await self._changed.wait()
                self._changed = trio.Event()
                continue
            await self._one_connection()

    async def _one_connection(self) -> None:
        """Wait for a dial, keep the connection until it ends, and pause after an error.

        Raises:
            FeedError: the exchange refused the feed's first connection permanently.
        """
        await self._dialer.wait_for_a_dial()
        started_at, connects = trio.current_time(), self.connects
        error: Exception | None = None
        try:
            await self._connect_and_hold()
        except* OUTSIDE_ERRORS as group:
            error = cause_of(group)
        if error is None:
            return
        dialer = self._dialer
        failure = dialer.secrets.hide(describe(error))
        if not self._health.connects and is_for_good(error):
            raise FeedError(f"{dialer.address.url}: {failure}", for_good=True)
        lived_s = trio.current_time() - started_at
        opened = self.connects > connects
        if lived_s >= limits.BACKOFF_RESET_S:
            self._backoff.reset()
        pause_s = self._backoff.next_s()
        if is_rate_limit(error):
            pause_s = max(pause_s, limits.RATE_LIMITED_PAUSE_S)
            dialer.not_before = max(dialer.not_before, trio.current_time() + pause_s)
        self._health.losses[failure.split(":")[0]] += 1
        self.losses += 1
        about = {"line": self._line, "connection": self.slot, "pause_s": round(pause_s, 2)}
        if opened:
            dialer.forget_failure()
            log.warning("feed lost", reason=failure, lived_s=round(lived_s, 1), **about)
        elif dialer.is_news(failure):
            log.warning(
                "the feed cannot be reached",
                host=dialer.address.host,
                reason=failure,
                remedy=_REMEDY,
                **about,
            )
        else:
            log.debug("the feed cannot be reached", reason=failure, **about)
        self.loss = failure
        await self._sink.state_changed()
        await trio.sleep(pause_s)

    async def _connect_and_hold(self) -> None:
        """Open a connection and keep it; close it and return when the plan assigns no topics.

        Raises one of ``OUTSIDE_ERRORS``, alone or in a group, if it cannot be opened or ends
        otherwise.
        """
        dialer, address = self._dialer, self._dialer.address
        connect_by = trio.current_time() + limits.DIAL_TIMEOUT_S
        with trio.fail_at(connect_by):
            stream = await dialer.open_stream(address)
        closed_by_us = False
        source = Source(self._line)
        tap = FrameTap(stream, self._receive, dialer.message_bytes_max, dialer.wall_us)
        try:
            async with trio.open_nursery() as nursery:
                with trio.fail_at(connect_by):
                    self._begin(source)
                    connection = await wrap_client_stream(
                        nursery,
                        tap,  # type: ignore[arg-type]  # the library accepts any stream
                        address.host_header,
                        address.resource,
                        extra_headers=[*_HEADERS, *address.headers],
                    )
                self.connects += 1
                self._health.connects += 1
                self.heard_at = trio.current_time()
                log.info("feed connected", url=address.url, line=self._line)
                nursery.start_soon(_until_closed, tap, connection)
                nursery.start_soon(self._watch_line, tap, source)
                nursery.start_soon(_ping_when_silent, tap, connection, dialer.stale_after_s / 2)
                try:
                    await self._keep_subscribed(connection, source)
                    closed_by_us = True
                finally:
                    with trio.move_on_after(limits.FAREWELL_S / 4, shield=True):
                        if closed_by_us:
                            await connection.aclose()
                        elif connection.closed is None:
                            await tap.send_close()
                nursery.cancel_scope.cancel()
        except* OUTSIDE_ERRORS:
            if not closed_by_us:  # errors that follow our own close frame are no disconnect
                raise
        finally:
            self.source, self.is_live = None, False
            self._health.dropped["binary"] += tap.binary_dropped
            self._plan.ended(self.slot)
            await self._sink.ended(source)
            await trio.aclose_forcefully(stream)

    def _begin(self, source: Source) -> None:
        self.source = source
        self._known_silent.clear()
        self.renewals = Renewals()
        self._session.connected(source)

    async def _keep_subscribed(self, connection: WebSocketConnection, source: Source) -> None:
        """Keep the subscriptions equal to the plan, and renew those that ``renewals`` lists.

        Return when the plan assigns no topics and the unsubscribe has been sent.
        """
        plan = self._plan
        while True:
            self._changed = trio.Event()
            now = trio.current_time()
            wanted = plan.topics(self.slot)
            held = source.held or frozenset()
            was_watched = self._is_watched(source)
            due = self.renewals.take(held & wanted, now)
            source.drop((held - wanted) | due.fresh)
            await self._send(connection, source, "unsubscribe", (held - wanted) | due.fresh)
            added = (wanted - held) | due.fresh | due.again
            source.ask(added, trio.current_time())
            if not was_watched:  # its products have ``stale_after_s`` from now on
                self.heard_at = trio.current_time()
            self._session.let_go(source)
            await self._send(connection, source, "subscribe", added)
            if not source.held and not wanted:
                return
            if wanted != plan.topics(self.slot):
                continue
            with trio.move_on_at(due.next_at):
                await self._changed.wait()

    async def _send(
        self, connection: WebSocketConnection, source: Source, kind: str, topics: frozenset[Topic]
    ) -> None:
        requests = list(coinbase.requests(kind, topics, self._dialer.sign))
        # All at once: an acknowledgement of an earlier request does not list these topics.
        source.acks_due += len(requests)
        for request in requests:
            await trio.sleep(self._dialer.requests.take(trio.current_time()))
            await connection.send_message(request.decode())
            log.debug("upstream request", line=self._line, topics=len(topics), kind=kind)

    async def _receive(self, frames: Frames, received_us: int) -> None:
        """Arbitrate and deliver the frames of one read; wait while the inbox is full.

        The socket was read at ``received_us``, µs since the epoch.
        Also note that data has arrived, and request topics that an acknowledgement leaves out.
        """
        source = self.source
        if source is None:
            raise AssertionError("frames before the handshake began")
        now, known = trio.current_time(), len(source.products)
        self._health.heard_at = now
        was_stale = source.told_stale
        received = self._session.receive(source, frames, now, received_us)
        if was_stale:  # a message of a relay without data proves that the relay is alive
            self.heard_at = now
            if not source.told_stale:  # it is live again: its products have ``stale_after_s``
                for state in self._session.states(source):
                    state.heard_at = now
        has_data = source.heard_at == now or not self._is_watched(source)
        if has_data:
            self.heard_at = now
        if len(source.products) != known:
            self._note_arrivals(source, now)
        if received.unacknowledged:
            self.renewals.ask_again(received.unacknowledged)
            self.wake()
        if not self.is_live and source.products:
            self.is_live, self.loss = True, ""
            await self._sink.deliver(received)
            await self._sink.state_changed()
        else:
            await self._sink.deliver(received)
        if has_data:  # while a full inbox waited, no data was read
            self.heard_at = trio.current_time()

    def _note_arrivals(self, source: Source, now: float) -> None:
        """Note in the plan which products have arrived; wake the feed if a change is due later."""
        for product_id in source.products:
            self._plan.arrived(self.slot, product_id, now)
        if self._plan.next_change_at() is not None:
            self._wake_feed()

    def _is_watched(self, source: Source) -> bool:
        """Return whether silence of all products means that the connection is dead.

        True if the connection holds heartbeats of a product that was not moved because of its
        silence, and no relay at its other end reports that its own feed is stale.
        """
        return not source.told_stale and source.expects_data(self._plan.silent)

    async def _watch_line(self, tap: FrameTap, source: Source) -> None:
        """Watch for silence, for ever: of the connection, and of its products by the sink.

        Raises:
            FeedError: the connection is dead.
        """
        patience_s = self._dialer.stale_after_s
        while True:
            now = trio.current_time()
            if tap.is_delivering:  # the inbox is full; more bytes may wait in the socket
                await trio.sleep(patience_s / 40)  # most deliveries take milliseconds
                continue
            byte_by = tap.heard_at + patience_s
            data_by = self.heard_at + patience_s if self._is_watched(source) else byte_by
            if now >= byte_by:
                raise FeedError(f"silent: no byte for {now - tap.heard_at:.1f} s")
            if now >= data_by:
                missing = "heartbeat" if source.heard_heartbeat else "data"
                raise FeedError(f"silent: no {missing} for {now - self.heard_at:.1f} s")
            if not source.told_stale:
                await self._sink.watch_products(source, now, self.resubscribe)
            await trio.sleep_until(min(byte_by, data_by, now + patience_s / 4))


async def _ping_when_silent(
    tap: FrameTap, connection: WebSocketConnection, silence_s: float
) -> None:
    """Ping whenever no byte has arrived for ``silence_s``.

    This task alone waits for the pong; ``_watch_line`` decides when silence means dead.
    """
    while True:
        if trio.current_time() >= tap.heard_at + silence_s:
            with trio.move_on_after(silence_s):
                await connection.ping()
        await trio.sleep_until(tap.heard_at + silence_s)


async def _until_closed(tap: FrameTap, connection: WebSocketConnection) -> None:
    """Wait until the connection is closed; no message arrives here, the tap removes them all.

    Raises:
        ConnectionClosed: the exchange or this side closed it.
        Exception: the tap's error, if there was one: it is the cause of the close.
    """
    try:
        while True:
            await connection.get_message()
    except ConnectionClosed:
        if tap.failure is not None:
            raise tap.failure from None
        raise
