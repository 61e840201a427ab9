"""The keys of the configuration, each declared once as a field of ``Settings``.

A field's declaration holds its default, flag, help text and reader. The flag, the line in
``--help``, the environment variable, the key in the file, the example of a file, the output of
``hedgehogd config`` and the effect of SIGHUP are derived from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from hedgehogd.domain import limits
from hedgehogd.settings.readers import (
    AUTO,
    NONE,
    PORT_MAX,
    number,
    one_of,
    read_address,
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

_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # not to listen on
_FEED, _SERVE, _HISTORY, _LIMITS, _DEMO, _LOG, _OTHER = (
    "feed", "serving", "history", "limits", "the demo market", "the log", "other",
)  # fmt: skip
_MIB = 1024 * 1024

_Value = TypeVar("_Value")


class Key(NamedTuple):
    """The declaration of a key, in a field of ``Settings``.

    Attributes:
        default: the value when nothing sets it.
        flag: the flag of the command line; a switch that begins with ``--no-`` sets False.
        metavar: the placeholder for the value in ``--help``; empty for a switch.
        group: the heading in ``--help``.
        help: the meaning, without the default.
        read: turns text or a TOML value into the value; raises ValueError with the words that
            follow "expected".
        reloads: SIGHUP changes the value without a restart.
        has_secrets: the value may be a URL with a password or token, which are not shown.
        note: a remark in the example of a file, for instances that systemd runs.
        field: the attribute of ``Settings``.
    """

    default: Any
    flag: str
    metavar: str
    group: str
    help: str
    read: Callable[[Any], Any]
    reloads: bool = False
    has_secrets: bool = False
    note: str = ""
    field: str = ""

    @property
    def name(self) -> str:
        """The name in the file: ``section.key``, or ``instance``, which is in no section."""
        return self.field.replace("_", ".", 1)

    @property
    def variable(self) -> str:
        """The environment variable."""
        return ENVIRONMENT_PREFIX + self.field.upper()


def key(
    default: _Value,
    flag: str,
    metavar: str,
    group: str,
    text: str,
    read: Callable[[Any], _Value],
    *,
    reloads: bool = False,
    has_secrets: bool = False,
    note: str = "",
) -> _Value:
    """Declare a key as the value of a field of ``Settings``.

    ``Key`` describes the arguments; ``text`` is its ``help``.
    """
    declared = Key(default, flag, metavar, group, text, read, reloads, has_secrets, note)
    return field(default=default, repr=not has_secrets, metadata={Key: declared})


@dataclass(frozen=True)
class Settings:
    """The value of each key; a field that is not set has the default. ``load`` checks values."""

    # fmt: off
    feed_pairs: tuple[str, ...] = key(
        (), "--pairs", "A,B", _FEED,
        "products subscribed upstream from the start on",
        read_pairs, reloads=True,
    )
    feed_channels: tuple[str, ...] = key(
        ("ticker", "matches", "heartbeat"), "--channels", "a,b", _FEED,
        "channels subscribed for --pairs",
        read_channels, reloads=True,
    )
    feed_only_pairs: bool = key(
        False, "--only-pairs", "", _FEED,
        "serve only --pairs; without this, other products are added on demand",
        read_switch,
    )
    feed_where: str = key(
        "coinbase", "--feed", "WHERE", _FEED,
        "coinbase, sandbox, demo, a ws:// or wss:// URL, or a recording's path",
        read_text, has_secrets=True,
    )
    feed_linger_s: float = key(
        limits.LINGER_S, "--linger-s", "SECONDS", _FEED,
        "how long a topic is kept upstream after its last subscriber",
        number(0, 3600),
    )
    feed_stale_after_s: float = key(
        limits.STALE_AFTER_S, "--stale-after-s", "SECONDS", _FEED,
        "silence after which the feed is dialled again",
        number(0.1, 3600),
    )
    feed_message_bytes_max: int = key(
        limits.UPSTREAM_MESSAGE_BYTES_MAX, "--upstream-message-bytes-max", "BYTES", _FEED,
        "longest upstream message",
        whole_number(1024, 1024 * _MIB),
    )
    feed_lines: int = key(
        1, "--lines", "N", _FEED,
        "upstream lines for the same products; with 2, no message is lost when one line ends",
        whole_number(1, limits.LINES_MAX),
    )
    feed_gap_patience_s: float = key(
        limits.GAP_PATIENCE_S, "--gap-patience-s", "SECONDS", _FEED,
        "how long a gap in one line waits for the other line to fill it",
        number(0, 5),
    )
    feed_credentials: str = key(
        "", "--credentials", "DIR", _FEED,
        "directory of the files coinbase-key, coinbase-secret, coinbase-passphrase; systemd's"
        " credentials of these names need no flag",
        read_text,
    )
    serve_port: int = key(
        0, "--port", "PORT", _SERVE,
        "TCP port",
        whole_number(1, PORT_MAX),
    )
    instance: int = key(
        1, "--instance", "N", _SERVE,
        "this daemon's number; without --port it means port 8000+N",
        whole_number(0, INSTANCE_MAX),
    )
    serve_bind: str = key(
        "127.0.0.1", "--bind", "ADDRESS", _SERVE,
        "address to listen on",
        read_text,
    )
    serve_operator_bind: str = key(
        AUTO, "--operator-bind", "ADDRESS:PORT", _SERVE,
        "address of the operator listener, which serves /metrics, lines and instances besides"
        " all that --port serves; none for the runtime socket alone; auto for"
        " 127.0.0.1:9000+N, or none with --port",
        read_operator_bind,
    )
    serve_cors_origins: tuple[str, ...] = key(
        (), "--cors-origins", "A,B", _SERVE,
        "origins of web pages on other hosts that may read this relay, or *",
        read_origins,
    )
    serve_hosts: tuple[str, ...] = key(
        (), "--hosts", "A,B", _SERVE,
        "host names besides localhost that requests to a loopback --bind may have, such as those"
        " that a proxy forwards; * for any, except on the operator listener",
        read_hosts,
    )
    serve_trusted_proxies: tuple[str, ...] = key(
        ("127.0.0.1", "::1"), "--trusted-proxies", "A,B", _SERVE,
        "addresses or networks of proxies that name the subscriber's address in"
        " X-Forwarded-For or Forwarded",
        read_network_list,
    )
    serve_runtime_dir: str = key(
        "", "--runtime-dir", "DIR", _SERVE,
        "directory of the sockets through which the instances of this machine reach each other",
        read_text,
    )
    history_where: str = key(
        "auto", "--history", "DIR", _HISTORY,
        "directory in which the history of --channels of --pairs is kept, shared by the"
        " instances of a machine; none for no history; auto for systemd's state directory, if"
        " there is one, and for a temporary directory with --feed demo",
        read_text,
    )
    history_age_max_s: float = key(
        limits.HISTORY_AGE_MAX_S, "--history-age-max-s", "SECONDS", _HISTORY,
        "how long history is kept",
        number(60, 10_000_000_000),
    )
    history_bytes_max: int = key(
        limits.HISTORY_BYTES_MAX, "--history-bytes-max", "BYTES", _HISTORY,
        "how large history may be",
        whole_number(_MIB, 1024 * 1024 * 1024 * _MIB),
    )
    history_demanded: bool = key(
        False, "--history-demanded", "", _HISTORY,
        "keep all topics that subscribers demand, too",
        read_switch,
    )
    limits_subscribers_max: int = key(
        limits.SUBSCRIBERS_MAX, "--subscribers-max", "N", _LIMITS,
        "refuse more than N subscribers",
        whole_number(1, 1_000_000), reloads=True,
    )
    limits_address_connections_max: int = key(
        limits.ADDRESS_CONNECTIONS_MAX, "--address-connections-max", "N", _LIMITS,
        "connections of one address (IPv6: one /64); trusted proxies are not limited",
        whole_number(1, 1_000_000), reloads=True,
    )
    limits_address_connections_per_s: float = key(
        limits.ADDRESS_CONNECTIONS_PER_S, "--address-connections-per-s", "N", _LIMITS,
        "new connections of one address a second; a burst may have those of ten seconds",
        number(0.1, 1_000_000), reloads=True,
    )
    limits_topics_max: int = key(
        limits.TOPICS_PER_SUBSCRIBER_MAX, "--topics-max", "N", _LIMITS,
        "topics (channel × product) that one subscriber may have",
        whole_number(1, 1_000_000), reloads=True,
    )
    limits_backlog_bytes_max: int = key(
        limits.BACKLOG_BYTES_MAX, "--backlog-bytes-max", "BYTES", _LIMITS,
        "bytes of backlog of one subscriber before its overflow policy applies",
        whole_number(1024, 1024 * _MIB), reloads=True,
    )
    limits_backlog_age_max_s: float = key(
        limits.BACKLOG_AGE_MAX_S, "--backlog-age-max-s", "SECONDS", _LIMITS,
        "age of this backlog before the policy applies",
        number(0.1, limits.BACKLOG_AGE_MAX_S), reloads=True,
    )
    limits_waiting_bytes_max: int = key(
        limits.WAITING_BYTES_MAX, "--waiting-bytes-max", "BYTES", _LIMITS,
        "memory for the backlogs of all subscribers together; above it the subscribers with the"
        " largest backlogs are closed first",
        whole_number(_MIB, 1024 * 1024 * _MIB), reloads=True,
    )
    limits_tape_bytes_max: int = key(
        limits.TAPE_BYTES_MAX, "--tape-bytes-max", "BYTES", _LIMITS,
        "memory for recent messages",
        whole_number(_MIB, 1024 * 1024 * _MIB),
    )
    drain_notice_s: float = key(
        limits.DRAIN_NOTICE_S, "--drain-notice-s", "SECONDS", _LIMITS,
        "time for a load balancer to notice that this instance drains",
        number(0, 300), reloads=True,
        note="hedgehogd@.service sets HEDGEHOGD_DRAIN_NOTICE_S=3, which wins over this file; to"
        " change it for all instances: systemctl edit hedgehogd@.service",
    )
    drain_spread_s: float = key(
        limits.DRAIN_SPREAD_S, "--drain-spread-s", "SECONDS", _LIMITS,
        "time over which the farewells of subscribers are spread",
        number(0, 300), reloads=True,
    )
    drain_timeout_s: float = key(
        limits.DRAIN_TIMEOUT_S, "--drain-timeout-s", "SECONDS", _LIMITS,
        "longest time of a whole drain",
        number(0.1, 3600), reloads=True,
        note="keep it below TimeoutStopSec= of hedgehogd@.service, which is 30 s",
    )
    demo_seed: int = key(
        0, "--demo-seed", "N", _DEMO,
        "seed of --feed demo; 0 for a random one, which is logged",
        whole_number(0, 2**31 - 1),
    )
    demo_rate: float = key(
        1.0, "--demo-rate", "X", _DEMO,
        "how busy the market is; 1 is about the real rate",
        number(0.01, 100),
    )
    demo_modify_orders: bool = key(
        True, "--no-modify-orders", "", _DEMO,
        "never send `modify_order`, for clients of 2018: OrderbookSync and cbpro.OrderBook do"
        " not support it; false in the file and the environment",
        read_switch,
    )
    log_window_s: float = key(
        limits.WINDOW_S, "--log-window-s", "SECONDS", _LOG,
        "how far the window, the newest part of the log, reaches back",
        number(10, 86_400),
    )
    log_window_bytes_max: int = key(
        limits.WINDOW_BYTES_MAX, "--log-window-bytes-max", "BYTES", _LOG,
        "how large the window may be",
        whole_number(2 * limits.SEGMENT_BYTES, 1024 * 1024 * _MIB),
    )
    log_lease_s: float = key(
        limits.LEASE_S, "--log-lease-s", "SECONDS", _LOG,
        "silence of the instance that writes the log after which another one succeeds it",
        number(0.5, limits.LEASE_MAX_S),
    )
    log_level: str = key(
        "info", "--log-level", "LEVEL", _OTHER,
        "debug, info, warning or error",
        one_of("debug", "info", "warning", "error"), reloads=True,
    )
    log_format: str = key(
        "auto", "--log-format", "FORM", _OTHER,
        "json, human, or auto: human on a terminal",
        one_of("auto", "json", "human"),
    )
    # fmt: on

    @property
    def port(self) -> int:
        """The port to listen on: ``serve.port``, by default 8000 + the instance's number."""
        return self.serve_port or FIRST_PORT + self.instance

    @property
    def operator_address(self) -> tuple[str, int] | None:
        """Address and port of the operator listener; None without this listener.

        There is none with ``none``, and with ``auto`` if ``serve.port`` is set.
        """
        if self.serve_operator_bind == AUTO:
            is_numbered = not self.serve_port
            return ("127.0.0.1", FIRST_OPERATOR_PORT + self.instance) if is_numbered else None
        return None if self.serve_operator_bind == NONE else read_address(self.serve_operator_bind)

    @property
    def stream_place(self) -> str:
        """``HOST:PORT`` by which a program of this machine reaches the stream port."""
        return _local_place(self.serve_bind, self.port)

    @property
    def operator_place(self) -> str | None:
        """``HOST:PORT`` of the operator listener for programs of this machine; None without it."""
        address = self.operator_address
        return None if address is None else _local_place(*address)

    def history_directory(self, environment: Mapping[str, str]) -> Path | None:
        """Return the directory of history, by default the state directory that systemd names.

        None for ``none``, and for ``auto`` without a state directory: then only a demo keeps
        history, in a temporary directory.
        """
        where = self.history_where
        if where == NONE:
            return None
        if where != AUTO:
            return Path(where)
        state = environment.get("STATE_DIRECTORY", "").partition(":")[0]
        return Path(state) if state else None


