"""Load the configuration from flags, environment, file and defaults.

Flags win over environment, environment over file, file over defaults. An unknown key or
``HEDGEHOGD_*`` variable is an error that names it and, if one is similar, the nearest valid name.
A bad value is an error that names the key, the value found and the values expected.
"""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hedgehogd.domain.errors import EXIT_CONFIG, EXIT_USAGE, OperatorError
from hedgehogd.domain.nearest import nearest as nearest_name
from hedgehogd.domain.secret import hide_in_text, hide_in_url
from hedgehogd.settings.keys import (
    BY_NAME,
    BY_VARIABLE,
    ENVIRONMENT_PREFIX,
    KEYS,
    Key,
    Settings,
)

DEFAULT_FILE = Path("/etc/hedgehogd/hedgehogd.toml")


class Configuration(NamedTuple):
    """Settings, and the origin of each value.

    Attributes:
        settings: the values in force.
        origins: for each key's name, ``flag --x``, ``environment X``, ``file PATH`` or ``default``.
    """

    settings: Settings
    origins: dict[str, str]


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a line of an error text that suggests the nearest name; empty if none is similar.

    The line begins with a line feed.
    """
    return _hint(name, {each: each for each in names})


def load(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None
) -> Configuration:
    """Load the configuration.

    Args:
        flags: values of the command line, by name of the key.
        environment: the process's environment.
        file: the file that ``--config`` names; None for the default file, if it exists.

    Raises:
        OperatorError: a flag is wrong (exit status 64); the file cannot be read, or a key or value
            in it or in the environment is wrong (exit status 78); or several values together
            violate a condition (64 or 78).
    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys(BY_NAME, "default")
    path = file or _default_file()
    if path is not None:
        for name, value in _read_file(path).items():
            values[name] = _read(BY_NAME[name], value, f"{path}: {name}", EXIT_CONFIG)
            origins[name] = f"file {path}"
    for variable, text in sorted(environment.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        key = BY_VARIABLE.get(variable)
        if key is None:
            raise OperatorError(
                f"there is no environment variable {variable}{_nearest_variable(variable)}"
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


def _nearest_variable(variable: str) -> str:
    """Return a line that suggests the nearest variable; empty when none is similar.

    Names are compared without the prefix; with it, all of them would be similar.
    """
    by_flag = {_flag_word(key).upper(): key.variable for key in KEYS}
    by_ending = {key.field.upper(): key.variable for key in KEYS}
    return _hint(variable.removeprefix(ENVIRONMENT_PREFIX), by_flag | by_ending)


def _nearest_key(name: str) -> str:
    return _hint(name, {_flag_word(key): key.name for key in KEYS} | {n: n for n in BY_NAME})


def _flag_word(key: Key) -> str:
    """Return the flag as an operator may write it in a file by mistake: ``--x-s`` as ``x_s``."""
    return key.flag.removeprefix("--").replace("-", "_")


def _hint(name: str, meant: Mapping[str, str]) -> str:
    """Return a line that suggests a key or variable; empty when no name is similar to ``name``.

    ``meant`` maps each name that an operator may write to the suggestion for it.
    """
    alike = nearest_name(name, meant)
    return "" if alike is None else f"\n  Did you mean {meant[alike]!r}?"


def _default_file() -> Path | None:
    """Return the default file if it exists, else None.

    A file that this user may not see counts as one that exists: reading it reports the error.
    """
    try:
        return DEFAULT_FILE if DEFAULT_FILE.exists() else None
    except OSError:
        return DEFAULT_FILE


def _read(key: Key, value: Any, where: str, status: int) -> Any:
    try:
        return key.read(value)
    except ValueError as error:
        found = hide_in_text(repr(value))
        raise OperatorError(f"{where}: found {found}\n  Expected {error}.", status) from None


def _read_file(path: Path) -> dict[str, Any]:
    """Return the unchecked values of a TOML file, by name of the key: ``section.key``.

    Raises:
        OperatorError: the file cannot be read, is not TOML, or has an unknown key.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}") from None
    except RecursionError:
        raise OperatorError(f"{path}: it is nested too deeply") from None
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
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
                raise OperatorError(f"{path}: there is no key {name!r}" + _nearest_key(name))
            found[name] = item
    return found


def _check(settings: Settings) -> None:
    """Check the conditions that involve several values.

    Raises:
        OperatorError: a condition is violated.
    """
    if settings.feed_only_pairs and not settings.feed_pairs:
        raise OperatorError("--only-pairs without --pairs would serve no product", EXIT_USAGE)
    if settings.drain_notice_s + settings.drain_spread_s >= settings.drain_timeout_s:
        raise OperatorError(
            f"drain.notice_s ({settings.drain_notice_s:g}) and drain.spread_s"
            f" ({settings.drain_spread_s:g}) use all of drain.timeout_s"
            f" ({settings.drain_timeout_s:g}).\n  Expected some time left for farewells."
        )


def shown_value(key: Key, settings: Settings) -> str:
    """Return the value in force for ``key`` as text, without secrets."""
    value = settings.port if key.name == "serve.port" else getattr(settings, key.field)
    return hide_in_url(shown(value)) if key.has_secrets else shown(value)


def shown(value: Any) -> str:
    """Return a value as text, as a flag or variable sets it; a list is joined with commas."""
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
