"""``hedgehogd replay``: serve a time range of history as an exchange."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from hedgehogd.commands.arguments import Parser, checked, new_parser
from hedgehogd.commands.time_range import add_time_range, directory_of, joined
from hedgehogd.domain.errors import EXIT_USAGE, OperatorError
from hedgehogd.settings.keys import BY_NAME
from hedgehogd.settings.readers import PORT_MAX, number, whole_number

_EPILOG = """\
examples:
  hedgehogd replay --since -1h --speed 10 --port 9000
  hedgehogd --feed ws://127.0.0.1:9000/ws-feed --pairs BTC-USD --port 8001
"""


def replay_parser(now_us: int) -> Parser:
    """Return the parser of ``replay``; ages are subtracted from ``now_us``."""
    parser = new_parser(
        "replay",
        "Serve a time range of history as an exchange with Coinbase's protocol, each\n"
        "message byte for byte. The replay starts when the first client has subscribed.",
        _EPILOG,
    )

    def add(flag: str, read: Callable[[Any], Any], metavar: str, text: str, **more: Any) -> None:
        parser.add_argument(flag, type=checked(read), metavar=metavar, help=text, **more)

    add_time_range(parser, now_us, required=True)
    add("--speed", number(0, math.inf), "X",
        "default 1, the recorded speed; 0 is as fast as clients read", default=1.0)  # fmt: skip
    add("--port", whole_number(0, PORT_MAX), "PORT", "TCP port", required=True)
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS", help="default 127.0.0.1")
    add("--history", BY_NAME["history.where"].read, "DIR",
        "directory of history; default history.where of `hedgehogd config`")  # fmt: skip
    add("--pairs", BY_NAME["feed.pairs"].read, "A,B", "only these pairs; default all", default=())
    add(
        "--channels",
        BY_NAME["feed.channels"].read,
        "a,b",
        "only these channels; default all",
        default=(),
    )
    return parser


def run(argv: Sequence[str]) -> int:
    """Serve a time range of history until a signal; SIGINT raises KeyboardInterrupt.

    Raises:
        OperatorError: a flag or the configuration is wrong, or the history cannot be replayed;
            perhaps in an exception group.
    """
    arguments = replay_parser(time.time_ns() // 1000).parse_args(joined(argv))
    if arguments.since >= arguments.until:
        raise OperatorError("--since is not before --until", EXIT_USAGE)
    if arguments.speed == math.inf:
        expected = "0 (as fast as clients read) or a factor above it"
        raise OperatorError(f"speed inf: expected {expected}", EXIT_USAGE)
    import trio

    from hedgehogd.app.clock import AwakeClock
    from hedgehogd.app.memory import calm_garbage_collector
    from hedgehogd.app.replay_server import Replay, replay
    from hedgehogd.logs.setup import configure_logs

    wish = Replay(
        directory=directory_of(arguments.history, None),
        since_us=arguments.since,
        until_us=arguments.until,
        pairs=arguments.pairs,
        channels=arguments.channels,
        speed=arguments.speed,
        host=arguments.bind,
        port=arguments.port,
    )
    configure_logs("info", "auto")
    calm_garbage_collector()
    trio.run(replay, wish, clock=AwakeClock())
    return 0
