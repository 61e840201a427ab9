"""The table of keys: everything that can be set, its flag, its meaning and how it is read.

One row here makes the flag, the line in ``--help``, the environment variable and the key in
the file; only the default lives elsewhere, in ``load.Settings``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from hedgehogd.domain import limits
from hedgehogd.domain.channel import BY_ALIAS
from hedgehogd.domain.networks import read_networks
from hedgehogd.domain.product import is_product_id
from hedgehogd.domain.secret import hide_in_url
from hedgehogd.protocol.access import ANY, read_authority, read_origin

ENVIRONMENT_PREFIX = "HEDGEHOGD_"
FIRST_PORT = 8000
FIRST_OPERATOR_PORT = 9000
PORT_MAX = 65535
INSTANCE_MAX = PORT_MAX - FIRST_OPERATOR_PORT
AUTO, NONE = "auto", "none"


class Key(NamedTuple):
    """One thing that can be set.

    Attributes:
        name: in the file, ``section.key``.
        flag: on the command line; a switch that begins with ``--no-`` sets False.
        metavar: what stands for the value in ``--help``; empty for a switch.
        group: the heading in ``--help``.
        help: what it means, without its default.
        read: turns text or a TOML value into the value; raises ValueError saying what was
            expected.
        reloads: SIGHUP changes it without a restart.
        has_secrets: the value may be a URL with a password or token; it is shown without.
    """

    name: str
    flag: str
    metavar: str
    group: str
    help: str
    read: Callable[[Any], Any]
    reloads: bool = False
    has_secrets: bool = False

    @property
    def field(self) -> str:
        """The attribute of ``Settings``."""
        return self.name.replace(".", "_")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return ENVIRONMENT_PREFIX + self.field.upper()


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ValueError("a list of names")
    return tuple(dict.fromkeys(item.strip() for item in value if item.strip()))


def _pairs(value: Any) -> tuple[str, ...]:
    pairs = tuple(item.upper() for item in _texts(value))
    for pair in pairs:
        if not is_product_id(pair):
            raise ValueError(f"pairs such as BTC-USD, and {pair!r} is none")
    return pairs


def _channels(value: Any) -> tuple[str, ...]:
    names = _texts(value)
    for name in names:
        if name not in BY_ALIAS:
            raise ValueError(f"channels among {', '.join(sorted(BY_ALIAS))}; {name!r} is none")
    return names


def _networks(value: Any) -> tuple[str, ...]:
    texts = _texts(value)
    try:
        read_networks(texts)
    except ValueError as error:
        raise ValueError(f"addresses and networks such as 10.0.0.0/8; {error}") from None
    return texts


def read_address(text: str) -> tuple[str, int]:
    """Read ``ADDRESS:PORT``; an IPv6 address stands in brackets.

    Raises:
        ValueError: says what was expected.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        is_sound = ":" in host
    else:
        is_sound = not set(host) & set(":[]")
    if not (host and colon and is_sound and port.isascii() and port.isdecimal()):
        raise ValueError("ADDRESS:PORT such as 127.0.0.1:9001 or [::1]:9001, or none")
    return host, whole_number(1, PORT_MAX)(port)


def _operator_bind(value: Any) -> str:
    text = _text(value)
    if text not in {AUTO, NONE}:
        read_address(text)
    return text


def _hosts(value: Any) -> tuple[str, ...]:
    hosts = []
    for text in _texts(value):
        is_bare = text.count(":") > 1 and not text.startswith("[")  # an IPv6 address
        named = read_authority(f"[{text}]" if is_bare else text)
        if text != ANY and (named is None or named.port is not None):
            raise ValueError(f"names or addresses without a port, or *; {text!r} is none")
        hosts.append(ANY if named is None else named.host)
    return tuple(hosts)


def _origins(value: Any) -> tuple[str, ...]:
    texts = _texts(value)
    for text in texts:
        if text != ANY and read_origin(text) is None:
            raise ValueError(
                f"origins such as https://app.example, or *; {hide_in_url(text)!r} is none"
            )
    return texts


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a text that is not empty")
    return value


