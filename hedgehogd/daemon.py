"""The daemon: the only place that knows everyone. The nursery tree and the drain.

Consumers start before producers and producers stop before consumers::

    root ── signals, lag, keepalives, notifications
      ├── broker            ends when the last producer has closed the inbox
      ├── control           Hypercorn's connections       (cancelled after the streams)
      ├── streams           one task per subscriber        (ended by their farewells)
      ├── door              accepts                        (closed first in a drain)
      └── feed, ticker_batch, catalogue                    (cancelled after the farewells)

A bug while serving one peer ends that peer. A bug in feed, broker, hub or tape ends the
process: there is no supervisor inside, systemd restarts us.
"""

import gc
import os
import resource
import secrets
import signal
import socket
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import structlog
import trio

from hedgehogd import __version__
from hedgehogd.config import Settings
from hedgehogd.credentials import check_secrecy, read_credentials
from hedgehogd.domain import limits
from hedgehogd.domain.channel import BY_ALIAS, MATCHES
from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.domain.product import Catalogue
from hedgehogd.engine.broker import Broker, Delivery
from hedgehogd.engine.demand import Demand
from hedgehogd.engine.health import FeedHealth
from hedgehogd.engine.instance import Instance
from hedgehogd.engine.level2_batch import Level2Batch
from hedgehogd.engine.session import Pipe, Sessions
from hedgehogd.engine.tape import Tape
from hedgehogd.engine.ticker_batch import TickerBatch
from hedgehogd.feeds.backfill import Backfill, Deliver
from hedgehogd.feeds.bootstrap import Bootstrap
from hedgehogd.feeds.catalogue import keep_catalogue
from hedgehogd.feeds.coinbase import CoinbaseFeed
from hedgehogd.feeds.dial import (
    COINBASE_REST_URL,
    COINBASE_URL,
    SANDBOX_REST_URL,
    SANDBOX_URL,
    FeedAddress,
    parse_url,
)
from hedgehogd.feeds.recording import RecordingFeed, find_recording
from hedgehogd.feeds.rest import RestClient
from hedgehogd.notify import keep_notifying, notify
from hedgehogd.protocol import notices
from hedgehogd.protocol.received import TopicNotice
from hedgehogd.simulator import Simulation, serve_exchange
from hedgehogd.streaming.door import Door, open_listener
from hedgehogd.streaming.keeper import keep_alive, say_farewell
from hedgehogd.streaming.outlet import OutletSettings
from hedgehogd.streaming.plane import StreamingPlane
from hedgehogd.web.app import make_app
from hedgehogd.web.exchange import Companion
from hedgehogd.web.metrics import watch_lag
from hedgehogd.web.own_books import OwnBooks
from hedgehogd.web.server import control_handler

log = structlog.get_logger("daemon")

_NAMED_FEEDS = {
    "coinbase": (COINBASE_URL, COINBASE_REST_URL),
    "sandbox": (SANDBOX_URL, SANDBOX_REST_URL),
}
_LEAVING_POLL_S = 0.05


def make_instance(settings: Settings) -> Instance:
    """Return the parts of one instance, plugged together, nothing running yet."""
    held = [
        channel.topic(pair)
        for channel in (BY_ALIAS[name] for name in settings.feed_channels)
        for pair in (settings.feed_pairs if channel.takes_products else ("",))
        if settings.feed_pairs
    ]
    only = frozenset(settings.feed_pairs) if settings.feed_only_pairs else None
    pipe = Pipe.build(
        Tape(settings.limits_tape_bytes_max),
        Demand(held, settings.feed_linger_s),
        Catalogue(only),
        trio.current_time,
    )
    sessions = Sessions()
    return Instance(settings.instance, pipe, sessions, Broker(pipe, sessions), FeedHealth())


