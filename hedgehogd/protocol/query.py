"""The query of a URL: one mechanism for the routes of both planes. Pure.

A parameter that a route does not have is an error that names the nearest right one, and a
parameter with one value may appear once: an ignored ``?pair=`` would be answered with
success, and with silence afterwards.
"""

from collections.abc import Collection
from urllib.parse import parse_qsl

from hedgehogd.domain.errors import SubscriberError
from hedgehogd.domain.nearest import nearest

LISTS = frozenset({"pairs", "channels"})
"""Parameters whose values are lists separated by commas; repeated ones are joined."""
STREAM_PARAMETERS = frozenset(
    {
        "channels",
        "policy",
        "format",
        "notices",
        "since",
        "last_event_id",
        "speed",
        "until",
        "strict",
    }
)
"""What a URL of a stream may have, beside ``pairs`` where its path names none."""
PEER_PARAMETERS = frozenset({"alone"})
"""What another instance of the machine may add."""

_NAME_SHOWN_MAX = 40  # characters: an error repeats a part of a long name


def read_query(text: str, known: Collection[str]) -> dict[str, str]:
    """Return the values of a query by the names of their parameters, decoded.

    Args:
        text: the query, without its question mark.
        known: the parameters that the route has.

    Raises:
        SubscriberError: a parameter that is not ``known``, or one that is repeated (400).
    """
    values: dict[str, str] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        if name not in known:
            raise SubscriberError("unknown_parameter", _unknown(name, known))
        if name not in values:
            values[name] = value
        elif name in LISTS:
            values[name] += f",{value}"
        else:
            raise SubscriberError("bad_request", f"the parameter {name} appears more than once")
    return values


def split_list(text: str) -> list[str]:
    """Return the items of a list separated by commas."""
    return [item.strip() for item in text.split(",") if item.strip()]


def _unknown(name: str, known: Collection[str]) -> str:
    documented = sorted(set(known) - PEER_PARAMETERS)
    there_are = f"there are {', '.join(documented)}" if documented else "there are none here"
    alike = nearest(name, documented)
    hint = "" if alike is None else f"; did you mean {alike}?"
    return f"{name[:_NAME_SHOWN_MAX]!r} is not a parameter of this path, {there_are}{hint}"
