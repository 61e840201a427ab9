"""``GET /api/v1/lines``: the state of each line of the feed, and the age of each product's data."""

from quart import Response
from quart_trio import QuartTrio

from hedgehogd.fanout.instance import Instance
from hedgehogd.web.responses import json_response


def add_lines(app: QuartTrio, instance: Instance) -> None:
    """Add the route to ``app``."""

    @app.get("/api/v1/lines")
    async def lines() -> Response:
        health = instance.health
        products = {
            product_id: {"heard_age_s": message_age_s, "data_age_s": data_age_s}
            for product_id, (message_age_s, data_age_s) in sorted(health.read_products().items())
        }
        return json_response(
            {
                "state": health.state,
                "reason": health.reason,
                "lines": [line._asdict() for line in health.read_lines()],
                "products": products,
            }
        )
