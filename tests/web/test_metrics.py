"""Metrics: the names are public, the values are the counts of the instance's parts."""

import pytest
import structlog
import trio
from prometheus_client.parser import text_string_to_metric_families

from hedgehogd import __version__
from hedgehogd.engine.health import FeedState, HistoryState, LineHealth
from hedgehogd.feeds.backfill import Backfill
from hedgehogd.web.app import make_app
from hedgehogd.web.instance_status import HEALTH_PATH
from hedgehogd.web.metrics import RestCollector, exposition, watch_lag
from tests.feeds.upstream import rest_client
from tests.web.answers import body

NAMES = {
    "hedgehogd_accept_pauses",
    "hedgehogd_backlog_bytes",
    "hedgehogd_backlog_oldest_seconds",
    "hedgehogd_backlog_subscribers",
    "hedgehogd_bare_removals",
    "hedgehogd_book_resyncs",
    "hedgehogd_book_resyncs_withheld",
    "hedgehogd_books",
    "hedgehogd_books_faulty",
    "hedgehogd_bytes_out",
    "hedgehogd_commands_delayed",
    "hedgehogd_deliveries",
    "hedgehogd_drops",
    "hedgehogd_feed_alarm",
    "hedgehogd_history_age_seconds",
    "hedgehogd_history_kept",
    "hedgehogd_history_overruns",
    "hedgehogd_history_state",
    "hedgehogd_resume_gaps",
    "hedgehogd_resume_messages",
    "hedgehogd_resumes",
    "hedgehogd_feed_age_seconds",
    "hedgehogd_feed_complaints",
    "hedgehogd_feed_connects",
    "hedgehogd_feed_losses",
    "hedgehogd_feed_state",
    "hedgehogd_forwards",
    "hedgehogd_gaps",
    "hedgehogd_info",
    "hedgehogd_line_connections",
    "hedgehogd_line_gaps_saved",
    "hedgehogd_line_lead_seconds",
    "hedgehogd_line_losses",
    "hedgehogd_line_products",
    "hedgehogd_line_wins",
    "hedgehogd_loop_lag_seconds",
    "hedgehogd_loop_lag_seconds_created",
    "hedgehogd_messages_dropped",
    "hedgehogd_messages_in",
    "hedgehogd_missing",
    "hedgehogd_order_book_losses",
    "hedgehogd_product_age_seconds",
    "hedgehogd_products_unreadable",
    "hedgehogd_quiet_products",
    "hedgehogd_refusals",
    "hedgehogd_sessions",
    "hedgehogd_snapshot_joiners",
    "hedgehogd_snapshots_made",
    "hedgehogd_stream_ends",
    "hedgehogd_subscribers",
    "hedgehogd_tape_bytes",
    "hedgehogd_unreadable_rows",
    "hedgehogd_tasks",
    "hedgehogd_visitors",
    "hedgehogd_waiting_bytes",
    "hedgehogd_waiting_bytes_max",
    "hedgehogd_waiting_relieved",
}


REST_NAMES = {
    "hedgehogd_backfill_gaps",
    "hedgehogd_backfill_given_up",
    "hedgehogd_backfill_trades",
    "hedgehogd_rest_cache_hits",
    "hedgehogd_rest_coalesced",
    "hedgehogd_rest_errors",
    "hedgehogd_rest_refused",
    "hedgehogd_rest_requests",
}


def scrape(instance, *collectors):
    """Return the families by name, and the samples by name and label values."""
    text, content_type = exposition(instance, *collectors)
    assert content_type.startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(text.decode())}
    samples = {
        (sample.name.removeprefix("hedgehogd_"), *sample.labels.values()): sample.value
        for family in families.values()
        for sample in family.samples
    }
    return families, samples


async def test_the_names_of_metrics_are_these(autojump_clock, instance):
    """Names are public: a change breaks dashboards, and a new name belongs in this list."""
    instance.health.heard_at = 0.0
    instance.history.become(HistoryState.WRITING)
    instance.history.written_us = 1
    families, _ = scrape(instance)

    assert families.keys() == NAMES
    assert all(family.documentation for family in families.values())