KEYS: tuple[Key, ...] = tuple(
    each.metadata[Key]._replace(field=each.name) for each in fields(Settings)
)
BY_NAME = {each.name: each for each in KEYS}
BY_VARIABLE = {each.variable: each for each in KEYS}


class Reload(NamedTuple):
    """The difference between the settings in force and those read again.

    Attributes:
        settings: those in force after the reload.
        changed: names of the keys with a new value in force, sorted.
        needs_restart: names of the keys with a new value that needs a restart, sorted.
    """

    settings: Settings
    changed: list[str]
    needs_restart: list[str]


def reloaded(old: Settings, new: Settings) -> Reload:
    """Return the difference; its settings are ``old`` with the new values of keys that reload."""
    differs = [each for each in KEYS if getattr(old, each.field) != getattr(new, each.field)]
    values = {each.field: getattr(new, each.field) for each in differs if each.reloads}
    return Reload(
        replace(old, **values),
        sorted(each.name for each in differs if each.reloads),
        sorted(each.name for each in differs if not each.reloads),
    )


def _local_place(host: str, port: int) -> str:
    """Return ``HOST:PORT`` for a URL; for a listener on all addresses, the loopback address."""
    return f"{in_url(_LOOPBACK_OF.get(host, host))}:{port}"


def in_url(host: str) -> str:
    """Return ``host`` as it is written in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
