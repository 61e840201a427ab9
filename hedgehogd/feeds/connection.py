"""One upstream connection, kept alive: dialled again whatever ends it.

It is one slot of one line. It dials when its slot has something to hold and hangs up when
it has nothing (Coinbase closes connections that do not subscribe, FEED §3.1). What it holds
is compared with the plan and the difference is sent, in as few messages as the exchange's
limits ask for.

A connection is dead when no byte has come for ``stale_after_s`` although we pinged, or when
it holds heartbeats and no data of a product has arrived for as long, whatever pings say:
sockets that stay open and silent are the most common complaint about this exchange (PAIN
§1). Products that were moved to a connection because they are silent do not count. A product
whose heartbeats alone have stopped is asked for anew, and nothing else is. An exchange that
sends data and no heartbeat at all has no heartbeats: their absence proves nothing there.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

import structlog
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from hedgehogd import __version__
from hedgehogd.arbitration.connection_state import Source
from hedgehogd.arbitration.resubscribe import Renewals
from hedgehogd.domain import limits
from hedgehogd.domain.channel import HEARTBEAT, LEVEL2, LEVEL2_BATCH, Topic
from hedgehogd.domain.errors import FeedError
from hedgehogd.feeds.disconnects import (
    OUTSIDE_ERRORS,
    cause_of,
    describe,
    is_for_good,
    is_rate_limit,
)
from hedgehogd.feeds.tap import Frames, FrameTap
from hedgehogd.protocol import coinbase
from hedgehogd.protocol.backoff import Backoff

if TYPE_CHECKING:
    from hedgehogd.feeds.line import Line

log = structlog.get_logger("feed")

_REMEDY = "it is dialled again; check network, DNS and proxy, or try --feed demo"
_BOOKS = frozenset(channel.topic_channel for channel in (LEVEL2, LEVEL2_BATCH))
_HEADERS = [(b"User-Agent", f"hedgehogd/{__version__}".encode())]


class Connection:
    """One slot of one line.

    Attributes:
        slot: its number in the line's plan.
        source: the connection as the session knows it; None while there is none.
        is_live: data has come on it.
        loss: why the last one ended; empty when none has, or a new one is live.
        connects: connections opened since start.
        renewals: what is to be subscribed to once more; call ``wake`` after asking.
        heard_at: when data came last, or it was opened, on ``trio.current_time``'s clock. While
            heartbeats are due, data of products counts alone.
    """

    def __init__(self, line: "Line", slot: int) -> None:
        self.slot = slot
        self.source: Source | None = None
        self.is_live = False
        self.loss = ""
        self.connects = 0
        self._line = line
        self._feed = line.feed
        self._backoff = Backoff(limits.BACKOFF_FIRST_S, limits.BACKOFF_MAX_S, line.feed.random)
        self._changed = trio.Event()
        self._known_silent: set[Topic] = set()
        self.heard_at = 0.0
        self.renewals = Renewals()

    def wake(self) -> None:
        """The plan, or what has to begin anew, may have changed."""
        self._changed.set()

    def ask_anew(self, silent: Sequence[Topic], quiet: AbstractSet[str]) -> None:
        """Subscribe to ``silent`` topics anew; move a product for which that does not help.

        A ticker or match may not come because nothing was traded. A book always comes, and so
        does a heartbeat of a product that is ``quiet``.
        """
        new = [str(topic) for topic in silent if topic not in self._known_silent]
        self._known_silent.update(silent)
        if new:
            log.warning("silent topics", line=self._line.number, topics=new[:10], count=len(new))
        self.renewals.ask_anew(silent)
        self.wake()
        for topic in silent:
            is_beat = topic.channel == HEARTBEAT.topic_channel
            is_proof = topic.channel in _BOOKS or (is_beat and topic.product_id in quiet)
            if is_proof and self.renewals.tries(topic) >= limits.RENEWALS_BEFORE_MOVE_MAX:
                self._line.plan.avoid(self.slot, topic.product_id)
                self._feed.wake()

    async def run(self) -> None:
        """Hold what the plan says until cancelled.

        Raises:
            FeedError: the exchange refused the feed's very first connection for good.
        """
        while True:
            if not self._line.plan.topics(self.slot):
                self.loss = ""
                await self._changed.wait()
                self._changed = trio.Event()
                continue
            await self._one_connection()

    async def _one_connection(self) -> None:
        """Dial, hold the connection until it ends, and pause when it ended badly."""
        await self._feed.wait_for_a_dial()
        started_at, connects = trio.current_time(), self.connects
        error: Exception | None = None
        try:
            await self._connect_and_hold()
        except* OUTSIDE_ERRORS as group:
            error = cause_of(group)
        if error is None:
            return
        feed = self._feed
        failure = feed.secrets.hide(describe(error))
        if not feed.health.connects and is_for_good(error):
            raise FeedError(f"{feed.address.url}: {failure}", for_good=True)
        lived_s = trio.current_time() - started_at
        opened = self.connects > connects
        if lived_s >= limits.BACKOFF_RESET_S:
            self._backoff.reset()
        pause_s = self._backoff.next_s()
        if is_rate_limit(error):
            pause_s = max(pause_s, limits.RATE_LIMITED_PAUSE_S)
            feed.not_before = max(feed.not_before, trio.current_time() + pause_s)
        feed.health.losses[failure.split(":")[0]] += 1
        self._line.losses += 1
        about = {"line": self._line.number, "connection": self.slot, "pause_s": round(pause_s, 2)}
        if opened:
            feed.forget_failure()
            log.warning("feed lost", reason=failure, lived_s=round(lived_s, 1), **about)
        elif feed.is_news(failure):
            log.warning(
                "the feed cannot be reached",
                host=feed.address.host,
                reason=failure,
                remedy=_REMEDY,
                **about,
            )
        else:
            log.debug("the feed cannot be reached", reason=failure, **about)
        self.loss = failure
        await feed.tell_state()
        await trio.sleep(pause_s)

    async def _connect_and_hold(self) -> None:
        """Return when nothing is wanted any more; raise when the connection ends otherwise."""
        feed = self._feed
        connect_by = trio.current_time() + limits.DIAL_TIMEOUT_S
        with trio.fail_at(connect_by):
            stream = await feed.open_stream(feed.address)
        hung_up = False
        source = Source(self._line.number)
        tap = FrameTap(stream, self._receive, feed.message_bytes_max)
        try:
            async with trio.open_nursery() as nursery:
                with trio.fail_at(connect_by):
                    self._begin(source)
                    connection = await wrap_client_stream(
                        nursery,
                        tap,  # type: ignore[arg-type]  # any stream will do
                        feed.address.host_header,
                        feed.address.resource,
                        extra_headers=[*_HEADERS, *feed.address.headers],
                    )
                self.connects += 1
                feed.health.connects += 1
                self.heard_at = trio.current_time()
                log.info("feed connected", url=feed.address.url, line=self._line.number)
                nursery.start_soon(_until_closed, tap, connection)
                nursery.start_soon(self._watch_line, tap, source)
                nursery.start_soon(_ping_when_silent, tap, connection, feed.stale_after_s / 2)
                try:
                    await self._keep_subscribed(connection, source)
                    hung_up = True
                finally:
                    with trio.move_on_after(limits.FAREWELL_S / 4, shield=True):
                        if hung_up:
                            await connection.aclose()
                        elif connection.closed is None:
                            await tap.say_goodbye()
                nursery.cancel_scope.cancel()
        except* OUTSIDE_ERRORS:
            if not hung_up:  # what comes of our own goodbye is no loss
                raise
        finally:
            self.source, self.is_live = None, False
            feed.health.dropped["binary"] += tap.binary_dropped
            await feed.end_source(self._line, self.slot, source)
            await trio.aclose_forcefully(stream)

    def _begin(self, source: Source) -> None:
        self.source = source
        self._known_silent.clear()
        self.renewals = Renewals()
        self._feed.session.connected(source)

    async def _keep_subscribed(self, connection: WebSocketConnection, source: Source) -> None:
        """Make the connection hold what the plan says; return when that is nothing."""
        plan, feed = self._line.plan, self._feed
        while True:
            self._changed = trio.Event()
            now = trio.current_time()
            wanted = plan.topics(self.slot)
            held = source.held or frozenset()
            was_watched = self._is_watched(source)
            due = self.renewals.take(held & wanted, now)
            source.drop((held - wanted) | due.anew)
            await self._send(connection, source, "unsubscribe", (held - wanted) | due.anew)
            added = (wanted - held) | due.anew | due.again
            source.ask(added, trio.current_time())
            if not was_watched:  # patience with its products begins now
                self.heard_at = trio.current_time()
            feed.session.let_go(source)
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
        for request in coinbase.requests(kind, topics, self._feed.sign):
            await trio.sleep(self._feed.requests.take(trio.current_time()))
            source.acks_due += 1
            await connection.send_message(request.decode())
            log.debug("asked upstream", line=self._line.number, topics=len(topics), kind=kind)

    async def _receive(self, frames: Frames) -> None:
        """Take the frames of one read; waits while the inbox is full."""
        source, feed = self.source, self._feed
        if source is None:
            raise AssertionError("frames before the connection has begun")
        now, known = trio.current_time(), len(source.products)
        feed.health.heard_at = now
        was_stale = source.told_stale
        received = feed.session.receive(source, frames, now)
        if was_stale:  # what a relay says while it has no data is a sign of life too
            self.heard_at = now
            if not source.told_stale:  # it is back: its products have their time to speak
                for state in feed.session.states(source):
                    state.heard_at = now
        has_data = source.heard_at == now or not self._is_watched(source)
        if has_data:
            self.heard_at = now
        if len(source.products) != known:
            self._line.heard(self.slot, source, now)
        if not self.is_live and source.products:
            self.is_live, self.loss = True, ""
            await feed.deliver(received, self)
            await feed.tell_state()
        else:
            await feed.deliver(received, self)
        if has_data:  # while a full inbox waited, no data was read
            self.heard_at = trio.current_time()

    def _is_watched(self, source: Source) -> bool:
        """Say whether silence means that the connection is dead; a relay says why it is silent."""
        return not source.told_stale and source.expects_data(self._line.plan.silent)

    async def _watch_line(self, tap: FrameTap, source: Source) -> None:
        """Raise as soon as the connection is dead; ask anew for products that fell silent."""
        feed, patience_s = self._feed, self._feed.stale_after_s
        while True:
            now = trio.current_time()
            if tap.is_delivering:  # the inbox is full; what has arrived is not read yet
                await trio.sleep(patience_s / 4)
                continue
            byte_by = tap.heard_at + patience_s
            beat_by = self.heard_at + patience_s if self._is_watched(source) else byte_by
            if now >= byte_by:
                raise FeedError(f"silent: no byte for {now - tap.heard_at:.1f} s")
            if now >= beat_by:
                what = "heartbeat" if source.heard_heartbeat else "data"
                raise FeedError(f"silent: no {what} for {now - self.heard_at:.1f} s")
            if not source.told_stale:
                await feed.watch_products(self, source, now)
            await trio.sleep_until(min(byte_by, beat_by, now + patience_s / 4))


async def _ping_when_silent(
    tap: FrameTap, connection: WebSocketConnection, silence_s: float
) -> None:
    """Ask for a sign of life whenever there was none for ``silence_s``.

    Nobody waits for the answer but this task: what silence means is ``_watch_line``'s to say.
    """
    while True:
        if trio.current_time() >= tap.heard_at + silence_s:
            with trio.move_on_after(silence_s):
                await connection.ping()
        await trio.sleep_until(tap.heard_at + silence_s)


async def _until_closed(tap: FrameTap, connection: WebSocketConnection) -> None:
    """Raise when the connection is closed; the tap keeps all messages.

    Raises:
        ConnectionClosed: by the exchange, or by us.
        Exception: by us, because of what the exchange sent.
    """
    try:
        while True:
            await connection.get_message()
    except ConnectionClosed:
        if tap.failure is not None:
            raise tap.failure from None
        raise
