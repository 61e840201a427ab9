"""The query of a URL, parsed in the same way for the routes of both planes. Pure.

An unknown parameter is an error that names the most similar valid one, and a parameter with a
single value may appear once. If ``?pair=`` were ignored, the request would succeed and its
stream would stay silent.
"""

from collections.abc import Collection
from urllib.parse import parse_qsl

from hedgehogd.domain.errors import SubscriberError
from hedgehogd.domain.nearest import nearest

LISTS = frozenset({"pairs", "channels"})
"""Parameters with a comma-separated list as value; repeated ones are joined."""
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
"""Parameters of a stream's URL, in addition to ``pairs`` if its path names no pair."""
PEER_PARAMETERS = frozenset({"alone"})
"""Parameters that only a peer instance of the machine adds."""

_NAME_SHOWN_MAX = 40  # characters of a name that an error quotes


def read_query(text: str, known: Collection[str]) -> dict[str, str]:
    """Return the decoded values of a query by parameter name; repeated ``LISTS`` are joined.

    Args:
        text: the query, without its question mark.
        known: the parameters of the route.

    Raises:
        SubscriberError: a parameter is not ``known``, or another one than ``LISTS`` is repeated
            (400).
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
    """Return the items of a comma-separated list, without surrounding space or empty items."""
    return [item.strip() for item in text.split(",") if item.strip()]


def _unknown(name: str, known: Collection[str]) -> str:
    documented = sorted(set(known) - PEER_PARAMETERS)
    which = f"which has {', '.join(documented)}" if documented else "which has no parameters"
    alike = nearest(name, documented)
    hint = "" if alike is None else f"; did you mean {alike}?"
    return f"{name[:_NAME_SHOWN_MAX]!r} is not a parameter of this path, {which}{hint}"