async def test_tasks_are_those_of_the_loop(autojump_clock, instance, nursery):
    """A stream that leaks a task raises this figure."""
    _, before = scrape(instance)
    nursery.start_soon(trio.sleep_forever)
    _, after = scrape(instance)

    assert after["tasks",] == before["tasks",] + 1


async def test_counters_for_alerts_exist_before_their_first_event(autojump_clock, instance):
    """For Prometheus, a counter that appears with its first event has not increased."""
    _, samples = scrape(instance)

    for name, reason in (
        ("drops", "slow_consumer"),
        ("messages_dropped", "garbage"),
        ("refusals", "bug"),
    ):
        assert samples[f"{name}_total", reason] == 0


async def test_before_the_first_byte_there_is_no_age(autojump_clock, instance):
    """Zero would look like a live feed."""
    families, samples = scrape(instance)

    ages = {"hedgehogd_feed_age_seconds", "hedgehogd_history_age_seconds"}
    assert families.keys() == NAMES - ages
    assert samples["info", "1", __version__] == 1


@pytest.mark.parametrize("state", HistoryState)
async def test_the_age_of_history_is_that_of_the_health_route(autojump_clock, instance, state):
    """Only a writer knows it."""
    instance.history.become(state)
    instance.history.written_us = instance.pipe.wall_us() - 5_000_000
    _, samples = scrape(instance)
    found = await body(await make_app(instance).test_client().get(HEALTH_PATH))
    age_s = found["history_age_s"]

    assert samples.get(("history_age_seconds",)) == pytest.approx(age_s, abs=1)
    assert (age_s is not None) == (state is HistoryState.WRITING)


async def test_values_are_the_counts_of_the_parts(autojump_clock, instance, open_session):
    """A scrape copies counts and does not count itself."""
    health, counts = instance.health, instance.counts
    health.become(FeedState.STALE, "closed")
    health.heard_at, health.connects, health.complaints = 0.0, 3, 4
    health.gaps, health.missing["full"] = 5, 6
    health.losses["closed"] = 2
    health.dropped["garbage"] = 7
    counts.refusals['a "quoted"\nreason'] = 8
    counts.ends["slow_consumer"] = 9
    counts.drops["conflated"] = 10
    counts.visitors, counts.accept_pauses = 11, 12
    instance.broker.messages_in = 13
    instance.pipe.hub.deliveries["sse"] = 14
    instance.pipe.hub.bytes_out = 15
    instance.turns.delayed = 19
    budget = instance.pipe.budget
    budget.bytes, budget.bytes_max, budget.relieved = 16, 17, 18
    open_session("1.a", "sse", waiting_bytes=100, oldest_s=1.0)
    open_session("1.b", "sse", waiting_bytes=200, oldest_s=2.5)
    open_session("1.c", "websocket")
    await trio.sleep(1.5)
    _, samples = scrape(instance)

    expected = {
        ("feed_state", "stale"): 1,
        ("feed_state", "recording_ended"): 0,
        ("feed_age_seconds",): 1.5,
        ("feed_connects_total",): 3,
        ("feed_complaints_total",): 4,
        ("gaps_total",): 5,
        ("missing_total", "full"): 6,
        ("feed_losses_total", "closed"): 2,
        ("messages_dropped_total", "garbage"): 7,
        ("refusals_total", 'a "quoted"\nreason'): 8,
        ("stream_ends_total", "slow_consumer"): 9,
        ("drops_total", "conflated"): 10,
        ("visitors",): 11,
        ("commands_delayed_total",): 19,
        ("accept_pauses_total",): 12,
        ("messages_in_total",): 13,
        ("deliveries_total", "sse"): 14,
        ("bytes_out_total",): 15,
        ("subscribers", "sse"): 2,
        ("subscribers", "websocket"): 1,
        ("subscribers", "ndjson"): 0,
        ("sessions_total", "sse"): 2,
        ("backlog_bytes",): 300,
        ("waiting_bytes",): 16,
        ("waiting_bytes_max",): 17,
        ("waiting_relieved_total",): 18,
        ("backlog_oldest_seconds",): 2.5,
        ("backlog_subscribers",): 2,
    }
    assert {key: samples.get(key) for key in expected} == expected


