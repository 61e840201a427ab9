"""The feed: one upstream connection, kept alive, asked for exactly what is wanted.

It dials when something is wanted and hangs up when nothing is (Coinbase closes connections
that do not subscribe, FEED §3.1). Demand is compared with what this connection holds and
the difference is sent, collected for a moment, in as few messages as the exchange's limits
ask for. Whatever ends the connection, it is dialled again after a jittered pause.

A line is dead when no byte has come for ``stale_after_s`` although we pinged, or when it
has carried heartbeats and then no data for as long: sockets that stay open and say
nothing are the most common complaint about this exchange (PAIN §1).

Floor 3. The only retry loop of the pipe; it ends for its cancellation alone, or with
``FeedError.for_good`` when the exchange refuses the very first connection.
"""

from collections.abc import Awaitable, Callable
from random import Random

import structlog
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from hedgehogd import __version__
from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.errors import FeedError
from hedgehogd.engine.broker import Delivery
from hedgehogd.engine.demand import Demand
from hedgehogd.engine.health import FeedHealth, FeedState
from hedgehogd.feeds.dial import FeedAddress, dial
from hedgehogd.feeds.intake import account
from hedgehogd.feeds.losses import OUTSIDE_ERRORS, cause_of, describe, is_for_good
from hedgehogd.feeds.tap import Frames, FrameTap
from hedgehogd.protocol import coinbase, notices
from hedgehogd.protocol.backoff import Backoff, TokenBucket
from hedgehogd.protocol.upstream import TopicNotice, UpstreamSession

log = structlog.get_logger("feed")

_HEADERS = [(b"User-Agent", f"hedgehogd/{__version__}".encode())]


