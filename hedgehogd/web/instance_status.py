"""Answers about instances: ``GET /api/v1/health`` and ``GET /api/v1/instances``.

The routes send them, and ``hedgehogd status`` reads them; this module needs neither Quart nor trio.
"""

import msgspec

HEALTH_PATH = "/api/v1/health"
INSTANCES_PATH = "/api/v1/instances"


class Health(msgspec.Struct):
    """The answer of ``GET /api/v1/health``.

    Attributes:
        instance: the instance's number.
        state: the state of its feed, or ``draining``.
        ready: whether new streams may be sent to it.
        role: ``writer`` records history, ``reader`` reads the history that another instance
            records, ``none`` has no history.
        feed_age_s: seconds since the feed last received a message; None before the first.
        loop_lag_s: latest measured delay of the event loop, in seconds.
        history_age_s: seconds since the time up to which the writer has recorded history; None
            when it does not write, or has written nothing so far.
    """

    instance: int
    state: str
    ready: bool
    role: str
    feed_age_s: float | None
    loop_lag_s: float
    history_age_s: float | None


class Row(msgspec.Struct):
    """The state of one instance.

    Attributes:
        instance: its number.
        state: the state of its feed, or ``draining``, ``gone`` (not running), ``silent`` (no
            answer in time), ``odd`` (its answer cannot be parsed).
        ready: whether new streams may be sent to it.
        reason: the reason of ``state`` and ``ready``, for people.
        version: its version of hedgehogd; None when it does not answer.
        subscribers: its number of open streams; None when it does not answer.
        feed_age_s: seconds since its feed last received a message; None when it has received
            none or does not answer.
    """

    instance: int
    state: str
    ready: bool
    reason: str
    version: str | None = None
    subscribers: int | None = None
    feed_age_s: float | None = None


class Rows(msgspec.Struct):
    """The answer of ``GET /api/v1/instances``.

    Attributes:
        instances: the rows by ascending number; a peer instance sends its own row alone.
    """

    instances: list[Row]
