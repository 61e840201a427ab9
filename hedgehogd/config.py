"""Configuration: one table of keys; flags, environment, file and defaults fill it.

Flags win over environment, environment over file, file over defaults. An unknown key, an
unknown ``HEDGEHOGD_*`` variable or a bad value is an error that names the key, what was
found, what was expected and the nearest right name.
"""

import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from hedgehogd.domain import limits
from hedgehogd.domain.channel import BY_ALIAS
from hedgehogd.domain.errors import EXIT_CONFIG, EXIT_USAGE, OperatorError
from hedgehogd.domain.product import is_product_id

DEFAULT_FILE = Path("/etc/hedgehogd/hedgehogd.toml")
ENVIRONMENT_PREFIX = "HEDGEHOGD_"
FIRST_PORT = 8000
PORT_MAX = 65535


@dataclass(frozen=True)
class Settings:
    """Everything that can be set; the table ``KEYS`` says what each one means."""

    feed_pairs: tuple[str, ...] = ()
    feed_channels: tuple[str, ...] = ("ticker", "matches", "heartbeat")
    feed_only_pairs: bool = False
    feed_where: str = "coinbase"
    feed_linger_s: float = limits.LINGER_S
    feed_stale_after_s: float = limits.STALE_AFTER_S
    feed_message_bytes_max: int = limits.UPSTREAM_MESSAGE_BYTES_MAX
    serve_port: int = 0
    instance: int = 1
    serve_bind: str = "127.0.0.1"
    serve_cors_origins: tuple[str, ...] = ()
    limits_subscribers_max: int = limits.SUBSCRIBERS_MAX
    limits_topics_max: int = limits.TOPICS_PER_SUBSCRIBER_MAX
    limits_backlog_bytes_max: int = limits.BACKLOG_BYTES_MAX
    limits_backlog_age_max_s: float = limits.BACKLOG_AGE_MAX_S
    limits_tape_bytes_max: int = limits.TAPE_BYTES_MAX
    drain_notice_s: float = limits.DRAIN_NOTICE_S
    drain_spread_s: float = limits.DRAIN_SPREAD_S
    drain_timeout_s: float = limits.DRAIN_TIMEOUT_S
    demo_seed: int = 0
    demo_rate: float = 1.0
    log_level: str = "info"
    log_format: str = "auto"

    @property
    def port(self) -> int:
        """The port to listen on: the one that was set, else 8000 + the instance's number."""
        return self.serve_port or FIRST_PORT + self.instance


class Key(NamedTuple):
    """One thing that can be set.

    Attributes:
        name: in the file, ``section.key``.
        flag: on the command line.
        metavar: what stands for the value in ``--help``; empty for a switch.
        group: the heading in ``--help``.
        help: what it means, without its default.
        read: turns text or a TOML value into the value; raises ValueError saying what was
            expected.
    """

    name: str
    flag: str
    metavar: str
    group: str
    help: str
    read: Callable[[Any], Any]

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


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        expected = f"a whole number from {low} to {high}"
        try:
            number = int(value) if isinstance(value, str | int) else None
        except ValueError:
            number = None
        if number is None or isinstance(value, bool) or not low <= number <= high:
            raise ValueError(expected)
        return number

    return read


