"""The daemon: it builds all parts of an instance, starts them in order, and drains them.

Consumers start before producers, and producers stop before consumers::

    root ── signals, lag, keepalives, notifications
      ├── recorder          writes the tape to the log     (ends last, with the remaining messages)
      ├── broker            ends when the last producer has closed the inbox
      ├── control           Hypercorn's connections       (cancelled after the streams)
      ├── streams           one task per subscriber        (ended by their farewells)
      ├── door              accepts connections            (closed first in a drain)
      └── feed, catalogue and the other producers          (cancelled after the farewells)

A bug while serving one peer ends that peer's connection. A bug in feed, broker, hub or tape
ends the process: it contains no supervisor, and systemd restarts it.
"""

import resource
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable
from random import Random

import structlog
import trio

from hedgehogd import __version__
from hedgehogd.app.listeners import Listeners, open_listeners
from hedgehogd.app.log import open_log, recording
from hedgehogd.app.memory import calm_garbage_collector, return_memory
from hedgehogd.app.reload import apply, held_topics, only_products
from hedgehogd.app.systemd import keep_notifying, notify
from hedgehogd.app.upstream import Upstream
from hedgehogd.domain import limits
from hedgehogd.domain.errors import EXIT_CONFIG, OperatorError
from hedgehogd.domain.product import Catalogue
from hedgehogd.engine.delivery import Delivery
from hedgehogd.engine.demand import Demand
from hedgehogd.engine.health import FeedHealth
from hedgehogd.engine.tape import Tape
from hedgehogd.fanout.broker import Broker
from hedgehogd.fanout.instance import Instance
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.fanout.sessions import Sessions
from hedgehogd.logs.setup import report_left_out
from hedgehogd.recovery.history_port import Past
from hedgehogd.relay.peers import Peers
from hedgehogd.relay.tapes import Tapes
from hedgehogd.settings.keys import Settings, in_url
from hedgehogd.streaming.admission import Addresses
from hedgehogd.streaming.keeper import keep_alive, say_farewell
from hedgehogd.streaming.outlet import OutletSettings
from hedgehogd.streaming.plane import StreamingPlane
from hedgehogd.web.exchange import Companion
from hedgehogd.web.metrics import watch_lag

log = structlog.get_logger("daemon")

_LEAVING_POLL_S = 0.05


def wall_us() -> int:
    """Return the wall-clock time, µs since the epoch."""
    return time.time_ns() // 1000


def make_instance(
    settings: Settings, past: Past | None = None, peers: Peers | None = None
) -> Instance:
    """Return the parts of one instance, connected to each other, nothing running yet.

    Args:
        settings: of the instance.
        past: the recorded messages; None without history.
        peers: the other instances of the machine; None without a runtime directory.
    """
    pipe = Pipe.build(
        Tape(settings.limits_tape_bytes_max, int(limits.TAPE_KEEP_S * 1_000_000)),
        Demand(held_topics(settings), settings.feed_linger_s),
        Catalogue(only_products(settings)),
        trio.current_time,
        wall_us,
        settings.limits_waiting_bytes_max,
        past,
        None if peers is None else Tapes(peers),
    )
    sessions = Sessions()
    return Instance(settings.instance, pipe, sessions, Broker(pipe, sessions), FeedHealth())


