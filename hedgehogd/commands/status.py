"""``hedgehogd status``: how the instances of this machine are, for people and health checks."""

import sys
from collections.abc import Sequence
from typing import TextIO

import httpx
import msgspec

from hedgehogd.commands.arguments import Parser, add_where, configuration_of, new_parser
from hedgehogd.web.instance_status import HEALTH_PATH, INSTANCES_PATH, Health, Row, Rows

EXIT_NOT_READY = 1
_ANSWER_S = 5.0
_TITLES = ("instance", "state", "subscribers", "feed heard", "version", "")


def status_parser() -> Parser:
    """Return the parser of ``status``."""
    parser = new_parser(
        "status",
        "Show how the instances of this machine are. Exits with 0 when the one that was asked\n"
        "takes new subscribers, with 1 when it does not. The operator listener is asked; a\n"
        "stream port shows its own instance alone.",
    )
    add_where(parser, "the port to ask, and no other")
    return parser


def run(argv: Sequence[str]) -> int:
    """Show how the instances are."""
    arguments = status_parser().parse_args(argv)
    settings = configuration_of(arguments).settings
    operator = None if arguments.serve_port else settings.operator_place
    places = (operator, settings.stream_place) if operator else (settings.stream_place,)
    return status(places, sys.stdout)


def status(places: Sequence[str], out: TextIO) -> int:
    """Print a line for each instance that the asked instance knows.

    Args:
        places: ``HOST:PORT`` of one instance, the operator listener's first; the first that
            answers counts. A stream port tells about its own instance alone.
        out: where the lines are printed.

    Returns:
        0 when the asked instance takes new subscribers, ``EXIT_NOT_READY`` otherwise.
    """
    failures = []
    for place in places:
        where = f"http://{place}"
        try:
            is_ready, rows = _ask(where)
        except (httpx.TransportError, msgspec.DecodeError) as error:
            failures.append(f"no hedgehogd answers at {where}: {error}")
        else:
            break
    else:
        out.write("\n".join(failures) + "\n")
        return EXIT_NOT_READY
    for cells in (_TITLES, *map(_cells, rows)):
        widths = (8, 8, 11, 11, 8, 0)
        row = "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
        out.write(row.rstrip() + "\n")
    return 0 if is_ready else EXIT_NOT_READY


def _ask(where: str) -> tuple[bool, list[Row]]:
    """Return whether the instance at ``where`` is ready, and a row for each that it knows.

    Raises:
        httpx.TransportError: no answer.
        msgspec.DecodeError: another program answers.
    """
    with httpx.Client(base_url=where, timeout=_ANSWER_S, trust_env=False) as client:
        ready = client.get("/readyz")
        answer = client.get(INSTANCES_PATH)
        if answer.status_code != httpx.codes.NOT_FOUND:
            rows = msgspec.json.decode(answer.content, type=Rows).instances
            return ready.is_success, rows
        own = msgspec.json.decode(client.get(HEALTH_PATH).content, type=Health)
    reason = msgspec.json.decode(ready.content, type=_Ready).reason
    row = Row(own.instance, own.state, own.ready, reason, feed_age_s=own.feed_age_s)
    return ready.is_success, [row]


class _Ready(msgspec.Struct):
    reason: str


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
