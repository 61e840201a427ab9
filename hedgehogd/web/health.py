"""The public state of this instance: ``/healthz``, ``/readyz`` and ``GET /api/v1/health``.

``GET /api/v1/health`` contains no address and no other instance; ``/readyz`` states the full
reason. Metrics, lines and instances are served to operators only.
"""

import msgspec
import trio
from quart import Response
from quart_trio import QuartTrio

from hedgehogd.engine.health import HistoryState
from hedgehogd.fanout.instance import Instance
from hedgehogd.web.responses import json_response

PATH = "/api/v1/health"

_ROLES = {HistoryState.WRITING: "writer", HistoryState.READING: "reader"}


class Health(msgspec.Struct):
    """The answer of ``GET /api/v1/health``.

    Attributes:
        instance: the instance's number.
        state: the state of its feed, or ``draining``.
        ready: whether new streams may be sent to it.
        role: ``writer`` records history, ``reader`` reads the history that another instance
            records, ``none`` has no history.
        feed_age_s: seconds since the feed last received bytes; None before the first.
        loop_lag_s: latest measured delay of the event loop, in seconds.
        history_age_s: seconds since the time up to which the writer has recorded history; None
            for instances that do not write.
    """

    instance: int
    state: str
    ready: bool
    role: str
    feed_age_s: float | None
    loop_lag_s: float
    history_age_s: float | None


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

    @app.get(PATH)
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
