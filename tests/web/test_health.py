"""``GET /api/v1/health``: the public state of an instance."""

import pytest
import trio

from hedgehogd.engine.health import FeedState, HistoryState
from hedgehogd.web.app import make_app
from hedgehogd.web.instance_status import HEALTH_PATH
from tests.web.answers import body


async def test_it_has_state_role_and_ages_but_no_address(autojump_clock, instance):
    """The reason of a lost feed may contain a host name; only ``/readyz`` states it."""
    client = make_app(instance).test_client()
    assert await body(await client.get(HEALTH_PATH)) == {
        "instance": 1,
        "state": "idle",
        "ready": True,
        "role": "none",
        "feed_age_s": None,
        "loop_lag_s": 0.0,
        "history_age_s": None,
    }
    instance.health.become(FeedState.STALE, "10.0.0.7 refused")
    instance.health.heard_at = trio.current_time()
    instance.loop_lag_s = 0.25
    await trio.sleep(2)
    found = await body(await client.get(HEALTH_PATH))

    assert (found["state"], found["ready"], found["loop_lag_s"]) == ("stale", False, 0.25)
    assert found["feed_age_s"] == pytest.approx(2)
    assert "10.0.0.7" not in str(found)


async def test_a_draining_instance_has_the_state_draining(instance):
    """Its feed may still be live."""
    instance.is_draining = True
    found = await body(await make_app(instance).test_client().get(HEALTH_PATH))

    assert (found["state"], found["ready"]) == ("draining", False)


@pytest.mark.parametrize(
    ("state", "role"),
    [
        (HistoryState.OFF, "none"),
        (HistoryState.FAILED, "none"),
        (HistoryState.READING, "reader"),
        (HistoryState.WRITING, "writer"),
    ],
)
async def test_the_role_follows_the_state_of_history(instance, state, role):
    """Only a writer knows the age of history, and only after its first write."""
    client = make_app(instance).test_client()
    instance.history.become(state)
    assert (await body(await client.get(HEALTH_PATH)))["history_age_s"] is None
    instance.history.written_us = instance.pipe.wall_us() - 5_000_000
    found = await body(await client.get(HEALTH_PATH))

    assert found["role"] == role
    expected = pytest.approx(5, abs=2) if role == "writer" else None
    assert found["history_age_s"] == expected