async def test_the_counts_of_rest_and_backfill_are_exposed(autojump_clock, instance):
    """Without a REST client there are no such metrics."""
    rest = rest_client(None)
    backfill = Backfill(rest, None, None)
    families, samples = scrape(instance, RestCollector(rest, backfill))
    assert families.keys() - NAMES == REST_NAMES
    assert samples["rest_errors_total", "timeout"] == 0
    assert samples["backfill_given_up_total", "not_listed"] == 0
    families, _ = scrape(instance, RestCollector(None, None))
    assert not families.keys() - NAMES

    rest.requests, rest.cache_hits, rest.coalesced, rest.refused = 1, 2, 3, 4
    rest.errors["limited"] = 5
    backfill.gaps, backfill.delivered = 6, 7
    backfill.given_up["too_many"] = 8
    _, samples = scrape(instance, RestCollector(rest, backfill))
    expected = {
        ("rest_requests_total",): 1,
        ("rest_cache_hits_total",): 2,
        ("rest_coalesced_total",): 3,
        ("rest_refused_total",): 4,
        ("rest_errors_total", "limited"): 5,
        ("backfill_gaps_total",): 6,
        ("backfill_trades_total",): 7,
        ("backfill_given_up_total", "too_many"): 8,
    }
    assert {key: samples.get(key) for key in expected} == expected


async def test_one_state_of_the_feed_is_true(autojump_clock, instance):
    """Alerts rely on a sum of one over all states."""
    for state in FeedState:
        instance.health.become(state)
        _, samples = scrape(instance)
        values = [value for key, value in samples.items() if key[0] == "feed_state"]
        assert sorted(values) == [0, 0, 0, 0, 1]


async def test_the_loops_lag_is_measured(autojump_clock, nursery, instance):
    """A long turn of the loop delays every subscriber, and no other metric shows it."""
    _, before = scrape(instance)
    nursery.start_soon(watch_lag, instance)
    await trio.sleep(1.1)
    _, after = scrape(instance)

    count = ("loop_lag_seconds_count",)
    assert after[count] - before[count] == pytest.approx(4)


async def test_a_pause_of_the_process_is_measured_and_logged(autojump_clock, nursery, instance):
    """The loop's own clock skips the pause, so no other log line explains late messages."""
    steady = iter([0.0, 0.3, 1.0, 31.25])
    with structlog.testing.capture_logs() as logs:
        nursery.start_soon(watch_lag, instance, lambda: next(steady, 31.25))
        await trio.sleep(0.6)

    assert instance.loop_lag_s == 30
    assert [(each["event"], each["seconds"]) for each in logs] == [("the process did not run", 30)]


async def test_each_line_has_its_own_figures(autojump_clock, instance):
    """A sum over two lines would hide a line that is down."""
    lines = [
        LineHealth(0, 2, 1, 7, 3, 2, "closed: 1006", 0.5, 90, 0.004, 1),
        LineHealth(1, 2, 2, 8, 2, 0, "", 0.1, 10, None, 3),
    ]
    instance.health.read_lines = lambda: lines
    instance.health.read_products = lambda: {"BTC-USD": (0.25, None), "ETH-USD": (3.0, 2.0)}
    instance.health.alarms["", "full"] = "no key"
    instance.health.quiet_products = 1
    _, samples = scrape(instance)

    expected = {
        ("line_connections", "0"): 1,
        ("line_connections", "1"): 2,
        ("line_products", "1"): 8,
        ("line_losses_total", "0"): 2,
        ("line_wins_total", "0"): 90,
        ("line_gaps_saved_total", "1"): 3,
        ("line_lead_seconds", "0"): 0.004,
        ("product_age_seconds", "ETH-USD"): 3.0,
        ("feed_alarm",): 1,
        ("quiet_products",): 1,
    }
    assert expected == {key: samples[key] for key in expected}
    assert ("line_lead_seconds", "1") not in samples
