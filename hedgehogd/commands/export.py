"""``hedgehogd export``: write a time range of history into a file."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hedgehogd.commands.arguments import Parser, new_parser
from hedgehogd.commands.time_range import add_time_range, directory_of, joined
from hedgehogd.domain.channel import BY_ALIAS
from hedgehogd.domain.errors import EXIT_USAGE, OperatorError
from hedgehogd.domain.product import is_product_id
from hedgehogd.settings.load import nearest

FORMATS = ("ndjson", "csv")
_SUFFIXES = {"": "ndjson", ".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}


def export_parser(now_us: int) -> Parser:
    """Return the parser of ``export``; ages are subtracted from ``now_us``."""
    parser = new_parser(
        "export",
        "Write the recorded messages of one channel of a pair into a file, as CSV or as\n"
        "one JSON message a line. Backfilled trades are at the place of their gap; the\n"
        "gaps that remain are listed on stderr.",
    )
    parser.usage = "hedgehogd export --pair PAIR [options] FILE"
    add = parser.add_argument
    add("file", metavar="FILE", help="file to write; - for standard output")
    add("--pair", required=True, metavar="PAIR", help="for example BTC-USD")
    add("--channel", default="matches", metavar="NAME", help="default matches")
    add_time_range(parser, now_us, default=0)
    add("--format", choices=FORMATS, help="default by the suffix of FILE; ndjson without one")
    add("--history", metavar="DIR", help="directory of history; default as configured")
    add("--strict", action="store_true", help="exit 1 if a gap remains among the messages")
    add("--config", type=Path, metavar="FILE", help="configuration file that names this directory")
    return parser


def _format_of(file: str) -> str:
    """Return the format that the suffix of ``file`` means.

    Raises:
        OperatorError: the suffix is unknown; programs for its format could not read the file.
    """
    suffix = Path(file).suffix.lower()
    form = _SUFFIXES.get(suffix)
    if form is None:
        raise OperatorError(
            f"{file}: the suffix {suffix} is not known{nearest(suffix, _SUFFIXES)}\n"
            f"  Expected {', '.join(filter(None, _SUFFIXES))}, or --format.",
            EXIT_USAGE,
        )
    return form


def run(argv: Sequence[str]) -> int:
    """Export a time range of history; print the number of messages and the gaps to stderr.

    Returns:
        The exit status: 1 with ``--strict`` if a gap remains, else 0.

    Raises:
        OperatorError: a flag or the configuration is wrong, nothing is recorded in the range, or
            the archive or the file cannot be used.
    """
    arguments = export_parser(time.time_ns() // 1000).parse_args(joined(argv))
    pair = arguments.pair.upper()
    channel = BY_ALIAS.get(arguments.channel)
    if channel is None:
        hint = nearest(arguments.channel, BY_ALIAS)
        raise OperatorError(f"there is no channel {arguments.channel!r}{hint}", EXIT_USAGE)
    if not is_product_id(pair):
        raise OperatorError(f"{pair!r} is not a pair like BTC-USD", EXIT_USAGE)
    form = arguments.format or _format_of(arguments.file)
    from hedgehogd.app.export import Export, export, report

    directory = directory_of(arguments.history, arguments.config)
    since, until = arguments.since, arguments.until
    wish = Export(directory, channel.topic(pair), since, until, form, arguments.file)
    exported = export(wish, sys.stderr)
    if arguments.file != "-":
        print(f"{exported.messages} messages in {arguments.file}", file=sys.stderr)
    report(exported.gaps, sys.stderr)
    return 1 if exported.gaps and arguments.strict else 0
