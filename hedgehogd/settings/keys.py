"""The table of keys: everything that can be set, its flag, its meaning and how it is read.

One row here makes the flag, the line in ``--help``, the environment variable and the key in
the file; only the default lives elsewhere, in ``load.Settings``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from hedgehogd.domain import limits
from hedgehogd.settings.readers import (
    PORT_MAX,
    number,
    one_of,
    read_channels,
    read_hosts,
    read_network_list,
    read_operator_bind,
    read_origins,
    read_pairs,
    read_switch,
    read_text,
    whole_number,
)

ENVIRONMENT_PREFIX = "HEDGEHOGD_"
FIRST_PORT = 8000
FIRST_OPERATOR_PORT = 9000
INSTANCE_MAX = PORT_MAX - FIRST_OPERATOR_PORT


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


_READ, _SERVE, _HISTORY, _LIMITS, _DEMO, _OTHER = (
    "what to read", "where to serve", "history", "limits", "the demo market", "other",
)  # fmt: skip
_MIB = 1024 * 1024

KEYS = (
    Key(
        "feed.pairs", "--pairs", "A,B", _READ, "products held from the start", read_pairs,
        reloads=True,
    ),
    Key(
        "feed.channels", "--channels", "a,b", _READ, "channels held for them", read_channels,
        reloads=True,
    ),
    Key(
        "feed.only_pairs", "--only-pairs", "", _READ,
        "serve only --pairs; others are added on demand otherwise", read_switch,
    ),
    Key(
        "feed.where", "--feed", "WHERE", _READ,
        "coinbase, sandbox, demo, a ws:// or wss:// URL, or a recording's path", read_text,
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
        " credentials of these names need no flag", read_text,
    ),
    Key("serve.port", "--port", "PORT", _SERVE, "TCP port", whole_number(1, PORT_MAX)),
    Key(
        "instance", "--instance", "N", _SERVE,
        "this daemon's number; without --port it means port 8000+N",
        whole_number(0, INSTANCE_MAX),
    ),
    Key("serve.bind", "--bind", "ADDRESS", _SERVE, "address to listen on", read_text),
    Key(
        "serve.operator_bind", "--operator-bind", "ADDRESS:PORT", _SERVE,
        "where operators are served: /metrics, lines and instances beside all that --port serves;"
        " none for the runtime socket alone; auto for 127.0.0.1:9000+N, and for none with --port",
        read_operator_bind,
    ),
    Key(
        "serve.cors_origins", "--cors-origins", "A,B", _SERVE,
        "origins of web pages on other hosts that may read this relay, or *", read_origins,
    ),
    Key(
        "serve.hosts", "--hosts", "A,B", _SERVE,
        "names beside localhost that a loopback --bind is asked by, as behind a proxy; * for any,"
        " but on the operator listener", read_hosts,
    ),
    Key(
        "serve.trusted_proxies", "--trusted-proxies", "A,B", _SERVE,
        "addresses or networks whose X-Forwarded-For or Forwarded names the subscriber's address",
        read_network_list,
    ),
    Key(
        "serve.runtime_dir", "--runtime-dir", "DIR", _SERVE,
        "directory of the sockets by which the instances of this machine find each other",
        read_text,
    ),
    Key(
        "history.where", "--history", "DIR", _HISTORY,
        "directory in which --channels of --pairs are kept, shared by the instances of a machine;"
        " none for nowhere; auto for systemd's state directory, where there is one, and for"
        " --feed demo a temporary one", read_text,
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
        " know it; false in the file and the environment", read_switch,
    ),
    Key(
        "log.level", "--log-level", "LEVEL", _OTHER,
        "debug, info, warning or error", one_of("debug", "info", "warning", "error"), reloads=True,
    ),
    Key(
        "log.format", "--log-format", "FORM", _OTHER,
        "json, human, or auto: human on a terminal", one_of("auto", "json", "human"),
    ),
)  # fmt: skip

BY_NAME = {key.name: key for key in KEYS}
BY_VARIABLE = {key.variable: key for key in KEYS}
