"""``hedgehogd tail``: print a stream, one line a message."""

import sys
from collections.abc import Sequence

from hedgehogd.commands.arguments import (
    Parser,
    add_where,
    checked,
    configuration_of,
    new_parser,
    split_names,
)
from hedgehogd.domain.channel import BY_ALIAS
from hedgehogd.domain.errors import EXIT_USAGE, OperatorError
from hedgehogd.domain.feed_address import parse_url
from hedgehogd.domain.product import is_product_id
from hedgehogd.domain.secret import hide_in_url
from hedgehogd.settings.load import nearest
from hedgehogd.settings.readers import whole_number


def tail_parser() -> Parser:
    """Return the parser of ``tail``."""
    parser = new_parser("tail", "Print a stream, one line a message.")
    parser.usage = "hedgehogd tail URL|PAIR [options]"
    add = parser.add_argument
    add("source", metavar="URL|PAIR", help="a ws:// or wss:// URL, or a pair of the local daemon")
    add("--pairs", default="", metavar="A,B", help="products to subscribe to at URL")
    add("--channels", default="ticker,matches", metavar="a,b", help="default ticker,matches")
    add_where(parser, "its port")
    add("--format", choices=("human", "raw"), default=None,
        help="default human on a terminal, raw otherwise")  # fmt: skip
    add(
        "--count",
        type=checked(whole_number(0, 2**63)),
        default=0,
        metavar="N",
        help="stop after N messages",
    )
    return parser


def run(argv: Sequence[str]) -> int:
    """Print a stream; return the exit status of ``print_stream``.

    Raises:
        OperatorError: an argument or the configuration is wrong.
    """
    arguments = tail_parser().parse_args(argv)
    source, pairs = arguments.source, split_names(arguments.pairs.upper())
    if "://" not in source:
        if not is_product_id(source.upper()):
            shown = hide_in_url(source)
            raise OperatorError(f"{shown!r} is neither a URL nor a pair like BTC-USD", EXIT_USAGE)
        place = configuration_of(arguments).settings.stream_place
        source, pairs = f"ws://{place}/ws-feed", (source.upper(), *pairs)
    else:
        try:
            parse_url(source)
        except OperatorError as error:
            raise OperatorError(str(error), EXIT_USAGE) from None
    channels = split_names(arguments.channels)
    for name in channels:
        if name not in BY_ALIAS:
            raise OperatorError(
                f"there is no channel {name!r}{nearest(name, BY_ALIAS)}", EXIT_USAGE
            )
    form = arguments.format or ("human" if sys.stdout.isatty() else "raw")
    import trio

    from hedgehogd.commands.stream_printer import Stream, print_stream

    status: int = trio.run(print_stream, Stream(source, pairs, channels, form, arguments.count))
    return status
