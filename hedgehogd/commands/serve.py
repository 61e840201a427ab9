"""``hedgehogd serve``: run the daemon, or check its configuration."""

import faulthandler
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hedgehogd.commands.arguments import Parser, add_keys, configuration_of, new_parser
from hedgehogd.domain.errors import EXIT_CONFIG, EXIT_USAGE, OperatorError
from hedgehogd.domain.feed_address import parse_url
from hedgehogd.domain.limits import THREAD_TURN_S
from hedgehogd.domain.secret import hide_in_url
from hedgehogd.settings.credentials import read_credentials
from hedgehogd.settings.load import nearest

_STDERR = 2
FEED_NAMES = ("coinbase", "sandbox", "demo")

_EPILOG = """\
every option can also be set in the file (key in brackets) or in the
environment (HEDGEHOGD_ + key in capitals, dots as underscores). Flags win over
environment, environment over file, file over defaults. `hedgehogd config`
shows each value in force, and its origin.

other commands:
  hedgehogd simulate         the exchange simulator on a port of its own
  hedgehogd replay           a time range of history, served as an exchange
  hedgehogd tail URL|PAIR    print a stream, one line a message
  hedgehogd config           the configuration in force, and its origins
  hedgehogd status           state of the instances of this machine
  hedgehogd export FILE      a time range of history, as CSV or NDJSON
  hedgehogd store check DIR  verify an archive, and list its gaps
  hedgehogd store migrate DIR  make an archive of an older history.sqlite
  hedgehogd haproxy-config   configuration of HAProxy before several instances

signals:
  SIGTERM, SIGINT            drain, then exit 0; a second one, more than a
                             second later, exits at once
  SIGHUP                     read pairs, channels, limits, drain times and the
                             log level again; other keys need a restart

exit status:
  0 drained   64 bad usage   69 refused by upstream   70 bug   78 bad config

examples:
  hedgehogd --pairs BTC-USD,ETH-USD --port 8001
  hedgehogd --feed demo --port 8001                    no internet needed
  hedgehogd tail BTC-USD                               watch it
"""


def serve_parser() -> Parser:
    """Return the parser of ``serve``."""
    parser = new_parser(
        "serve",
        "Read market data from Coinbase once and fan it out to WebSocket, SSE and\n"
        "NDJSON subscribers.",
        _EPILOG,
    )
    add_keys(parser)
    return parser


def run(argv: Sequence[str]) -> int:
    """Run the daemon until it has drained; with ``--check`` only check its configuration.

    Errors while it runs may be in an exception group.

    Returns:
        The exit status 0.

    Raises:
        OperatorError: the configuration is wrong, or the machine does not allow the start.
        FeedError: the exchange refused the first connection permanently.
        KeyboardInterrupt: a second signal ended the drain early.
    """
    arguments = serve_parser().parse_args(argv)
    configuration = configuration_of(arguments)
    settings = configuration.settings
    try:
        _check_feed(settings.feed_where)
    except OperatorError as error:
        by_flag = configuration.origins["feed.where"].startswith("flag ")
        raise OperatorError(str(error), EXIT_USAGE if by_flag else EXIT_CONFIG) from None
    if arguments.check:
        read_credentials(settings.feed_credentials, os.environ)
        print("the configuration is valid")
        return 0
    import trio

    from hedgehogd.app.clock import AwakeClock
    from hedgehogd.app.daemon import serve
    from hedgehogd.logs.setup import configure_logs

    configure_logs(settings.log_level, settings.log_format, settings.instance)
    sys.setswitchinterval(THREAD_TURN_S)
    faulthandler.enable(_STDERR)  # a SIGABRT of the watchdog then prints where the loop hangs
    trio.run(serve, settings, lambda: configuration_of(arguments).settings, clock=AwakeClock())
    return 0


def _check_feed(where: str) -> None:
    """Check that ``where`` names a feed; the feed is not contacted.

    Raises:
        OperatorError: it is none of the names, no WebSocket URL and no recording.
    """
    if where in FEED_NAMES:
        return
    if "://" in where:
        parse_url(where)
        return
    from hedgehogd.protocol.recording import find_recording

    path = Path(where)
    try:
        find_recording(path)
    except OperatorError as error:
        why = str(error).replace(str(path), hide_in_url(where))
        raise OperatorError(
            f"{why}\n  Valid feeds are also {', '.join(FEED_NAMES)} and ws:// or wss:// URLs."
            f"{nearest(where, FEED_NAMES)}"
        ) from None
