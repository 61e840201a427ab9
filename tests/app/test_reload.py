"""Reload on SIGHUP: the keys that change while streams are open, and those that do not."""

import logging

import pytest
import trio

from hedgehogd.app.daemon import make_instance, make_plane
from hedgehogd.app.reload import apply, held_topics, only_products
from hedgehogd.domain.channel import Topic
from hedgehogd.settings.keys import KEYS, Settings


def test_pairs_are_held_with_their_channels_and_status_once() -> None:
    """``status`` has no product, so it is held once for any number of pairs."""
    settings = Settings(feed_pairs=("A-B", "C-D"), feed_channels=("matches", "status"))
    wanted = make_instance(settings).pipe.demand.wanted(0)

    assert {
        Topic("matches", "A-B"), Topic("matches", "C-D"), Topic("status", ""),
        Topic("heartbeat", "A-B"), Topic("heartbeat", "C-D"),
    } == wanted  # fmt: skip


def test_only_pairs_means_only_those() -> None:
    """Other products are refused without an upstream request."""
    settings = Settings(feed_pairs=("A-B",), feed_only_pairs=True)
    catalogue = make_instance(settings).pipe.catalogue

    assert [catalogue.accepts("A-B"), catalogue.accepts("C-D")] == [True, False]


def test_without_pairs_nothing_is_held() -> None:
    """Without pairs all topics are on demand, and no connection is open."""
    settings = Settings(feed_channels=("status",))

    assert (held_topics(settings), only_products(settings)) == ([], None)


CHANGED = {
    "feed.pairs": ("C-D",),
    "feed.channels": ("matches",),
    "limits.subscribers_max": 7,
    "limits.address_connections_max": 9,
    "limits.address_connections_per_s": 2.5,
    "limits.topics_max": 8,
    "limits.backlog_bytes_max": 9000,
    "limits.backlog_age_max_s": 1.5,
    "limits.waiting_bytes_max": 2**20,
    "drain.notice_s": 1.0,
    "drain.spread_s": 2.0,
    "drain.timeout_s": 30.0,
    "log.level": "warning",
}


@pytest.fixture
def logged(monkeypatch):
    """Return the fields of each log line, by event."""
    lines = {}

    class Log:
        def info(self, event, **values):
            lines[event] = values

        warning = info

    monkeypatch.setattr("hedgehogd.app.reload.log", Log())
    level = logging.getLogger().level
    yield lines
    logging.getLogger().setLevel(level)


async def test_reloaded_keys_are_in_force_at_once(nursery, logged) -> None:
    """Every key with ``reloads`` changes at once; the test lists them all."""
    assert CHANGED.keys() == {key.name for key in KEYS if key.reloads}
    old = Settings(feed_pairs=("A-B",), feed_only_pairs=True)
    instance = make_instance(old)
    plane = make_plane(instance, old, nursery)
    changes = {name.replace(".", "_"): value for name, value in CHANGED.items()}
    new = Settings(feed_only_pairs=True, **changes)

    assert apply(old, new, instance.pipe, plane) == new
    far = trio.current_time() + 3600
    assert instance.pipe.demand.wanted(far) == {Topic("matches", "C-D"), Topic("heartbeat", "C-D")}
    assert instance.pipe.catalogue.only == {"C-D"}
    assert (plane.subscribers_max, plane.topics_max) == (7, 8)
    assert (plane.addresses.connections_max, plane.addresses.connections_per_s) == (9, 2.5)
    assert (plane.settings.backlog_bytes_max, plane.settings.backlog_age_max_s) == (9000, 1.5)
    assert (instance.pipe.budget.bytes_max, plane.settings.budget) == (2**20, instance.pipe.budget)
    assert logging.getLogger().level == logging.WARNING
    assert logged == {"reloaded": {"changed": sorted(CHANGED)}}


async def test_keys_that_need_a_restart_are_logged_and_unchanged(nursery, logged) -> None:
    """Otherwise the operator would believe that the change is in force."""
    old = Settings()
    instance = make_instance(old)
    plane = make_plane(instance, old, nursery)
    new = Settings(serve_bind="0.0.0.0", feed_lines=2, limits_topics_max=5)
    now = apply(old, new, instance.pipe, plane)

    assert now == Settings(limits_topics_max=5)
    assert logged == {
        "reloaded": {"changed": ["limits.topics_max"]},
        "needs a restart": {"keys": ["feed.lines", "serve.bind"]},
    }


@pytest.mark.parametrize("past", [None, object()])
async def test_history_records_the_previous_topics_after_a_reload(nursery, logged, past) -> None:
    """All instances of a store record the same topics, so one alone cannot change them."""
    old = Settings(feed_pairs=("A-B",))
    instance = make_instance(old, past)
    plane = make_plane(instance, old, nursery)
    apply(old, Settings(feed_pairs=("C-D",)), instance.pipe, plane)

    assert any(event.startswith("history records the previous") for event in logged) is (
        past is not None
    )