def raise_file_limit(subscribers_max: int) -> None:
    """Raise the soft limit of open files to the hard one.

    Raises:
        OperatorError: the hard limit is too low for ``subscribers_max``.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = subscribers_max + limits.SPARE_FILES_MIN
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise OperatorError(
            f"{hard} open files are allowed, {needed} are needed for {subscribers_max} subscribers."
            "\n  Raise the limit (ulimit -Hn, LimitNOFILE=) or lower --subscribers-max.",
            EXIT_CONFIG,
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Daemon:
    """One running instance; the binary and the end-to-end tests start the same one.

    Attributes:
        instance: its parts.
        port: the port it listens on, once ``run`` has started.
        stop: set it to drain.
    """

    def __init__(self, settings: Settings) -> None:
        self.instance = make_instance(settings)
        self.port = 0
        self.stop = trio.Event()
        self._settings = settings
        self._random = Random(secrets.randbits(64))
        self._companion = Companion()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until ``stop`` is set and the drain is over.

        Started means: everything that can fail at start has not, and the port is open.

        Raises:
            OperatorError: the machine or the settings do not allow what was asked for.
            FeedError: the exchange refused us for good.
        """
        settings = self._settings
        raise_file_limit(settings.limits_subscribers_max)
        try:
            listener = open_listener(settings.serve_bind, settings.port)
        except OSError as error:
            where = f"{settings.serve_bind} port {settings.port}"
            raise OperatorError(f"cannot listen on {where}: {error.strerror or error}") from None
        with listener:
            self.port = listener.getsockname()[1]
            inbox_tx, inbox_rx = trio.open_memory_channel[Delivery](limits.INBOX_BATCHES_MAX)
            async with trio.open_nursery() as consumers:
                await consumers.start(self.instance.broker.run, inbox_rx)
                async with trio.open_nursery() as producers, inbox_tx:
                    await self._start_feed(producers, inbox_tx)
                    async with trio.open_nursery() as services:
                        await self._serve(services, listener, task_status)
                        services.cancel_scope.cancel()
                    producers.cancel_scope.cancel()

    async def _serve(
        self,
        services: trio.Nursery,
        listener: socket.socket,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Open the door, wait for ``stop``, and drain."""
        instance, settings = self.instance, self._settings
        app = make_app(instance, settings.serve_cors_origins, self._companion)
        async with trio.open_nursery() as connections:
            outlets = OutletSettings(
                connections,
                instance.counts,
                settings.limits_backlog_bytes_max,
                settings.limits_backlog_age_max_s,
            )
            plane = StreamingPlane(
                instance,
                outlets,
                subscribers_max=settings.limits_subscribers_max,
                topics_max=settings.limits_topics_max,
                cors_origins=settings.serve_cors_origins,
            )
            door = Door(plane, control_handler(app))
            accepting = await connections.start(door.run, listener, connections)
            services.start_soon(watch_lag)
            services.start_soon(keep_alive, plane)
            services.start_soon(keep_notifying, instance)
            notify("READY=1")
            where = f"http://{settings.serve_bind}:{self.port}"
            log.info("serving", url=where, version=__version__)
            task_status.started()
            await self.stop.wait()
            await self._drain(plane, accepting, connections)
            connections.cancel_scope.cancel()

    async def _start_feed(
        self, producers: trio.Nursery, inbox: trio.MemorySendChannel[Delivery]
    ) -> None:
        """Start what puts deliveries into ``inbox``, and what knows the products."""
        settings, instance = self._settings, self.instance
        pipe, health = instance.pipe, instance.health
        producers.start_soon(TickerBatch(pipe.hub, pipe.latest).run, inbox.clone())
        producers.start_soon(Level2Batch(pipe.books).run, inbox.clone())
        producers.start_soon(pipe.snapshots.run)
        address = await self._feed_address(producers)
        if address is None:
            path = Path(settings.feed_where)
            await producers.start(RecordingFeed(path, pipe, inbox.clone(), health).run)
            return
        rest = RestClient(address.rest_url, self._random)
        await producers.start(rest.run)
        backfill = Backfill(rest, self._deliver_to(inbox), self._random)
        self._companion = Companion(rest, OwnBooks(pipe), backfill)
        producers.start_soon(backfill.run)
        producers.start_soon(Bootstrap(pipe.orders, rest).run, inbox.clone())
        credentials = read_credentials(settings.feed_credentials, os.environ)
        if credentials is not None:
            check_secrecy(address)
        feed = CoinbaseFeed(
            address,
            pipe.demand,
            inbox.clone(),
            health,
            random=self._random,
            lines=settings.feed_lines,
            credentials=credentials,
            stale_after_s=settings.feed_stale_after_s,
            gap_patience_s=settings.feed_gap_patience_s,
            message_bytes_max=settings.feed_message_bytes_max,
            on_missing_trades=lambda product_id, gap: backfill.ask(product_id, *gap),
        )
        await producers.start(keep_catalogue, pipe.catalogue, rest)
        await producers.start(feed.run)

    def _deliver_to(self, inbox: trio.MemorySendChannel[Delivery]) -> Deliver:
        """Return what tells subscribers of backfilled trades, and keeps them for a while."""

        async def deliver(product_id: str, trades: list[dict[str, Any]]) -> None:
            self.instance.pipe.backfilled.add(product_id, trades, trio.current_time())
            notice = TopicNotice(MATCHES.topic(product_id), notices.backfilled(product_id, trades))
            await inbox.send(Delivery([], [notice]))
            await trio.sleep(limits.BACKFILL_CHUNK_PAUSE_S)

        return deliver

    async def _feed_address(self, producers: trio.Nursery) -> FeedAddress | None:
        """Return where the feed is; None when it is a recording. Starts the demo exchange."""
        where = self._settings.feed_where
        if where in _NAMED_FEEDS:
            return parse_url(*_NAMED_FEEDS[where])
        if where == "demo":
            simulation = Simulation(
                seed=self._settings.demo_seed or None,
                pairs=self._settings.feed_pairs,
                rate=self._settings.demo_rate,
            )
            exchange = await producers.start(serve_exchange, simulation)
            log.info("demo market", seed=exchange.seed, url=exchange.url)
            return parse_url(exchange.url, exchange.rest_url)
        if "://" in where:
            return parse_url(where)
        find_recording(Path(where))
        return None

    async def _drain(
        self, plane: StreamingPlane, accepting: trio.CancelScope, connections: trio.Nursery
    ) -> None:
        """Leave orderly: be noticed, accept no more, say farewell, wait for all to leave.

        Streams are still taken while a balancer has not noticed yet: a refusal then would
        be an error that somebody sees.
        """
        settings, instance, counts = self._settings, self.instance, plane.counts
        instance.is_draining = True
        notify("STOPPING=1", "STATUS=draining")
        log.info("draining", subscribers=len(instance.sessions))
        with trio.move_on_after(settings.drain_timeout_s) as in_time:
            if plane.outlets or counts.visitors:
                await trio.sleep(settings.drain_notice_s)
            accepting.cancel()
            await say_farewell(plane, settings.drain_spread_s, self._random)
            while plane.outlets or counts.visitors:
                await trio.sleep(_LEAVING_POLL_S)
                await say_farewell(plane, 0, self._random)  # who was at the door meanwhile
        accepting.cancel()
        if in_time.cancelled_caught:
            tasks = Counter(task.name for task in connections.child_tasks)
            log.warning("drain took too long", streams=len(plane.outlets), tasks=dict(tasks))
        log.info("drained")


async def watch_signals(daemon: Daemon) -> None:
    """Drain on SIGTERM and SIGINT; exit at once on a second one; for ever.

    A second signal within ``SECOND_SIGNAL_S`` is the same Ctrl-C arriving twice (from a
    terminal it reaches a launcher and us).

    Raises:
        KeyboardInterrupt: the second signal came.
    """
    first_at: float | None = None
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if number == signal.SIGHUP:
                log.info("nothing to reload yet")
            elif first_at is None:
                first_at = trio.current_time()
                daemon.stop.set()
            elif trio.current_time() - first_at > limits.SECOND_SIGNAL_S:
                raise KeyboardInterrupt


def calm_garbage_collector() -> None:
    """Let the cycle collector run rarely.

    What the pipe makes for a message is freed by counting references; cycles come from
    connections alone. With Python's default of a look after 700 new objects, and a full one
    over the objects of thousands of subscribers now and then, the collector took a tenth of
    the fan-out's time and its pauses were the longest of all.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(limits.GC_NEW_OBJECTS_MAX, 20, 100)


async def serve(settings: Settings) -> None:
    """Run a daemon under signals until it has drained.

    Raises:
        OperatorError: it cannot start as asked.
        FeedError: the exchange refused us for good.
        KeyboardInterrupt: a second signal cut the drain short.
    """
    calm_garbage_collector()
    daemon = Daemon(settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_signals, daemon)
        await daemon.run()
        nursery.cancel_scope.cancel()
