"""The command line: ``hedgehogd [serve] …``, ``simulate``, ``tail``, ``config``."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import structlog
import trio

from hedgehogd import __version__
from hedgehogd.config import (
    BY_NAME,
    KEYS,
    Configuration,
    Key,
    default_of,
    load,
    nearest,
    shown,
)
from hedgehogd.daemon import serve
from hedgehogd.domain.channel import BY_ALIAS
from hedgehogd.domain.errors import (
    EXIT_BUG,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    FeedError,
    OperatorError,
)
from hedgehogd.domain.product import is_product_id
from hedgehogd.logs import configure_logs
from hedgehogd.simulator import Simulation, serve_exchange
from hedgehogd.tail import Tail, default_url, tail

log = structlog.get_logger("cli")

COMMANDS = ("serve", "simulate", "tail", "config")
EXIT_INTERRUPTED = 130

_EPILOG = """\
every option can also be set in the file (key in brackets) or in the
environment (HEDGEHOGD_ + key in capitals, dots as underscores). Flags win over
environment, environment over file, file over defaults. See what is in force,
and where it came from, with `hedgehogd config`.

other commands:
  hedgehogd simulate         the exchange simulator on a port of its own
  hedgehogd tail URL|PAIR    print a stream, one line a message
  hedgehogd config           effective configuration, and where it came from

signals:
  SIGTERM, SIGINT            drain, then exit 0; a second one, more than a
                             second later, exits at once

exit status:
  0 drained   64 bad usage   69 upstream refused us   70 bug   78 bad config

examples:
  hedgehogd --pairs BTC-USD,ETH-USD --port 8001
  hedgehogd --feed demo --port 8001                    no internet needed
  hedgehogd tail BTC-USD                               watch it
"""


class Parser(argparse.ArgumentParser):
    """argparse with our exit status, and the nearest right flag for a wrong one."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in two lines and exit with 64."""
        unknown = message.removeprefix("unrecognized arguments: ").split("=")[0].split(" ")[0]
        flags = [flag for action in self._actions for flag in action.option_strings]
        hint = nearest(unknown, flags) if unknown.startswith("-") else ""
        hint = hint or f"\n  See `{self.prog} --help`."
        self.exit(EXIT_USAGE, f"hedgehogd: {message}{hint}\n")


def version_text() -> str:
    """Return version and, in a checkout, commit."""
    here = Path(__file__).resolve().parent.parent
    if (here / ".git").exists():
        git = ["git", "-C", str(here), "describe", "--always", "--dirty", "--exclude", "*"]
        try:
            found = subprocess.run(git, capture_output=True, text=True, check=True, timeout=5)  # noqa: S603
        except (OSError, subprocess.SubprocessError):
            pass
        else:
            return f"hedgehogd {__version__} ({found.stdout.strip()})"
    return f"hedgehogd {__version__}"


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        parser.exit(0, version_text() + "\n")


