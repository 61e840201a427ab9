"""The public state of this instance: ``/healthz``, ``/readyz`` and ``GET /api/v1/health``.

``GET /api/v1/health`` contains no address and nothing about other instances; ``/readyz`` states
the full reason. Metrics, lines and instances are served to operators only.
"""

import trio
from quart import Response
from quart_trio import QuartTrio

from hedgehogd.engine.health import HistoryState
from hedgehogd.fanout.instance import Instance
from hedgehogd.web.instance_status import HEALTH_PATH, Health
from hedgehogd.web.responses import json_response

_ROLES = {HistoryState.WRITING: "writer", HistoryState.READING: "reader"}


def add_health(app: QuartTrio, instance: Instance) -> None:
    """Add the routes to ``app``."""

    @app.get("/healthz")
    async def healthz() -> Response:
        alive = not instance.is_draining
        return json_response({"status": "alive" if alive else "draining"}, 200 if alive else 503)

    @app.get("/readyz")
    async def readyz() -> Response:
        ready, reason = instance.readiness()
        return json_response({"ready": ready, "reason": reason}, 200 if ready else 503)

    @app.get(HEALTH_PATH)
    async def health() -> Response:
        return json_response(_health_of(instance))


def _health_of(instance: Instance) -> Health:
    feed, history = instance.health, instance.history
    is_writing = history.state is HistoryState.WRITING and history.written_us > 0
    return Health(
        instance.number,
        "draining" if instance.is_draining else str(feed.state),
        instance.readiness()[0],
        _ROLES.get(history.state, "none"),
        None if feed.heard_at is None else trio.current_time() - feed.heard_at,
        instance.loop_lag_s,
        (instance.pipe.wall_us() - history.written_us) / 1e6 if is_writing else None,
    )
