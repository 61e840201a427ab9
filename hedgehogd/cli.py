"""The command line: ``hedgehogd [serve] …``, ``simulate``, ``tail``, ``config`` and the rest."""

import argparse
import faulthandler
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import structlog
import trio

from hedgehogd.app.clock import AwakeClock
from hedgehogd.app.daemon import serve
from hedgehogd.commands.arguments import (
    COMMANDS,
    haproxy_parser,
    serve_parser,
    simulate_parser,
    status_parser,
    tail_parser,
)
from hedgehogd.commands.export import run_export
from hedgehogd.commands.haproxy import Cluster, clash_of, haproxy_config
from hedgehogd.commands.replay import run_replay
from hedgehogd.commands.status import status
from hedgehogd.commands.stream_printer import Tail, tail
from hedgehogd.domain.channel import BY_ALIAS
from hedgehogd.domain.errors import (
    EXIT_BUG,
    EXIT_CONFIG,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    FeedError,
    OperatorError,
)
from hedgehogd.domain.feed_address import parse_url
from hedgehogd.domain.limits import THREAD_TURN_S
from hedgehogd.domain.product import is_product_id
from hedgehogd.domain.secret import hide_in_url
from hedgehogd.logs.setup import configure_logs
from hedgehogd.protocol.recording import find_recording
from hedgehogd.settings.credentials import read_credentials
from hedgehogd.settings.example import example_file
from hedgehogd.settings.keys import BY_NAME, KEYS, Key
from hedgehogd.settings.load import Configuration, load, nearest, shown_value
from hedgehogd.simulator import Simulation, serve_exchange
from hedgehogd.simulator.faults import fault_list
from hedgehogd.simulator.keys import TEST_KEY, TEST_PASSPHRASE, TEST_SECRET

log = structlog.get_logger("cli")

EXIT_INTERRUPTED = 130
_STDERR = 2
FEED_NAMES = ("coinbase", "sandbox", "demo")


def _configuration(arguments: argparse.Namespace) -> Configuration:
    flags = {
        key.name: value
        for key in KEYS
        if (value := getattr(arguments, key.field, None)) is not None
    }
    return load(flags, os.environ, arguments.config)


def run_serve(argv: Sequence[str]) -> int:
    """Run the daemon, or check its configuration."""
    arguments = serve_parser().parse_args(argv)
    configuration = _configuration(arguments)
    settings = configuration.settings
    try:
        _check_feed(settings.feed_where)
    except OperatorError as error:
        by_flag = configuration.origins["feed.where"].startswith("flag ")
        raise OperatorError(str(error), EXIT_USAGE if by_flag else EXIT_CONFIG) from None
    if arguments.check:
        read_credentials(settings.feed_credentials, os.environ)
        print("the configuration is sound")
        return 0
    configure_logs(settings.log_level, settings.log_format, settings.instance)
    sys.setswitchinterval(THREAD_TURN_S)
    faulthandler.enable(_STDERR)  # the watchdog's SIGABRT then says where the loop hung
    trio.run(serve, settings, lambda: _configuration(arguments).settings, clock=AwakeClock())
    return 0


def _check_feed(where: str) -> None:
    """Refuse a feed that cannot be one; whether it answers is another question."""
    if where in FEED_NAMES:
        return
    if "://" in where:
        parse_url(where)
        return
    path = Path(where)
    try:
        find_recording(path)
    except OperatorError as error:
        why = str(error).replace(str(path), hide_in_url(where))
        raise OperatorError(
            f"{why}\n  Other feeds are {', '.join(FEED_NAMES)} and ws:// or wss:// URLs."
            f"{nearest(where, FEED_NAMES)}"
        ) from None


def run_status(argv: Sequence[str]) -> int:
    """Show how the instances are."""
    arguments = status_parser().parse_args(argv)
    settings = _configuration(arguments).settings
    operator = None if arguments.serve_port else settings.operator_place
    places = (operator, settings.stream_place) if operator else (settings.stream_place,)
    return status(places, sys.stdout)


def run_config(argv: Sequence[str]) -> int:
    """Print every key, its value and its origin; or an example of a file."""
    arguments = serve_parser("config").parse_args(argv)
    if arguments.example:
        print(example_file(), end="")
        return 0
    configuration = _configuration(arguments)
    rows = [_config_row(key, configuration) for key in BY_NAME.values()]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, value, origin in rows:
        print(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}")
    return 0


def _config_row(key: Key, configuration: Configuration) -> tuple[str, str, str]:
    return key.name, shown_value(key, configuration.settings), configuration.origins[key.name]


def run_simulate(argv: Sequence[str]) -> int:
    """Run the simulator until a signal."""
    arguments = simulate_parser().parse_args(argv)
    if "help" in arguments.fault:
        print("hedgehogd simulate --fault NAME[:PARAM]\n")
        print(fault_list(), end="")
        print("\nThe same by REST: GET /faults, POST /faults/NAME?param=&product=&client=")
        return 0
    configure_logs("info", "auto")
    simulation = Simulation(
        host=arguments.bind,
        port=arguments.port,
        seed=arguments.seed,
        pairs=_names(arguments.pairs.upper()),
        rate=arguments.rate,
        recording=arguments.recording,
        speed=arguments.speed,
        modifies=not arguments.no_modify_orders,
        require_auth=arguments.require_auth,
        faults=tuple(arguments.fault),
        control=True,
    )
    trio.run(_simulate, simulation)
    return 0


async def _simulate(simulation: Simulation) -> None:
    async with trio.open_nursery() as nursery:
        address = await nursery.start(serve_exchange, simulation)
        # A key that opens nothing; whoever is to sign needs all three.
        keys = {"key": TEST_KEY, "secret": TEST_SECRET, "passphrase": TEST_PASSPHRASE}
        log.info(
            "simulating", url=address.url, rest=address.rest_url, seed=address.seed,
            **(keys if simulation.require_auth else {}),
        )  # fmt: skip


def run_tail(argv: Sequence[str]) -> int:
    """Print a stream."""
    arguments = tail_parser().parse_args(argv)
    what, pairs = arguments.what, _names(arguments.pairs.upper())
    if "://" not in what:
        if not is_product_id(what.upper()):
            shown = hide_in_url(what)
            raise OperatorError(f"{shown!r} is neither a URL nor a pair like BTC-USD", EXIT_USAGE)
        place = _configuration(arguments).settings.stream_place
        what, pairs = f"ws://{place}/ws-feed", (what.upper(), *pairs)
    else:
        try:
            parse_url(what)
        except OperatorError as error:
            raise OperatorError(str(error), EXIT_USAGE) from None
    channels = _names(arguments.channels)
    for name in channels:
        if name not in BY_ALIAS:
            raise OperatorError(
                f"there is no channel {name!r}{nearest(name, BY_ALIAS)}", EXIT_USAGE
            )
    form = arguments.format or ("human" if sys.stdout.isatty() else "raw")
    status: int = trio.run(tail, Tail(what, pairs, channels, form, arguments.count))
    return status


def run_haproxy_config(argv: Sequence[str]) -> int:
    """Print the configuration of HAProxy."""
    cluster = Cluster(**vars(haproxy_parser().parse_args(argv)))
    if clash := clash_of(cluster):
        raise OperatorError(clash, EXIT_USAGE)
    print(haproxy_config(cluster), end="")
    return 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


_RUN: dict[str, Callable[[Sequence[str]], int]] = {
    "serve": run_serve,
    "config": run_config,
    "simulate": run_simulate,
    "tail": run_tail,
    "status": run_status,
    "replay": run_replay,
    "haproxy-config": run_haproxy_config,
    "export": run_export,
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