def _add_keys(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every key of the configuration, in its group."""
    groups: dict[str, Any] = {}
    for key in KEYS:
        group = groups.get(key.group)
        if group is None:
            group = groups[key.group] = parser.add_argument_group(key.group)
        default = default_of(key)
        default = "" if default in {"", "0", "false"} else f"; default {default}"
        help_text = f"{key.help}{default} [{key.name}]".replace("%", "%%")
        if key.metavar:
            group.add_argument(
                key.flag, dest=key.field, metavar=key.metavar, default=None, help=help_text
            )
        else:
            group.add_argument(
                key.flag, dest=key.field, action="store_const", const=True, default=None,
                help=help_text,
            )  # fmt: skip
    group = groups["other"]
    group.add_argument(
        "--config", type=Path, metavar="FILE",
        help="default /etc/hedgehogd/hedgehogd.toml, if it exists",
    )  # fmt: skip
    group.add_argument(
        "--check", action="store_true",
        help="read the configuration, say whether it is sound, exit",
    )  # fmt: skip


def _parser(command: str, description: str, epilog: str = "") -> Parser:
    parser = Parser(
        prog=f"hedgehogd {command}",
        usage=f"hedgehogd {command} [options]",
        description=description,
        epilog=epilog,
        formatter_class=partial(
            argparse.RawDescriptionHelpFormatter, width=80, max_help_position=27
        ),
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help="show this text")
    return parser


def serve_parser(command: str = "serve") -> Parser:
    """Return the parser of ``serve`` and ``config``, which take the same options."""
    says = {
        "serve": "Read market data from Coinbase once and fan it out to WebSocket, SSE and\n"
        "NDJSON subscribers.",
        "config": "Show the configuration in force, and where each value came from.",
    }
    parser = _parser(command, says[command], _EPILOG if command == "serve" else "")
    parser.add_argument("--version", action=_Version, nargs=0, help="show version and commit")
    _add_keys(parser)
    return parser


def simulate_parser() -> Parser:
    """Return the parser of ``simulate``."""
    parser = _parser(
        "simulate", "Serve a simulated exchange that speaks Coinbase's protocol, REST included."
    )
    add = parser.add_argument
    add("--port", type=int, default=9000, metavar="PORT", help="TCP port; default 9000")
    add("--bind", default="127.0.0.1", metavar="ADDRESS", help="default 127.0.0.1")
    add("--seed", type=int, metavar="N", help="same seed, same market; drawn and printed if absent")
    add("--pairs", default="", metavar="A,B", help="products beside the built-in ones")
    add("--rate", type=float, default=1.0, metavar="X", help="how busy it is; default 1, near real")
    add("--recording", type=Path, metavar="PATH", help="replay this instead of a market")
    add("--speed", type=float, default=1.0, metavar="X",
        help="how fast to replay; default 1, 0 is as fast as clients read")  # fmt: skip
    return parser


def tail_parser() -> Parser:
    """Return the parser of ``tail``."""
    parser = _parser("tail", "Print a stream, one line a message.")
    parser.usage = "hedgehogd tail URL|PAIR [options]"
    add = parser.add_argument
    add("what", metavar="URL|PAIR", help="a ws:// or wss:// URL, or a pair of the local hedgehogd")
    add("--pairs", default="", metavar="A,B", help="products to subscribe to at URL")
    add("--channels", default="ticker,matches", metavar="a,b", help="default ticker,matches")
    add("--port", type=int, default=8001, metavar="PORT", help="of the local one; default 8001")
    add("--format", choices=("human", "raw"), default=None,
        help="default human on a terminal, raw otherwise")  # fmt: skip
    add("--count", type=int, default=0, metavar="N", help="stop after N messages")
    return parser


def _configuration(arguments: argparse.Namespace) -> Configuration:
    flags = {
        key.name: value for key in KEYS if (value := getattr(arguments, key.field)) is not None
    }
    return load(flags, os.environ, arguments.config)


def run_serve(argv: Sequence[str]) -> int:
    """Run the daemon, or check its configuration."""
    arguments = serve_parser().parse_args(argv)
    settings = _configuration(arguments).settings
    if arguments.check:
        print("the configuration is sound")
        return 0
    configure_logs(settings.log_level, settings.log_format, settings.instance)
    trio.run(serve, settings)
    return 0


def run_config(argv: Sequence[str]) -> int:
    """Print every key, its value and its origin."""
    configuration = _configuration(serve_parser("config").parse_args(argv))
    rows = [_config_row(key, configuration) for key in BY_NAME.values()]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, value, origin in rows:
        print(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}")
    return 0


def _config_row(key: Key, configuration: Configuration) -> tuple[str, str, str]:
    settings = configuration.settings
    value = settings.port if key.name == "serve.port" else getattr(settings, key.field)
    return key.name, shown(value), configuration.origins[key.name]


def run_simulate(argv: Sequence[str]) -> int:
    """Run the simulator until a signal."""
    arguments = simulate_parser().parse_args(argv)
    configure_logs("info", "auto")
    simulation = Simulation(
        host=arguments.bind,
        port=arguments.port,
        seed=arguments.seed,
        pairs=_names(arguments.pairs.upper()),
        rate=arguments.rate,
        recording=arguments.recording,
        speed=arguments.speed,
    )
    trio.run(_simulate, simulation)
    return 0


async def _simulate(simulation: Simulation) -> None:
    async with trio.open_nursery() as nursery:
        address = await nursery.start(serve_exchange, simulation)
        log.info("simulating", url=address.url, rest=address.rest_url, seed=address.seed)


def run_tail(argv: Sequence[str]) -> int:
    """Print a stream."""
    arguments = tail_parser().parse_args(argv)
    what, pairs = arguments.what, _names(arguments.pairs.upper())
    if "://" not in what:
        if not is_product_id(what.upper()):
            raise OperatorError(f"{what!r} is neither a URL nor a pair like BTC-USD", EXIT_USAGE)
        what, pairs = default_url(arguments.port), (what.upper(), *pairs)
    elif not what.startswith(("ws://", "wss://")):
        raise OperatorError(f"{what!r}: tail reads ws:// and wss:// URLs", EXIT_USAGE)
    channels = _names(arguments.channels)
    for name in channels:
        if name not in BY_ALIAS:
            raise OperatorError(
                f"there is no channel {name!r}{nearest(name, BY_ALIAS)}", EXIT_USAGE
            )
    form = arguments.format or ("human" if sys.stdout.isatty() else "raw")
    status: int = trio.run(tail, Tail(what, pairs, channels, form, arguments.count))
    return status


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


_RUN: dict[str, Callable[[Sequence[str]], int]] = {
    "serve": run_serve,
    "config": run_config,
    "simulate": run_simulate,
    "tail": run_tail,
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Run the command line; return the exit status. Never shows a traceback to a person."""
    command, rest = "serve", list(argv)
    if rest and not rest[0].startswith("-"):
        command = rest.pop(0)
        if command not in _RUN:
            hint = nearest(command, COMMANDS) or f"\n  Commands are {', '.join(COMMANDS)}."
            print(f"hedgehogd: there is no command {command!r}{hint}", file=sys.stderr)
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
    structlog.get_logger("bug").critical("this is a bug of hedgehogd", exc_info=error)
    return EXIT_BUG