def _one_of(*choices: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return str(value)

    return read


def whole_number(low: int, high: int) -> Callable[[Any], int]:
    """Return what reads a whole number between ``low`` and ``high``, both included."""

    def read(value: Any) -> int:
        expected = f"a whole number from {low} to {high}"
        try:
            found = int(value) if isinstance(value, str | int) else None
        except ValueError:
            found = None
        if found is None or isinstance(value, bool) or not low <= found <= high:
            raise ValueError(expected)
        return found

    return read


def number(low: float, high: float) -> Callable[[Any], float]:
    """Return what reads a number between ``low`` and ``high``, both included."""

    def read(value: Any) -> float:
        expected = f"a number from {low:g} to {high:g}"
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(expected)
        try:
            found = float(value)
        except ValueError:
            raise ValueError(expected) from None
        if not low <= found <= high:
            raise ValueError(expected)
        return found

    return read


def _switch(value: Any) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError("true or false")


_READ, _SERVE, _HISTORY, _LIMITS, _DEMO, _OTHER = (
    "what to read", "where to serve", "history", "limits", "the demo market", "other",
)  # fmt: skip
_MIB = 1024 * 1024

KEYS = (
    Key(
        "feed.pairs", "--pairs", "A,B", _READ, "products held from the start", _pairs,
        reloads=True,
    ),
    Key(
        "feed.channels", "--channels", "a,b", _READ, "channels held for them", _channels,
        reloads=True,
    ),
    Key(
        "feed.only_pairs", "--only-pairs", "", _READ,
        "serve only --pairs; others are added on demand otherwise", _switch,
    ),
    Key(
        "feed.where", "--feed", "WHERE", _READ,
        "coinbase, sandbox, demo, a ws:// or wss:// URL, or a recording's path", _text,
        has_secrets=True,
    ),
    Key(
        "feed.linger_s", "--linger-s", "SECONDS", _READ,
        "how long a topic is kept upstream after its last subscriber", number(0, 3600),
    ),
    Key(
        "feed.stale_after_s", "--stale-after-s", "SECONDS", _READ,
        "silence after which the feed is dialled again", number(0.1, 3600),
    ),
    Key(
        "feed.message_bytes_max", "--upstream-message-bytes-max", "BYTES", _READ,
        "longest upstream message", whole_number(1024, 1024 * _MIB),
    ),
    Key(
        "feed.lines", "--lines", "N", _READ,
        "upstream connections for the same products; with 2 neither's end loses anything",
        whole_number(1, limits.LINES_MAX),
    ),
    Key(
        "feed.gap_patience_s", "--gap-patience-s", "SECONDS", _READ,
        "how long a hole in one line waits for the other to fill it", number(0, 5),
    ),
    Key(
        "feed.credentials", "--credentials", "DIR", _READ,
        "directory of the files coinbase-key, coinbase-secret, coinbase-passphrase; systemd's"
        " credentials of these names need no flag", _text,
    ),
    Key("serve.port", "--port", "PORT", _SERVE, "TCP port", whole_number(1, PORT_MAX)),
    Key(
        "instance", "--instance", "N", _SERVE,
        "this daemon's number; without --port it means port 8000+N",
        whole_number(0, INSTANCE_MAX),
    ),
    Key("serve.bind", "--bind", "ADDRESS", _SERVE, "address to listen on", _text),
    Key(
        "serve.operator_bind", "--operator-bind", "ADDRESS:PORT", _SERVE,
        "where operators are served: /metrics, lines and instances beside all that --port serves;"
        " none for the runtime socket alone; auto for 127.0.0.1:9000+N, and for none with --port",
        _operator_bind,
    ),
    Key(
        "serve.cors_origins", "--cors-origins", "A,B", _SERVE,
        "origins of web pages on other hosts that may read this relay, or *", _origins,
    ),
    Key(
        "serve.hosts", "--hosts", "A,B", _SERVE,
        "names beside localhost that a loopback --bind is asked by, as behind a proxy; * for any,"
        " but on the operator listener", _hosts,
    ),
    Key(
        "serve.trusted_proxies", "--trusted-proxies", "A,B", _SERVE,
        "addresses or networks whose X-Forwarded-For or Forwarded names the subscriber's address",
        _networks,
    ),
    Key(
        "serve.runtime_dir", "--runtime-dir", "DIR", _SERVE,
        "directory of the sockets by which the instances of this machine find each other", _text,
    ),
    Key(
        "history.where", "--history", "DIR", _HISTORY,
        "directory in which --channels of --pairs are kept, shared by the instances of a machine;"
        " none for nowhere; auto for systemd's state directory, where there is one, and for"
        " --feed demo a temporary one", _text,
    ),
    Key(
        "history.age_max_s", "--history-age-max-s", "SECONDS", _HISTORY,
        "how long it is kept", number(60, 10_000_000_000),
    ),
    Key(
        "history.bytes_max", "--history-bytes-max", "BYTES", _HISTORY,
        "how large it may be", whole_number(_MIB, 1024 * 1024 * 1024 * _MIB),
    ),
    Key(
        "limits.subscribers_max", "--subscribers-max", "N", _LIMITS,
        "refuse more than N subscribers", whole_number(1, 1_000_000), reloads=True,
    ),
    Key(
        "limits.address_connections_max", "--address-connections-max", "N", _LIMITS,
        "connections of one address (IPv6: one /64); trusted proxies are not limited",
        whole_number(1, 1_000_000), reloads=True,
    ),
    Key(
        "limits.address_connections_per_s", "--address-connections-per-s", "N", _LIMITS,
        "new connections of one address a second, and at once those of ten seconds",
        number(0.1, 1_000_000), reloads=True,
    ),
    Key(
        "limits.topics_max", "--topics-max", "N", _LIMITS,
        "channels times products that one subscriber may have", whole_number(1, 1_000_000),
        reloads=True,
    ),
    Key(
        "limits.backlog_bytes_max", "--backlog-bytes-max", "BYTES", _LIMITS,
        "bytes a subscriber may fall behind before its policy acts",
        whole_number(1024, 1024 * _MIB), reloads=True,
    ),
    Key(
        "limits.backlog_age_max_s", "--backlog-age-max-s", "SECONDS", _LIMITS,
        "seconds it may fall behind", number(0.1, limits.BACKLOG_AGE_MAX_S), reloads=True,
    ),
    Key(
        "limits.waiting_bytes_max", "--waiting-bytes-max", "BYTES", _LIMITS,
        "memory for all that waits for subscribers, all of them together; beyond it the largest"
        " backlogs are closed first",
        whole_number(_MIB, 1024 * 1024 * _MIB), reloads=True,
    ),
    Key(
        "limits.tape_bytes_max", "--tape-bytes-max", "BYTES", _LIMITS,
        "memory for recent messages", whole_number(_MIB, 1024 * 1024 * _MIB),
    ),
    Key(
        "drain.notice_s", "--drain-notice-s", "SECONDS", _LIMITS,
        "time for a balancer to notice that we are leaving", number(0, 300), reloads=True,
    ),
    Key(
        "drain.spread_s", "--drain-spread-s", "SECONDS", _LIMITS,
        "time over which subscribers are sent away", number(0, 300), reloads=True,
    ),
    Key(
        "drain.timeout_s", "--drain-timeout-s", "SECONDS", _LIMITS,
        "longest wait for subscribers to leave on stop", number(0.1, 3600), reloads=True,
    ),
    Key(
        "demo.seed", "--demo-seed", "N", _DEMO,
        "seed of --feed demo; 0 draws one and logs it", whole_number(0, 2**31 - 1),
    ),
    Key("demo.rate", "--demo-rate", "X", _DEMO, "how busy it is; 1 is real", number(0.01, 100)),
    Key(
        "demo.modify_orders", "--no-modify-orders", "", _DEMO,
        "never send `modify_order`, for clients of 2018: OrderbookSync and cbpro.OrderBook do not"
        " know it; false in the file and the environment", _switch,
    ),
    Key(
        "log.level", "--log-level", "LEVEL", _OTHER,
        "debug, info, warning or error", _one_of("debug", "info", "warning", "error"), reloads=True,
    ),
    Key(
        "log.format", "--log-format", "FORM", _OTHER,
        "json, human, or auto: human on a terminal", _one_of("auto", "json", "human"),
    ),
)  # fmt: skip

BY_NAME = {key.name: key for key in KEYS}
BY_VARIABLE = {key.variable: key for key in KEYS}
