"""``hedgehogd status``: how the instances of this machine are, for people and health checks."""

from typing import TextIO

import httpx
import msgspec

from hedgehogd.web.instances import PATH, Row, Rows

EXIT_NOT_READY = 1
_ANSWER_S = 5.0
_TITLES = ("instance", "state", "subscribers", "feed heard", "version", "")


def status(port: int, out: TextIO) -> int:
    """Print a line for each instance that the one at ``port`` knows; itself decides the status.

    Returns:
        0 when the instance at ``port`` takes new subscribers, ``EXIT_NOT_READY`` otherwise.
    """
    where = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=where, timeout=_ANSWER_S, trust_env=False) as client:
            is_ready = client.get("/readyz").status_code == httpx.codes.OK
            rows = msgspec.json.decode(client.get(PATH).content, type=Rows).instances
    except (httpx.TransportError, msgspec.DecodeError) as error:
        out.write(f"no hedgehogd answers at {where}: {error}\n")
        return EXIT_NOT_READY
    for cells in (_TITLES, *map(_cells, rows)):
        widths = (8, 8, 11, 11, 8, 0)
        row = "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
        out.write(row.rstrip() + "\n")
    return 0 if is_ready else EXIT_NOT_READY


def _cells(row: Row) -> tuple[str, ...]:
    heard = "never" if row.feed_age_s is None else f"{row.feed_age_s:.1f} s ago"
    return (
        str(row.instance),
        row.state,
        "-" if row.subscribers is None else str(row.subscribers),
        "-" if row.version is None else heard,
        row.version or "-",
        "" if row.ready else f"not ready: {row.reason}",
    )
