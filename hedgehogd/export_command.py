"""The commands about history: ``export``."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hedgehogd.config import load, nearest
from hedgehogd.domain.channel import BY_ALIAS
from hedgehogd.domain.errors import EXIT_USAGE, OperatorError
from hedgehogd.domain.position import BadPosition, read_start
from hedgehogd.domain.product import is_product_id
from hedgehogd.export import FORMATS, Export, export
from hedgehogd.flags import Parser, new_parser
from hedgehogd.keeping import history_directory

STATE_DIRECTORY = Path("/var/lib/hedgehogd")
"""What hedgehogd@.service keeps it in; whoever exports by hand is not run by systemd."""


def export_parser() -> Parser:
    """Return the parser of ``export``."""
    parser = new_parser(
        "export",
        "Write what history keeps of one channel of a pair into a file, as CSV or as one\n"
        "message a line.",
    )
    parser.usage = "hedgehogd export --pair PAIR [options] FILE"
    add = parser.add_argument
    add("file", metavar="FILE", help="where to; - for standard output")
    add("--pair", required=True, metavar="PAIR", help="for example BTC-USD")
    add("--channel", default="matches", metavar="NAME", help="default matches")
    add("--since", default="", metavar="WHEN",
        help="a time (2026-01-31T12:00:00Z) or an age (-5m, -2h); default the oldest")  # fmt: skip
    add("--until", default="", metavar="WHEN", help="the same; default now")
    add("--format", choices=FORMATS, help="default csv for FILE.csv, ndjson otherwise")
    add("--history", metavar="DIR", help="where it is kept; default as configured")
    add("--config", type=Path, metavar="FILE", help="configuration that says where")
    return parser


def run_export(argv: Sequence[str]) -> int:
    """Export a stretch of history."""
    arguments = export_parser().parse_args(joined(argv))
    pair, now_us = arguments.pair.upper(), time.time_ns() // 1000
    channel = BY_ALIAS.get(arguments.channel)
    if channel is None:
        hint = nearest(arguments.channel, BY_ALIAS)
        raise OperatorError(f"there is no channel {arguments.channel!r}{hint}", EXIT_USAGE)
    if not is_product_id(pair):
        raise OperatorError(f"{pair!r} is no pair like BTC-USD", EXIT_USAGE)
    since_us, until_us = (
        when_of(flag, text, now_us) if text else default
        for flag, text, default in (
            ("--since", arguments.since, 0),
            ("--until", arguments.until, now_us),
        )
    )
    form = arguments.format or ("csv" if arguments.file.endswith(".csv") else "ndjson")
    directory = directory_of(arguments.history, arguments.config)
    what = Export(directory, channel.topic(pair), since_us, until_us, form, arguments.file)
    count = export(what, sys.stderr)
    if arguments.file != "-":
        print(f"{count} messages in {arguments.file}", file=sys.stderr)
    return 0


def joined(argv: Sequence[str]) -> list[str]:
    """Return the arguments with ages joined to their flags: ``-5m`` looks like a flag itself."""
    joined: list[str] = []
    for argument in argv:
        if joined and joined[-1] in {"--since", "--until"} and argument[:1] == "-":
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def when_of(flag: str, text: str, now_us: int) -> int:
    """Read a time or an age; return µs since the epoch.

    Raises:
        OperatorError: it is neither.
    """
    try:
        start = read_start(text, now_us)
    except BadPosition as error:
        raise OperatorError(f"{flag}: {error}", EXIT_USAGE) from None
    if start.sequence is not None:
        raise OperatorError(f"{flag}: {text!r} is neither a time nor an age", EXIT_USAGE)
    return start.after_us


def directory_of(flag: str | None, file: Path | None) -> Path:
    """Return where history is kept: as the flag says, or as a daemon here would find it.

    Raises:
        OperatorError: the configuration is wrong.
    """
    flags = {} if flag is None else {"history.where": flag}
    directory = history_directory(load(flags, os.environ, file).settings, os.environ)
    return directory or STATE_DIRECTORY


RUN: dict[str, Callable[[Sequence[str]], int]] = {"export": run_export}
"""The commands, by name."""
