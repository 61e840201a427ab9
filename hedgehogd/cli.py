"""The command line: run the command that the first word names, and set the exit status."""

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import structlog

from hedgehogd.commands import config, export, haproxy, replay, serve, simulate, status, tail
from hedgehogd.commands.arguments import COMMANDS
from hedgehogd.domain.errors import (
    EXIT_BUG,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    FeedError,
    OperatorError,
)
from hedgehogd.domain.secret import hide_in_url
from hedgehogd.logs.setup import configure_logs
from hedgehogd.settings.load import nearest

EXIT_INTERRUPTED = 130

_RUN: dict[str, Callable[[Sequence[str]], int]] = {
    "serve": serve.run,
    "config": config.run,
    "simulate": simulate.run,
    "tail": tail.run,
    "status": status.run,
    "replay": replay.run,
    "haproxy-config": haproxy.run,
    "export": export.run,
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Run the command line; return the exit status. Never shows a traceback to a person."""
    command, rest = "serve", list(argv)
    if rest and not rest[0].startswith("-"):
        command = rest.pop(0)
        if command == "help":
            command, rest = "serve", ["--help"]
        if command not in _RUN:
            hint = nearest(command, COMMANDS) or f"\n  Commands are {', '.join(COMMANDS)}."
            shown = hide_in_url(command)
            print(f"hedgehogd: there is no command {shown!r}{hint}", file=sys.stderr)
            return EXIT_USAGE
    try:
        return _RUN[command](rest)
    except BaseException as error:  # noqa: BLE001  # whatever it is, a person reads it
        return _status_of(error)


def _status_of(error: BaseException) -> int:
    """Tell a person what ended us, and return the exit status for it."""
    first = error
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    if isinstance(first, SystemExit):
        raise first
    if isinstance(first, OperatorError):
        print(f"hedgehogd: {first}", file=sys.stderr)
        return first.exit_status
    if isinstance(first, FeedError) and first.for_good:
        print(f"hedgehogd: {first}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    if isinstance(first, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if not structlog.is_configured():  # it would go to stdout, among what was asked for
        configure_logs("info", "auto")
    structlog.get_logger("bug").critical("this is a bug of hedgehogd", exc_info=error)
    return EXIT_BUG
