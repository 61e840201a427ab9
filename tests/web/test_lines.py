"""``GET /api/v1/lines``: the state of each line, and the gaps that a second line saved."""

from hedgehogd.engine.health import FeedState, LineHealth
from hedgehogd.web.app import make_app


async def test_each_line_has_its_state_and_each_product_its_age(instance):
    """An operator of two lines wants to know the benefit of the second."""
    instance.health.become(FeedState.LIVE, "1 of 2 connections are down: closed: 1006")
    lines = [LineHealth(0, 1, 1, 2, 1, 0, "", 0.5, 12, 0.004, 1)]
    instance.health.read_lines = lambda: lines
    instance.health.read_products = lambda: {"BTC-USD": (0.25, None)}
    answer = await make_app(instance, serves_operators=True).test_client().get("/api/v1/lines")

    assert 200 == answer.status_code
    assert await answer.get_json() == {
        "state": "live",
        "reason": "1 of 2 connections are down: closed: 1006",
        "lines": [
            {
                "number": 0,
                "connections": 1,
                "live": 1,
                "products": 2,
                "connects": 1,
                "losses": 0,
                "last_loss": "",
                "heard_age_s": 0.5,
                "wins": 12,
                "lead_s": 0.004,
                "gaps_saved": 1,
            }
        ],
        "products": {"BTC-USD": {"heard_age_s": 0.25, "data_age_s": None}},
    }


async def test_without_a_feed_there_are_no_lines(instance):
    """A recording has no lines."""
    answer = await make_app(instance, serves_operators=True).test_client().get("/api/v1/lines")

    assert (await answer.get_json())["lines"] == []
