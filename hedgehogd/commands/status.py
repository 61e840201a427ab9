"""``hedgehogd status``: print the state of the instances, for operators and health checks."""

import http.client
import sys
from collections.abc import Sequence
from contextlib import closing
from http import HTTPStatus
from typing import TextIO

from hedgehogd.commands.arguments import Parser, add_where, configuration_of, new_parser

EXIT_NOT_READY = 1
_ANSWER_S = 5.0
_TITLES = ("instance", "state", "subscribers", "last message", "version", "")


def status_parser() -> Parser:
    """Return the parser of ``status``."""
    parser = new_parser(
        "status",
        "Show the state of the instances of this machine. The exit status is 0 when the\n"
        "asked instance takes new subscribers, and 1 when it does not. The operator\n"
        "listener is asked; a stream port shows its own instance alone.",
    )
    add_where(parser, "the only port to ask")
    return parser


def run(argv: Sequence[str]) -> int:
    """Print the state of the instances; return the exit status of ``status``.

    The operator listener is asked first, unless ``--port`` is set; then the stream port.

    Raises:
        OperatorError: the configuration is wrong.
    """
    arguments = status_parser().parse_args(argv)
    settings = configuration_of(arguments).settings
    operator = None if arguments.serve_port else settings.operator_place
    places = (operator, settings.stream_place) if operator else (settings.stream_place,)
    return status(places, sys.stdout)


def status(places: Sequence[str], out: TextIO) -> int:
    """Print a line for each instance that the asked instance knows, or why none answers.

    Args:
        places: ``HOST:PORT`` of one instance, first of its operator listener; the first that
            answers is used. A stream port reports its own instance alone.
        out: receives the lines.

    Returns:
        0 when the asked instance takes new subscribers, ``EXIT_NOT_READY`` when it does not or
        no place answers.
    """
    failures = []
    for place in places:
        try:
            is_ready, rows = _ask(place)
        except (OSError, ValueError) as error:
            failures.append(f"no hedgehogd answers at http://{place}: {error}")
        except http.client.HTTPException:
            failures.append(f"no hedgehogd answers at http://{place}: the answer is not HTTP")
        else:
            break
    else:
        out.write("\n".join(failures) + "\n")
        return EXIT_NOT_READY
    for cells in (_TITLES, *rows):
        widths = (8, 8, 11, 11, 8, 0)
        row = "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
        out.write(row.rstrip() + "\n")
    return 0 if is_ready else EXIT_NOT_READY


def _ask(place: str) -> tuple[bool, list[tuple[str, ...]]]:
    """Return whether the instance at ``place`` is ready, and the cells of each instance it knows.

    Raises:
        OSError: there is no answer.
        http.client.HTTPException: the answer is not HTTP.
        ValueError: the answer is not an instance's.
    """
    connection = http.client.HTTPConnection(place, timeout=_ANSWER_S)
    with closing(connection):
        status, ready = _get(connection, "/readyz")
        is_ready = status == HTTPStatus.OK
        from hedgehogd.commands.status_rows import row_of_health, rows_of_instances
        from hedgehogd.web.instance_status import HEALTH_PATH, INSTANCES_PATH

        status, body = _get(connection, INSTANCES_PATH)
        if status != HTTPStatus.NOT_FOUND:
            return is_ready, rows_of_instances(body)
        _, body = _get(connection, HEALTH_PATH)
    return is_ready, row_of_health(body, ready)


def _get(connection: http.client.HTTPConnection, path: str) -> tuple[int, bytes]:
    """Return status and body; open the connection, again if the instance has closed it."""
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read()
