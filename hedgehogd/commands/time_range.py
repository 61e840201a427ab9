"""The flags for a time range of history, and the directory of history."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hedgehogd.commands.arguments import checked
from hedgehogd.domain.errors import EXIT_CONFIG, EXIT_USAGE, OperatorError
from hedgehogd.domain.instant import NEVER_US
from hedgehogd.domain.position import BadPosition, read_moment
from hedgehogd.settings.load import load
from hedgehogd.settings.readers import NONE

STATE_DIRECTORY = Path("/var/lib/hedgehogd")
"""The directory of hedgehogd@.service; a command that an operator runs has no variable for it."""


def add_time_range(parser: argparse.ArgumentParser, now_us: int, **since: Any) -> None:
    """Add ``--since`` and ``--until``, in µs since the epoch; ages are subtracted from ``now_us``.

    Without ``--until`` the end is ``NEVER_US``: a clock may be slow, and records dated after it.

    Args:
        parser: receives the flags.
        now_us: µs since the epoch.
        since: ``required`` or ``default`` of ``--since``.
    """
    default = "" if since.get("required") else "; default the oldest"
    parser.add_argument(
        "--since", type=checked(_moment(now_us)), metavar="WHEN", **since,
        help=f"start, included: a time (2026-01-31T12:00:00Z) or an age (-5m, -2h){default}",
    )  # fmt: skip
    parser.add_argument(
        "--until", type=checked(_moment(now_us)), metavar="WHEN", default=NEVER_US,
        help="end, not included; default the newest record",
    )  # fmt: skip


def _moment(now_us: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            return read_moment(text, now_us)
        except BadPosition:
            raise ValueError(
                "a time like 2026-01-31T12:00:00Z, or an age like -5m, not before 1970"
            ) from None

    return read


def joined(argv: Sequence[str]) -> list[str]:
    """Return the arguments with ages joined to their flags: ``-5m`` looks like a flag itself."""
    joined: list[str] = []
    for argument in argv:
        if joined and joined[-1] in {"--since", "--until"} and argument[:1] == "-":
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def directory_of(flag: str | None, file: Path | None) -> Path:
    """Return the directory of history: the flag's, by default that of a daemon on this machine.

    Args:
        flag: the value of ``--history``; None if it is absent.
        file: the value of ``--config``; None for the default file.

    Raises:
        OperatorError: the configuration is wrong, or history is ``none``.
    """
    flags = {} if flag is None else {"history.where": flag}
    settings = load(flags, os.environ, file).settings
    if settings.history_where == NONE:
        raise OperatorError(
            "no history is kept here\n  Expected --history DIR, the directory of --history of"
            " a daemon.",
            EXIT_USAGE if flags else EXIT_CONFIG,
        )
    return settings.history_directory(os.environ) or STATE_DIRECTORY