def make_plane(instance: Instance, settings: Settings, connections: trio.Nursery) -> StreamingPlane:
    """Return the streaming plane; its outlets start their flushing tasks in ``connections``."""
    outlets = OutletSettings(
        connections,
        instance.counts,
        settings.limits_backlog_bytes_max,
        settings.limits_backlog_age_max_s,
        instance.pipe.budget,
    )
    return StreamingPlane(
        instance,
        outlets,
        subscribers_max=settings.limits_subscribers_max,
        topics_max=settings.limits_topics_max,
        cors_origins=settings.serve_cors_origins,
        addresses=Addresses(
            settings.limits_address_connections_max, settings.limits_address_connections_per_s
        ),
    )


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
    """One running instance; the command line and the end-to-end tests use the same class.

    Attributes:
        instance: the parts of the instance, once ``run`` has started.
        port: the stream port, once ``run`` has started.
        stop: an event; setting it begins the drain.
    """

    instance: Instance

    def __init__(self, settings: Settings) -> None:
        self.port = 0
        self.stop = trio.Event()
        self._settings = settings
        self._random = Random(secrets.randbits(64))
        self._plane: StreamingPlane | None = None
        self._too_early: Settings | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until ``stop`` is set and the drain is over.

        Started means: every step at start that can fail has succeeded, except the first connection
        to the exchange, and the port is open. Errors may be in an exception group.

        Raises:
            OperatorError: the machine or the settings do not allow the start, or a recording that
                is the feed is not valid.
            FeedError: the exchange refused the first connection permanently.
        """
        raise_file_limit(self._settings.limits_subscribers_max)
        settings = self._settings
        async with open_listeners(settings) as listeners, open_log(settings) as its_log:
            self.port = listeners.port
            past = None if its_log is None else its_log.past
            instance = self.instance = make_instance(settings, past, listeners.peers)
            inbox_tx, inbox_rx = trio.open_memory_channel[Delivery](limits.INBOX_BATCHES_MAX)
            async with (
                recording(its_log, instance, wall_us) as keep_trades,
                trio.open_nursery() as consumers,
            ):
                await consumers.start(instance.broker.run, inbox_rx)
                async with trio.open_nursery() as producers, inbox_tx:
                    upstream = Upstream(instance, settings, self._random, keep_trades)
                    companion = await upstream.start(producers, inbox_tx)
                    async with trio.open_nursery() as services:
                        await self._serve(services, listeners, companion, task_status)
                        services.cancel_scope.cancel()
                    producers.cancel_scope.cancel()

    def reload(self, settings: Settings) -> None:
        """Apply the settings that may change while streams are open; log those that may not.

        Before the daemon serves, they are remembered and applied as soon as it does.

        Raises:
            OperatorError: the machine does not allow the settings; none was applied.
        """
        if self._plane is None:
            self._too_early = settings  # applied as soon as the daemon serves
            return
        raise_file_limit(settings.limits_subscribers_max)
        self._settings = apply(self._settings, settings, self.instance.pipe, self._plane)

    def try_reload(self, read_settings: Callable[[], Settings]) -> None:
        """Reload the settings that ``read_settings`` returns; an OperatorError is only logged.

        A wrong configuration changes nothing.
        """
        try:
            self.reload(read_settings())
        except OperatorError as error:
            log.error("not reloaded", reason=str(error))

    async def _serve(
        self,
        services: trio.Nursery,
        listeners: Listeners,
        companion: Companion,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Open the listeners, start the services, wait for ``stop``, and drain."""
        instance, settings = self.instance, self._settings
        async with trio.open_nursery() as connections:
            plane = self._plane = make_plane(instance, settings, connections)
            await listeners.open(plane, companion, connections)
            services.start_soon(watch_lag, instance)
            services.start_soon(_report_left_out)
            services.start_soon(keep_alive, plane)
            services.start_soon(return_memory, instance.pipe.budget)
            services.start_soon(keep_notifying, instance)
            notify("READY=1")
            where = f"http://{in_url(settings.serve_bind)}:{self.port}"
            log.info("serving", url=where, version=__version__)
            task_status.started()
            if (too_early := self._too_early) is not None:
                self.try_reload(lambda: too_early)
            await self.stop.wait()
            await self._drain(plane, listeners, connections)
            connections.cancel_scope.cancel()

    def _report_drain(self) -> None:
        """Log the subscribers that the drain waits for, and how an operator can end it early."""
        subscribers, visitors = len(self.instance.sessions), self.instance.counts.visitors
        if not subscribers and not visitors:
            log.info("draining", subscribers=0)
            return
        log.info(
            "draining",
            subscribers=subscribers,
            waits_for=f"{subscribers} subscribers and {visitors} other connections to leave",
            at_most_s=self._settings.drain_timeout_s,
            hint=f"a second Ctrl-C or SIGTERM, {limits.SECOND_SIGNAL_S:g} s later, exits at once",
        )

    async def _drain(
        self, plane: StreamingPlane, listeners: Listeners, connections: trio.Nursery
    ) -> None:
        """Report the drain, stop accepting, send farewells, and wait until all peers have left.

        After ``drain_timeout_s`` it returns, even if peers are still connected. If any peer is
        connected, new streams are accepted during ``drain_notice_s``, until the load balancer has
        noticed the drain: a refusal in that time would be an error for a subscriber. Without peers
        the ports are closed at once.
        """
        settings, instance, counts = self._settings, self.instance, plane.counts
        instance.is_draining = True
        notify("STOPPING=1", "STATUS=draining")
        self._report_drain()
        with trio.move_on_after(settings.drain_timeout_s) as in_time:
            if plane.outlets or counts.visitors:
                await trio.sleep(settings.drain_notice_s)
            listeners.close_ports()
            await say_farewell(plane, settings.drain_spread_s, self._random)
            while plane.outlets or counts.visitors:
                await trio.sleep(_LEAVING_POLL_S)
                await say_farewell(plane, 0, self._random)  # streams opened meanwhile
        listeners.close_ports()
        if in_time.cancelled_caught:
            tasks = Counter(task.name for task in connections.child_tasks)
            log.warning(
                "drain exceeded its time limit", streams=len(plane.outlets), tasks=dict(tasks)
            )
        log.info("drained")


async def _report_left_out() -> None:
    """Log once a period the number of suppressed log lines, until cancelled."""
    while True:
        await trio.sleep(limits.LOG_PERIOD_S)
        report_left_out()


async def watch_signals(daemon: Daemon, read_settings: Callable[[], Settings]) -> None:
    """Drain on SIGTERM and SIGINT, exit at once on a second one, reload on SIGHUP; for ever.

    A second signal within ``SECOND_SIGNAL_S`` is the same Ctrl-C received twice: a terminal sends
    it to the daemon and to its launcher, which forwards it.

    Raises:
        KeyboardInterrupt: a second signal arrived.
    """
    first_at: float | None = None
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if number == signal.SIGHUP:
                daemon.try_reload(read_settings)
            elif first_at is None:
                first_at = trio.current_time()
                daemon.stop.set()
            elif trio.current_time() - first_at > limits.SECOND_SIGNAL_S:
                raise KeyboardInterrupt


async def serve(settings: Settings, read_settings: Callable[[], Settings]) -> None:
    """Run a daemon, controlled by signals, until it has drained.

    Errors may be in an exception group.

    Args:
        settings: the settings at start.
        read_settings: reads the configuration again, for SIGHUP; it may raise OperatorError.

    Raises:
        OperatorError: the daemon cannot start with these settings.
        FeedError: the exchange refused the first connection permanently.
        KeyboardInterrupt: a second signal ended the drain early.
    """
    calm_garbage_collector()
    daemon = Daemon(settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_signals, daemon, read_settings)
        await daemon.run()
        report_left_out(at_least_s=0)
        nursery.cancel_scope.cancel()
