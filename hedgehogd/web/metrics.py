"""Prometheus metrics, read from the parts of the instance at each scrape.

The hot path counts in plain attributes, and a scrape copies them: no number is counted twice.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import perf_counter

import structlog
import trio
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hedgehogd import __version__
from hedgehogd.domain.limits import PAUSE_MIN_S
from hedgehogd.engine.health import FeedState, HistoryState
from hedgehogd.fanout.instance import Instance
from hedgehogd.feeds.backfill import Backfill
from hedgehogd.feeds.rest_client import RestClient

log = structlog.get_logger("daemon")

LAG_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_LAG_STEP_S = 0.25

_lag_registry = CollectorRegistry()
_lag = Histogram(
    "hedgehogd_loop_lag_seconds",
    "Delay of the event loop in waking a task that slept for a quarter of a second",
    buckets=LAG_BUCKETS_S,
    registry=_lag_registry,
)


async def watch_lag(instance: Instance, read: Callable[[], float] = perf_counter) -> None:
    """Measure the delay of the event loop for the histogram, until cancelled.

    A delay of ``PAUSE_MIN_S`` or longer is logged.

    Args:
        instance: its ``loop_lag_s`` is set to the latest delay, in seconds.
        read: a monotonic clock in seconds; the loop's own clock skips pauses of the process.
    """
    while True:
        due = read() + _LAG_STEP_S
        await trio.sleep(_LAG_STEP_S)
        instance.loop_lag_s = max(0.0, read() - due)
        _lag.observe(instance.loop_lag_s)
        if instance.loop_lag_s >= PAUSE_MIN_S:
            log.warning("the process did not run", seconds=round(instance.loop_lag_s, 1))


def exposition(instance: Instance, *collectors: Collector) -> tuple[bytes, str]:
    """Return all metrics in Prometheus' text format, and its content type.

    They are those of ``instance`` and ``collectors``, and the loop lag of the process.
    """
    registry = CollectorRegistry()
    for collector in (InstanceCollector(instance), *collectors):
        registry.register(collector)
    return generate_latest(registry) + generate_latest(_lag_registry), CONTENT_TYPE_LATEST


class InstanceCollector(Collector):
    """Collector of all metrics of an instance but its REST client, its backfill and loop lag."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def collect(self) -> Iterable[Metric]:
        """Return all metrics with their present values."""
        yield from self._build()
        yield from self._feed()
        yield from self._history()
        yield from self._streams()

    def _build(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("hedgehogd_info", "Version", labels=("version", "instance"))
        info.add_metric((__version__, str(self._instance.number)), 1)
        yield info
        tasks = trio.lowlevel.current_statistics().tasks_living
        yield _gauge("tasks", "Tasks of the event loop; proportional to streams", tasks)

    def _feed(self) -> Iterator[Metric]:
        instance, health = self._instance, self._instance.health
        now = trio.current_time()
        state = GaugeMetricFamily(
            "hedgehogd_feed_state", "1 for the present state of the feed", labels=("state",)
        )
        for each in FeedState:
            state.add_metric((each.value.replace(" ", "_"),), float(each is health.state))
        yield state
        if health.heard_at is not None:
            age_s = now - health.heard_at
            yield _gauge("feed_age_seconds", "Time since the feed last received a message", age_s)
        yield _counter("feed_connects", "Upstream connections opened", health.connects)
        yield _counters("feed_losses", "Upstream connections lost", "reason", health.losses)
        yield _counter("messages_in", "Messages put on the tape", instance.broker.messages_in)
        yield _counters(
            "messages_dropped",
            "Upstream messages dropped",
            "reason",
            {"garbage": 0, **health.dropped, "late": instance.broker.late},
        )
        yield _counter("feed_complaints", "Upstream errors", health.complaints)
        yield _counter("gaps", "Gaps found in sequences and trade ids", health.gaps)
        missing = {"matches": 0, **health.missing}
        yield _counters("missing", "Numbers missing in those gaps", "channel", missing)
        yield _gauge("feed_alarm", "1 while an upstream error is not disproved", health.alarm != "")
        yield _gauge("quiet_products", "Products without heartbeats", health.quiet_products)
        ages = GaugeMetricFamily(
            "hedgehogd_product_age_seconds",
            "Time since a product's last message",
            labels=("product",),
        )
        for product_id, (heard_age_s, _) in sorted(health.read_products().items()):
            ages.add_metric((product_id,), heard_age_s)
        yield ages
        yield from self._lines()
        yield from self._books()
        yield _gauge("tape_bytes", "Upper bound of the tape's memory", instance.pipe.tape.bytes)

    def _lines(self) -> Iterator[Metric]:
        """Yield the metrics of each line; the label is its number."""
        lines = self._instance.health.read_lines()
        gauges = (
            ("line_connections", "Connections that receive data", "live"),
            ("line_products", "Products of which messages arrive", "products"),
        )
        for name, text, field in gauges:
            gauge = GaugeMetricFamily(f"hedgehogd_{name}", text, labels=("line",))
            for line in lines:
                gauge.add_metric((str(line.number),), getattr(line, field))
            yield gauge
        counters = (
            ("line_losses", "Connections lost", "losses"),
            ("line_wins", "Numbers received before the other line", "wins"),
            ("line_gaps_saved", "Gaps of the other line filled", "gaps_saved"),
        )
        for name, text, field in counters:
            values = {str(line.number): getattr(line, field) for line in lines}
            yield _counters(name, text, "line", values)
        lead = GaugeMetricFamily(
            "hedgehogd_line_lead_seconds", "Median lead of the faster line", labels=("line",)
        )
        for line in lines:
            if line.lead_s is not None:
                lead.add_metric((str(line.number),), line.lead_s)
        yield lead

    def _books(self) -> Iterator[Metric]:
        pipe = self._instance.pipe
        books = GaugeMetricFamily(
            "hedgehogd_books", "Order books by state", labels=("level", "state")
        )
        for level, states in pipe.book_states().items():
            for name, count in states.items():
                books.add_metric((str(level), name), count)
        yield books
        resyncs = {"crossed": 0, **pipe.books.resyncs}
        yield _counters("book_resyncs", "Level-2 books resynchronized", "reason", resyncs)
        yield _counters(
            "book_resyncs_withheld", "Resynchronizations withheld until a pause is over", "reason",
            {"crossed": 0, **pipe.books.withheld},
        )  # fmt: skip
        faulty = pipe.books.faulty
        yield _gauge("books_faulty", "Level-2 books with a fault whose resync is withheld", faulty)
        listed = pipe.catalogue.unreadable
        yield _gauge("products_unreadable", "Unreadable entries of the product list", listed)
        unreadable = {"level2": pipe.books.unreadable, "level3": pipe.orders.unreadable}
        yield _counters("unreadable_rows", "Unreadable rows of books, skipped", "where", unreadable)
        lost = {"gap": 0, **pipe.orders.lost}
        yield _counters("order_book_losses", "Level-3 books restarted", "reason", lost)
        removals = pipe.books.bare_removals
        yield _counter("bare_removals", "Removals of absent levels, dropped", removals)
        yield _counter("snapshots_made", "Snapshots made for late joiners", pipe.snapshots.made)
        yield _counter("snapshot_joiners", "Late joiners served by them", pipe.snapshots.shared)

    def _history(self) -> Iterator[Metric]:
        health, resumes = self._instance.history, self._instance.pipe.resumes
        state = GaugeMetricFamily(
            "hedgehogd_history_state", "1 for the present state of history", labels=("state",)
        )
        for each in HistoryState:
            state.add_metric((each.value,), float(each is health.state))
        yield state
        if health.state is HistoryState.WRITING and health.written_us:
            age_s = (self._instance.pipe.wall_us() - health.written_us) / 1e6
            yield _gauge("history_age_seconds", "Age of the newest record in the archive", age_s)
        yield _counter("history_kept", "Messages written to history", health.kept)
        yield _counter(
            "history_overruns",
            "Times that messages were lost before they were written",
            health.overruns,
        )
        yield _counter("resumes", "Resuming streams that caught up", resumes.resumed)
        yield _counter("resume_messages", "Messages delivered to them", resumes.replayed)
        yield _counter("resume_gaps", "Resumed topics with missing messages", resumes.expired)

    def _streams(self) -> Iterator[Metric]:
        instance, counts = self._instance, self._instance.counts
        now_open: Counter[str] = Counter()
        waiting_bytes, oldest_s, slow = 0, 0.0, 0
        for session in instance.sessions:
            now_open[session.form.kind] += 1
            statistics = session.statistics()
            waiting_bytes += statistics.waiting_bytes
            oldest_s = max(oldest_s, statistics.oldest_s)
            slow += statistics.waiting_bytes > 0
        kinds = {kind: now_open[kind] for kind in ("websocket", "sse", "ndjson")}
        subscribers = GaugeMetricFamily("hedgehogd_subscribers", "Open streams", labels=("kind",))
        for kind, count in kinds.items():
            subscribers.add_metric((kind,), count)
        yield subscribers
        yield _counters("sessions", "Streams opened", "kind", instance.sessions.opened)
        hub = instance.pipe.hub
        yield _counters(
            "deliveries",
            "Messages passed to subscribers; drops are counted separately",
            "kind",
            hub.deliveries,
        )
        yield _counter("bytes_out", "Bytes of those messages", hub.bytes_out)
        yield _gauge("backlog_bytes", "Data waiting for slow subscribers", waiting_bytes)
        budget = instance.pipe.budget
        yield _gauge("waiting_bytes", "Memory of all bytes that wait for subscribers", budget.bytes)
        yield _gauge("waiting_bytes_max", "Bound of waiting_bytes", budget.bytes_max)
        yield _counter("waiting_relieved", "Holders ended to keep that bound", budget.relieved)
        yield _gauge("backlog_oldest_seconds", "Age of the oldest data in a backlog", oldest_s)
        yield _gauge("backlog_subscribers", "Subscribers with data in their backlog", slow)
        drops = {"slow_consumer": 0, **counts.drops}
        yield _counters("drops", "Messages dropped for a subscriber", "reason", drops)
        yield _counters("stream_ends", "Streams ended", "reason", counts.ends)
        delayed = instance.turns.delayed
        yield _counter("commands_delayed", "Commands over their address's allowance", delayed)
        refusals = {"bug": 0, **counts.refusals}
        yield _counters("refusals", "Requests, frames, commands refused", "reason", refusals)
        forwards = {"answered": 0, **counts.forwards}
        yield _counters("forwards", "Requests forwarded to peer instances", "outcome", forwards)
        yield _gauge("visitors", "Open connections that are not streams", counts.visitors)
        pauses = counts.accept_pauses
        yield _counter("accept_pauses", "Pauses of accept: no file descriptor was free", pauses)


class RestCollector(Collector):
    """Collector of the counts of REST client and backfill; either may be None."""

    def __init__(self, rest: RestClient | None, backfill: Backfill | None) -> None:
        self._rest = rest
        self._backfill = backfill

    def collect(self) -> Iterable[Metric]:
        """Return all metrics with their present values."""
        if self._rest is not None:
            yield from self._of_rest(self._rest)
        if self._backfill is not None:
            yield from self._of_backfill(self._backfill)

    def _of_rest(self, rest: RestClient) -> Iterator[Metric]:
        yield _counter("rest_requests", "Requests to the exchange's REST service", rest.requests)
        errors = {"timeout": 0, **rest.errors}
        yield _counters("rest_errors", "Failed requests among them", "reason", errors)
        yield _counter("rest_cache_hits", "Reads answered from the cache", rest.cache_hits)
        yield _counter("rest_coalesced", "Reads that joined a running request", rest.coalesced)
        yield _counter("rest_refused", "Reads refused: too many were waiting", rest.refused)

    def _of_backfill(self, backfill: Backfill) -> Iterator[Metric]:
        yield _counter("backfill_gaps", "Gaps that backfill started on", backfill.gaps)
        yield _counter("backfill_trades", "Trades that backfill delivered", backfill.delivered)
        given_up = {"not_listed": 0, **backfill.given_up}
        yield _counters("backfill_given_up", "Trades that remain missing", "reason", given_up)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"hedgehogd_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"hedgehogd_{name}", text, value=value)


def _counters(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"hedgehogd_{name}", text, labels=(label,))
    for value, count in sorted(values.items()):
        family.add_metric((value,), count)
    return family
