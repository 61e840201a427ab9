"""Answers about instances: ``GET /api/v1/health`` and ``GET /api/v1/instances``.

The routes send them; ``hedgehogd status`` reads them and needs neither Quart nor trio for it.
"""

import msgspec

HEALTH_PATH = "/api/v1/health"
INSTANCES_PATH = "/api/v1/instances"


class Health(msgspec.Struct):
    """What ``GET /api/v1/health`` answers.

    Attributes:
        instance: the instance's number.
        state: of its feed, or ``draining``.
        ready: new streams may be sent to it.
        role: ``writer`` writes history, ``reader`` reads what another instance writes, ``none``
            has no history.
        feed_age_s: since the feed last received bytes, in seconds; None before the first.
        loop_lag_s: how late the event loop was when it was last measured, in seconds.
        history_age_s: since the moment up to which a writer has written, in seconds; None for
            instances that do not write.
    """

    instance: int
    state: str
    ready: bool
    role: str
    feed_age_s: float | None
    loop_lag_s: float
    history_age_s: float | None


class Row(msgspec.Struct):
    """How one instance is.

    Attributes:
        instance: its number.
        state: of its feed, or ``draining``, ``gone``, ``silent``, ``odd`` (its answer is none).
        ready: new streams may be sent there.
        reason: for people.
        version: of hedgehogd; None when it does not answer.
        subscribers: open streams; None when it does not answer.
        feed_age_s: since its feed was last heard, in seconds; None for never, or no answer.
    """

    instance: int
    state: str
    ready: bool
    reason: str
    version: str | None = None
    subscribers: int | None = None
    feed_age_s: float | None = None


class Rows(msgspec.Struct):
    """What the route answers."""

    instances: list[Row]
