"""The command line: run the command that the first word names, and exit with its status.

Without such a word, or if it is a flag, the command is ``serve``.

Only the module of this command is imported, so that ``hedgehogd --version`` or ``hedgehogd config``
starts without trio, Quart and structlog (tests/house/test_imports.py).
"""

import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from hedgehogd.domain.errors import (
    EXIT_BUG,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    FeedError,
    OperatorError,
)

EXIT_INTERRUPTED = 130
_STDOUT = 1


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run ``argv``, by default the arguments of this process, and exit with its status."""
    try:
        try:
            status = run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of stdout, such as ``head``, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)  # Python flushes again at its end
        status = 0
    sys.exit(status)


def run(argv: Sequence[str]) -> int:
    """Run the command line; return the exit status.

    Every error becomes an exit status; it is printed or logged, except KeyboardInterrupt.

    Raises:
        SystemExit: the parser has printed a help text, the version or an error.
        BrokenPipeError: the reader of stdout has closed it.
    """
    command, rest = "serve", list(argv)
    if rest and not rest[0].startswith("-"):
        command = rest.pop(0)
        if command == "help":
            command, rest = "serve", ["--help"]
    try:
        return _run_of(command)(rest)
    except BaseException as error:  # noqa: BLE001  # every error has an exit status
        return _status_of(error)


def _run_of(command: str) -> Callable[[Sequence[str]], int]:
    """Import the module of ``command``; return its ``run``, which returns the exit status.

    The imports are statements because PyInstaller does not find modules that are imported by
    a computed name.

    Raises:
        OperatorError: there is no such command.
    """
    match command:
        case "serve":
            from hedgehogd.commands import serve

            return serve.run
        case "config":
            from hedgehogd.commands import config

            return config.run
        case "simulate":
            from hedgehogd.commands import simulate

            return simulate.run
        case "tail":
            from hedgehogd.commands import tail

            return tail.run
        case "status":
            from hedgehogd.commands import status

            return status.run
        case "replay":
            from hedgehogd.commands import replay

            return replay.run
        case "export":
            from hedgehogd.commands import export

            return export.run
        case "store":
            from hedgehogd.commands import store

            return store.run
        case "haproxy-config":
            from hedgehogd.commands import haproxy

            return haproxy.run
    from hedgehogd.commands.arguments import COMMANDS
    from hedgehogd.domain.secret import hide_in_url
    from hedgehogd.settings.load import nearest

    hint = nearest(command, COMMANDS) or f"\n  Commands are {', '.join(COMMANDS)}."
    raise OperatorError(f"there is no command {hide_in_url(command)!r}{hint}", EXIT_USAGE)


def _is_without_reader(descriptor: int) -> bool:
    """Say whether ``descriptor`` is the writing end of a pipe without a reader."""
    poll = select.poll()
    poll.register(descriptor, 0)  # errors alone, which are always reported
    return bool(poll.poll(0))


def _status_of(error: BaseException) -> int:
    """Return the exit status of an error; print an operator's error, log a bug.

    The first error of an exception group decides. SystemExit is raised again, and so is
    BrokenPipeError if it is the error of stdout; of any other pipe it is a bug.
    """
    first = error
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    if isinstance(first, SystemExit):
        raise first
    if isinstance(first, BrokenPipeError) and _is_without_reader(_STDOUT):
        raise first
    if isinstance(first, OperatorError):
        print(f"hedgehogd: {first}", file=sys.stderr)
        return first.exit_status
    if isinstance(first, FeedError) and first.for_good:
        print(f"hedgehogd: {first}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    if isinstance(first, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    _log_bug(error)
    return EXIT_BUG


def _log_bug(error: BaseException) -> None:
    import structlog

    from hedgehogd.logs.setup import configure_logs

    if not structlog.is_configured():  # its default is stdout
        configure_logs("info", "auto")
    structlog.get_logger("bug").critical("this is a bug of hedgehogd", exc_info=error)
