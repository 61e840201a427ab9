"""What the command line takes: a parser for each command, and ``--version``."""

import argparse
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from hedgehogd import __version__
from hedgehogd.commands.haproxy import Cluster, addresses, instance_numbers, networks, word
from hedgehogd.domain.errors import EXIT_USAGE
from hedgehogd.domain.secret import hide_in_text
from hedgehogd.settings.keys import BY_NAME, KEYS, PORT_MAX, number, whole_number
from hedgehogd.settings.load import default_of, nearest

COMMANDS = (
    "serve", "simulate", "tail", "config", "status", "replay", "export", "haproxy-config",
)  # fmt: skip

_EPILOG = """\
every option can also be set in the file (key in brackets) or in the
environment (HEDGEHOGD_ + key in capitals, dots as underscores). Flags win over
environment, environment over file, file over defaults. See what is in force,
and where it came from, with `hedgehogd config`.

other commands:
  hedgehogd simulate         the exchange simulator on a port of its own
  hedgehogd replay           a stretch of history, served as an exchange
  hedgehogd tail URL|PAIR    print a stream, one line a message
  hedgehogd config           effective configuration, and where it came from
  hedgehogd status           how the instances of this machine are
  hedgehogd export FILE      a stretch of history, as CSV or NDJSON
  hedgehogd haproxy-config   configuration of HAProxy before several instances

signals:
  SIGTERM, SIGINT            drain, then exit 0; a second one, more than a
                             second later, exits at once
  SIGHUP                     read pairs, channels, limits, drain times and the
                             log level again; the rest needs a restart

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
        hint = nearest(unknown, flags if unknown.startswith("-") else COMMANDS)
        hint = hint or f"\n  See `{self.prog} --help`."
        self.exit(EXIT_USAGE, f"hedgehogd: {hide_in_text(message)}{hint}\n")


def version_text() -> str:
    """Return version and commit: a build has it in a file, a checkout in git."""
    package = Path(__file__).resolve().parents[1]
    try:
        commit = (package / "commit").read_text(encoding="utf-8").strip()
    except OSError:
        pass
    else:
        return f"hedgehogd {__version__} ({commit})"
    root = package.parent
    if (root / ".git").exists():
        git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude", "*"]
        try:
            found = subprocess.run(git, capture_output=True, text=True, check=True, timeout=5)  # noqa: S603
        except (OSError, subprocess.SubprocessError):
            pass
        else:
            return f"hedgehogd {__version__} ({found.stdout.strip()})"
    return f"hedgehogd {__version__}"


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        sys.stdout.write(version_text() + "\n")
        parser.exit(0)


def checked(read: Callable[[Any], Any]) -> Callable[[str], Any]:
    """Return ``read``, which says what was expected, in the way that argparse repeats it."""

    def read_checked(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"found {text!r}, expected {error}") from None

    return read_checked


def _add_keys(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every key of the configuration, in its group."""
    groups: dict[str, Any] = {}
    for key in KEYS:
        group = groups.get(key.group)
        if group is None:
            group = groups[key.group] = parser.add_argument_group(key.group)
        default = default_of(key)
        has_default = default not in {"", "0", "false"} and key.metavar
        default = f"; default {default}" if has_default else ""
        help_text = f"{key.help}{default} [{key.name}]".replace("%", "%%")
        if key.metavar:
            group.add_argument(
                key.flag, dest=key.field, metavar=key.metavar, default=None, help=help_text
            )
        else:
            group.add_argument(
                key.flag, dest=key.field, action="store_const", default=None, help=help_text,
                const=not key.flag.startswith("--no-"),
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


def new_parser(command: str, description: str, epilog: str = "") -> Parser:
    """Return a parser that knows ``--help`` alone."""
    parser = Parser(
        prog=f"hedgehogd {command}",
        usage=f"hedgehogd {'[serve]' if command == 'serve' else command} [options]",
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
    parser = new_parser(command, says[command], _EPILOG if command == "serve" else "")
    parser.add_argument("--version", action=_Version, nargs=0, help="show version and commit")
    _add_keys(parser)
    if command == "config":
        parser.add_argument("--example", action="store_true", help="print a file of all defaults")
    return parser


def simulate_parser() -> Parser:
    """Return the parser of ``simulate``."""
    parser = new_parser(
        "simulate", "Serve a simulated exchange that speaks Coinbase's protocol, REST included."
    )
    add = parser.add_argument
    add(
        "--port",
        type=checked(whole_number(0, PORT_MAX)),
        default=9000,
        metavar="PORT",
        help="TCP port; default 9000",
    )
    add("--bind", default="127.0.0.1", metavar="ADDRESS", help="default 127.0.0.1")
    add(
        "--seed",
        type=checked(whole_number(0, 2**63)),
        metavar="N",
        help="same seed, same market; drawn and printed if absent",
    )
    add("--pairs", default="", metavar="A,B", help="products beside the built-in ones")
    add(
        "--rate",
        type=checked(number(0, math.inf)),
        default=1.0,
        metavar="X",
        help="how busy it is; default 1, near real",
    )
    add("--recording", type=Path, metavar="PATH", help="replay this instead of a market")
    add("--speed", type=checked(number(0, math.inf)), default=1.0, metavar="X",
        help="how fast to replay; default 1, 0 is as fast as clients read")  # fmt: skip
    add(
        "--no-modify-orders",
        action="store_true",
        help="never send `modify_order`, which OrderbookSync and cbpro.OrderBook do not know",
    )
    add("--require-auth", action="store_true",
        help="give level2, level3 and full only to those who sign with the test key, "
        "which is logged at the start")  # fmt: skip
    add("--fault", action="append", default=[], metavar="NAME[:PARAM]",
        help="let this go wrong again and again; can be repeated; `--fault help` lists "
        "what there is")  # fmt: skip
    return parser


def _add_where(parser: argparse.ArgumentParser, port_says: str) -> None:
    """Add what decides where the local daemon is: its configuration, and the keys in it."""
    says = {
        "serve.port": port_says,
        "instance": "of this number",
        "serve.bind": "at this address",
    }
    group = parser.add_argument_group(
        "which local hedgehogd; without these flags as `hedgehogd serve` is configured here"
    )
    for name, text in says.items():
        key = BY_NAME[name]
        group.add_argument(
            key.flag, dest=key.field, type=checked(key.read), metavar=key.metavar, help=text
        )
    group.add_argument("--config", type=Path, metavar="FILE", help="its configuration file")


def status_parser() -> Parser:
    """Return the parser of ``status``."""
    parser = new_parser(
        "status",
        "Show how the instances of this machine are. Exits with 0 when the one that was asked\n"
        "takes new subscribers, with 1 when it does not. The operator listener is asked; a\n"
        "stream port shows its own instance alone.",
    )
    _add_where(parser, "the port to ask, and no other")
    return parser


def tail_parser() -> Parser:
    """Return the parser of ``tail``."""
    parser = new_parser("tail", "Print a stream, one line a message.")
    parser.usage = "hedgehogd tail URL|PAIR [options]"
    add = parser.add_argument
    add("what", metavar="URL|PAIR", help="a ws:// or wss:// URL, or a pair of the local hedgehogd")
    add("--pairs", default="", metavar="A,B", help="products to subscribe to at URL")
    add("--channels", default="ticker,matches", metavar="a,b", help="default ticker,matches")
    _add_where(parser, "of the local one")
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


def haproxy_parser() -> Parser:
    """Return the parser of ``haproxy-config``; what it finds are fields of ``Cluster``."""
    parser = new_parser(
        "haproxy-config",
        "Print the configuration of HAProxy before the instances of this machine, for\n"
        "example to /etc/haproxy/haproxy.cfg.",
    )
    default = Cluster()
    port = checked(whole_number(1, PORT_MAX))
    count = checked(whole_number(1, 10_000_000))

    def add(flag: str, read: Callable[[str], Any], metavar: str, says: str) -> None:
        parser.add_argument(flag, type=read, metavar=metavar, default=argparse.SUPPRESS, help=says)

    add("--instances", checked(instance_numbers), "SET",
        "their numbers; instance N listens on 127.0.0.1, port 8000+N; 1,3,5-7 for "
        "example; default 1-4")  # fmt: skip
    add("--bind", checked(addresses), "A,B",
        "public addresses; default *, which is every IPv4 one")  # fmt: skip
    add("--port", port, "PORT", "public port for HTTP; default 80")
    add("--https-port", port, "PORT", "public port for HTTPS; default 443")
    add("--certificate", checked(word), "FILE",
        "PEM file of certificate, chain and key; HTTPS is served with it only")  # fmt: skip
    add("--statistics-port", port, "PORT", "for statistics and Prometheus; default 8404")
    add("--connections-max", count, "N",
        "open public connections; default what the instances can hold")  # fmt: skip
    add("--address-connections-max", count, "N",
        "of one address at once, and of new ones in 10 s; default "
        f"{default.address_connections_max}")  # fmt: skip
    add("--address-requests-max", count, "N",
        f"of one address in 10 s; default {default.address_requests_max}")  # fmt: skip
    add("--trusted-proxies", checked(networks), "A,B",
        "addresses or networks of proxies in front, whose X-Forwarded-For names the client; "
        f"default {','.join(default.trusted_proxies)}")  # fmt: skip
    parser.add_argument("--unprivileged", action="store_true",
        help="for HAProxy run by an ordinary user or in a container: it keeps its user "
        "and logs to standard output")  # fmt: skip
    return parser