class CoinbaseFeed:
    """Keep one connection to ``address`` and put what it brings into ``inbox``.

    Args:
        address: where the exchange is.
        demand: what is wanted.
        inbox: where deliveries go; closed when ``run`` ends.
        health: written here, read by others.
        random: for jitter.
        stale_after_s: silence that means the line is dead, in seconds.
        message_bytes_max: longest upstream message, in bytes.
        open_stream: how to connect; tests pass their own.
    """

    def __init__(
        self,
        address: FeedAddress,
        demand: Demand,
        inbox: trio.MemorySendChannel[Delivery],
        health: FeedHealth,
        *,
        random: Random,
        stale_after_s: float = limits.STALE_AFTER_S,
        message_bytes_max: int = limits.UPSTREAM_MESSAGE_BYTES_MAX,
        open_stream: Callable[[FeedAddress], Awaitable[trio.abc.Stream]] = dial,
    ) -> None:
        self._address = address
        self._demand = demand
        self._inbox = inbox
        self._health = health
        self._stale_after_s = stale_after_s
        self._message_bytes_max = message_bytes_max
        self._open_stream = open_stream
        self._session = UpstreamSession(wanted=frozenset())
        self._backoff = Backoff(limits.BACKOFF_FIRST_S, limits.BACKOFF_MAX_S, random)
        self._bucket = TokenBucket(limits.UPSTREAM_REQUESTS_PER_S, limits.UPSTREAM_REQUESTS_BURST)
        self._changed = trio.Event()
        self._data_at = 0.0
        self._told_stale = False
        self._remembered: frozenset[Topic] = frozenset()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the feed until cancelled.

        Raises:
            FeedError: the exchange refused the first connection for good.
        """
        self._demand.on_change = self._wake
        task_status.started()
        async with self._inbox:
            while True:
                wanted = self._demand.wanted(trio.current_time())
                await self._remember_only(wanted)
                if not wanted:
                    self._become(FeedState.IDLE)
                    await self._changed.wait()
                    self._changed = trio.Event()
                    continue
                await self._one_connection()

    async def _one_connection(self) -> None:
        """Dial, hold the connection until it ends, and pause when it ended badly."""
        started_at = trio.current_time()
        if self._health.state is not FeedState.STALE:
            self._become(FeedState.CONNECTING)
        error: Exception | None = None
        try:
            await self._connect_and_hold()
        except* OUTSIDE_ERRORS as group:
            error = cause_of(group)
        if error is None:
            return
        failure = describe(error)
        if not self._health.connects and is_for_good(error):
            raise FeedError(f"{self._address.url}: {failure}", for_good=True)
        lived_s = trio.current_time() - started_at
        if lived_s >= limits.BACKOFF_RESET_S:
            self._backoff.reset()
        pause_s = self._backoff.next_s()
        self._health.losses[failure.split(":")[0]] += 1
        log.warning(
            "feed lost", reason=failure, lived_s=round(lived_s, 1), pause_s=round(pause_s, 2)
        )
        await self._tell_stale(failure)
        await trio.sleep(pause_s)

    async def _connect_and_hold(self) -> None:
        """Return when nothing is wanted any more; raise when the connection ends otherwise."""
        connect_by = trio.current_time() + limits.DIAL_TIMEOUT_S
        with trio.fail_at(connect_by):
            stream = await self._open_stream(self._address)
        hung_up = False
        try:
            tap = FrameTap(stream, self._receive, self._message_bytes_max)
            async with trio.open_nursery() as nursery:
                with trio.fail_at(connect_by):
                    connection = await wrap_client_stream(
                        nursery,
                        tap,  # type: ignore[arg-type]  # any stream will do
                        self._address.host_header,
                        self._address.resource,
                        extra_headers=_HEADERS,
                    )
                self._health.connects += 1
                self._session.reconnected()
                self._data_at = trio.current_time()
                log.info("feed connected", url=self._address.url)
                nursery.start_soon(_until_closed, tap, connection)
                nursery.start_soon(self._watch_line, tap)
                nursery.start_soon(_ping_when_silent, tap, connection, self._stale_after_s / 2)
                try:
                    await self._keep_subscribed(connection)
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
            await trio.aclose_forcefully(stream)

    async def _keep_subscribed(self, connection: WebSocketConnection) -> None:
        """Make the connection hold what is wanted; return when that is nothing."""
        held: frozenset[Topic] = frozenset()
        while True:
            self._changed = trio.Event()
            now = trio.current_time()
            wanted = self._demand.wanted(now)
            fresh = self._demand.take_refresh(held, now) & wanted
            await self._remember_only(wanted)
            await self._send(connection, "unsubscribe", (held - wanted) | fresh)
            await self._send(connection, "subscribe", (wanted - held) | fresh)
            held = wanted
            if not held:
                return
            at = self._demand.next_change_at(trio.current_time())
            with trio.move_on_at(float("inf") if at is None else at):
                await self._changed.wait()
            await trio.sleep(limits.SUBSCRIBE_COLLECT_S)

    async def _send(
        self, connection: WebSocketConnection, kind: str, topics: frozenset[Topic]
    ) -> None:
        for request in coinbase.requests(kind, topics):
            await trio.sleep(self._bucket.take(trio.current_time()))
            await connection.send_message(request.decode())
            log.debug("asked upstream", request=request.decode())

    async def _receive(self, frames: Frames) -> None:
        """Take the frames of one read; waits while the inbox is full."""
        received = self._session.receive(frames)
        account(received, self._session, self._health)
        first: list[TopicNotice] = []
        if received.messages:
            self._data_at = trio.current_time()
            if self._health.state is not FeedState.LIVE:
                self._become(FeedState.LIVE)
                if self._told_stale:
                    self._told_stale = False
                    back = notices.stale(is_stale=False, reason="the feed is back")
                    first.append(TopicNotice(None, back))
        refusals = received.refusals
        for messages, told in received.parts():  # one, unless there is a gap to be told
            if messages or told or first or refusals:
                await self._inbox.send(Delivery(messages, first + told, refusals))
            first, refusals = [], []

    async def _watch_line(self, tap: FrameTap) -> None:
        """Raise as soon as the line is dead."""
        patience_s = self._stale_after_s
        while True:
            now = trio.current_time()
            byte_by = tap.heard_at + patience_s
            beat_by = self._data_at + patience_s if self._session.heard_heartbeat else byte_by
            if now >= byte_by:
                raise FeedError(f"silent: no byte for {now - tap.heard_at:.1f} s")
            if now >= beat_by:
                raise FeedError(f"silent: no heartbeat for {now - self._data_at:.1f} s")
            await trio.sleep_until(min(byte_by, beat_by))

    async def _tell_stale(self, reason: str) -> None:
        self._become(FeedState.STALE, reason)
        if not self._told_stale:
            self._told_stale = True
            notice = notices.stale(is_stale=True, reason=reason)
            await self._inbox.send(Delivery([], [TopicNotice(None, notice)]))

    async def _remember_only(self, wanted: frozenset[Topic]) -> None:
        """Relay ``wanted`` alone; forget topics that no longer flow, here and down the pipe.

        Called before anything is asked for, so no answer comes too early. Messages of what
        is forgotten that are on their way still are dropped, and when it flows again nothing
        is compared with what came before.
        """
        forgotten = self._remembered - wanted
        self._remembered = self._session.wanted = wanted
        for topic in forgotten:
            self._session.forget(topic)
        if forgotten:
            await self._inbox.send(Delivery([], forgotten=tuple(forgotten)))

    def _become(self, state: FeedState, reason: str = "") -> None:
        self._health.become(state, trio.current_time(), reason)

    def _wake(self) -> None:
        self._changed.set()


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