def _number(low: float, high: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        expected = f"a number from {low:g} to {high:g}"
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(expected)
        try:
            number = float(value)
        except ValueError:
            raise ValueError(expected) from None
        if not low <= number <= high:
            raise ValueError(expected)
        return number

    return read


def _switch(value: Any) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError("true or false")


_READ, _SERVE, _LIMITS, _DEMO, _OTHER = (
    "what to read", "where to serve", "limits", "the demo market", "other",
)  # fmt: skip
_MIB = 1024 * 1024

KEYS = (
    Key("feed.pairs", "--pairs", "A,B", _READ, "products held from the start", _pairs),
    Key("feed.channels", "--channels", "a,b", _READ, "channels held for them", _channels),
    Key(
        "feed.only_pairs", "--only-pairs", "", _READ,
        "serve only --pairs; others are added on demand otherwise", _switch,
    ),
    Key(
        "feed.where", "--feed", "WHERE", _READ,
        "coinbase, sandbox, demo, a ws:// or wss:// URL, or a recording's path", _text,
    ),
    Key(
        "feed.linger_s", "--linger-s", "SECONDS", _READ,
        "how long a topic is kept upstream after its last subscriber", _number(0, 3600),
    ),
    Key(
        "feed.stale_after_s", "--stale-after-s", "SECONDS", _READ,
        "silence after which the feed is dialled again", _number(0.1, 3600),
    ),
    Key(
        "feed.message_bytes_max", "--upstream-message-bytes-max", "BYTES", _READ,
        "longest upstream message", _integer(1024, 1024 * _MIB),
    ),
    Key("serve.port", "--port", "PORT", _SERVE, "TCP port", _integer(1, PORT_MAX)),
    Key(
        "instance", "--instance", "N", _SERVE,
        "this daemon's number; without --port it means port 8000+N",
        _integer(0, PORT_MAX - FIRST_PORT),
    ),
    Key("serve.bind", "--bind", "ADDRESS", _SERVE, "address to listen on", _text),
    Key(
        "serve.cors_origins", "--cors-origins", "A,B", _SERVE,
        "web origins whose pages may read us, or *", _texts,
    ),
    Key(
        "limits.subscribers_max", "--subscribers-max", "N", _LIMITS,
        "refuse more than N subscribers", _integer(1, 1_000_000),
    ),
    Key(
        "limits.topics_max", "--topics-max", "N", _LIMITS,
        "channels times products that one subscriber may have", _integer(1, 1_000_000),
    ),
    Key(
        "limits.backlog_bytes_max", "--backlog-bytes-max", "BYTES", _LIMITS,
        "bytes a subscriber may fall behind before its policy acts", _integer(1024, 1024 * _MIB),
    ),
    Key(
        "limits.backlog_age_max_s", "--backlog-age-max-s", "SECONDS", _LIMITS,
        "seconds it may fall behind", _number(0.1, limits.BACKLOG_AGE_MAX_S),
    ),
    Key(
        "limits.tape_bytes_max", "--tape-bytes-max", "BYTES", _LIMITS,
        "recent messages kept in memory", _integer(_MIB, 1024 * 1024 * _MIB),
    ),
    Key(
        "drain.notice_s", "--drain-notice-s", "SECONDS", _LIMITS,
        "time for a balancer to notice that we are leaving", _number(0, 300),
    ),
    Key(
        "drain.spread_s", "--drain-spread-s", "SECONDS", _LIMITS,
        "time over which subscribers are sent away", _number(0, 300),
    ),
    Key(
        "drain.timeout_s", "--drain-timeout-s", "SECONDS", _LIMITS,
        "longest wait for subscribers to leave on stop", _number(0.1, 3600),
    ),
    Key(
        "demo.seed", "--demo-seed", "N", _DEMO,
        "seed of --feed demo; 0 draws one and logs it", _integer(0, 2**31 - 1),
    ),
    Key("demo.rate", "--demo-rate", "X", _DEMO, "how busy it is; 1 is real", _number(0.01, 100)),
    Key(
        "log.level", "--log-level", "LEVEL", _OTHER,
        "debug, info, warning or error", _one_of("debug", "info", "warning", "error"),
    ),
    Key(
        "log.format", "--log-format", "FORM", _OTHER,
        "json, human, or auto: human on a terminal", _one_of("auto", "json", "human"),
    ),
)  # fmt: skip

BY_NAME = {key.name: key for key in KEYS}
_BY_VARIABLE = {key.variable: key for key in KEYS}


class Configuration(NamedTuple):
    """Settings, and where each of them came from.

    Attributes:
        settings: what is in force.
        origins: for each key's name, ``flag --x``, ``environment X``, ``file PATH`` or ``default``.
    """

    settings: Settings
    origins: dict[str, str]


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a sentence that offers the nearest right name, or nothing."""
    found = difflib.get_close_matches(name, list(names), 1, 0.6)
    return f"\n  Did you mean {found[0]!r}?" if found else ""


def load(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None
) -> Configuration:
    """Put the configuration together.

    Args:
        flags: values given on the command line, by key's name.
        environment: the process's environment.
        file: the file named by ``--config``; None for the default one, if it exists.

    Raises:
        OperatorError: a bad flag (exit 64), or anything else that is wrong (exit 78).
    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys(BY_NAME, "default")
    path = file or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    if path is not None:
        for name, value in _read_file(path).items():
            values[name] = _read(BY_NAME[name], value, f"{path}: {name}", EXIT_CONFIG)
            origins[name] = f"file {path}"
    for variable, text in sorted(environment.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        key = _BY_VARIABLE.get(variable)
        if key is None:
            raise OperatorError(
                f"there is no environment variable {variable}" + nearest(variable, _BY_VARIABLE)
            )
        values[key.name] = _read(key, text, f"environment variable {variable}", EXIT_CONFIG)
        origins[key.name] = f"environment {variable}"
    for name, value in flags.items():
        key = BY_NAME[name]
        values[name] = _read(key, value, key.flag, EXIT_USAGE)
        origins[name] = f"flag {key.flag}"
    settings = Settings(**{BY_NAME[name].field: value for name, value in values.items()})
    _check(settings)
    return Configuration(settings, origins)


def _read(key: Key, value: Any, where: str, status: int) -> Any:
    try:
        return key.read(value)
    except ValueError as error:
        raise OperatorError(f"{where}: found {value!r}\n  Expected {error}.", status) from None


def _read_file(path: Path) -> dict[str, Any]:
    """Return the file's values by key's name."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: {error}") from None
    found: dict[str, Any] = {}
    for section, value in tables.items():
        rows = (
            {f"{section}.{k}": v for k, v in value.items()}
            if isinstance(value, dict)
            else {section: value}
        )
        for name, item in rows.items():
            if name not in BY_NAME:
                raise OperatorError(f"{path}: there is no key {name!r}" + nearest(name, BY_NAME))
            found[name] = item
    return found


def _check(settings: Settings) -> None:
    """Check what no single value can show."""
    if settings.feed_only_pairs and not settings.feed_pairs:
        raise OperatorError("--only-pairs serves nothing without --pairs", EXIT_USAGE)


def default_of(key: Key) -> str:
    """Return the default of ``key`` for people; empty for none."""
    defaults = {field.name: field.default for field in fields(Settings)}
    return shown(defaults[key.field])


def shown(value: Any) -> str:
    """Return a value for people."""
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
