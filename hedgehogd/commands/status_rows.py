"""The rows of ``hedgehogd status``, made from the answers of an instance.

They are apart from ``status`` because msgspec is imported here: where no daemon answers, a health
check does not need it.
"""

import msgspec

from hedgehogd.web.instance_status import Health, Row, Rows


class _Ready(msgspec.Struct):
    reason: str


def rows_of_instances(body: bytes) -> list[tuple[str, ...]]:
    """Return the cells of each instance in an answer of ``GET /api/v1/instances``.

    Raises:
        ValueError: the answer is not an instance's.
    """
    try:
        return [_cells(row) for row in msgspec.json.decode(body, type=Rows).instances]
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None


def row_of_health(body: bytes, ready: bytes) -> list[tuple[str, ...]]:
    """Return the cells of the one instance that answered.

    Args:
        body: its answer of ``GET /api/v1/health``.
        ready: its answer of ``GET /readyz``.

    Raises:
        ValueError: an answer is not an instance's.
    """
    try:
        own = msgspec.json.decode(body, type=Health)
        reason = msgspec.json.decode(ready, type=_Ready).reason
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    return [_cells(Row(own.instance, own.state, own.ready, reason, feed_age_s=own.feed_age_s))]


def _cells(row: Row) -> tuple[str, ...]:
    feed_age = "never" if row.feed_age_s is None else f"{row.feed_age_s:.1f} s ago"
    return (
        str(row.instance),
        row.state,
        "-" if row.subscribers is None else str(row.subscribers),
        "-" if row.version is None else feed_age,
        row.version or "-",
        "" if row.ready else f"not ready: {row.reason}",
    )
