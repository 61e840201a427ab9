"""Flags: the parser of every command, the flags that commands share, and ``--version``."""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from hedgehogd import __version__
from hedgehogd.domain.errors import EXIT_USAGE
from hedgehogd.domain.secret import hide_in_text
from hedgehogd.settings.keys import BY_NAME, KEYS
from hedgehogd.settings.load import Configuration, load, nearest, shown

COMMANDS = (
    "serve", "simulate", "tail", "config", "status", "replay", "export", "store",
    "haproxy-config",
)  # fmt: skip


class Parser(argparse.ArgumentParser):
    """An argument parser with the exit status 64 and a suggestion for a misspelt flag."""

    def error(self, message: str) -> NoReturn:
        """Print the error and a hint to stderr, and exit with status 64."""
        unknown = message.removeprefix("unrecognized arguments: ").split("=")[0].split(" ")[0]
        flags = [flag for action in self._actions for flag in action.option_strings]
        hint = nearest(unknown, flags if unknown.startswith("-") else COMMANDS)
        hint = hint or f"\n  See `{self.prog} --help`."
        self.exit(EXIT_USAGE, f"hedgehogd: {hide_in_text(message)}{hint}\n")


def version_text() -> str:
    """Return name, version and, if it is known, commit, for example ``hedgehogd 1.0 (abc1234)``.

    A build has the commit in a file, a checkout in git.
    """
    package = Path(__file__).resolve().parents[1]
    try:
        commit = (package / "commit").read_text(encoding="utf-8").strip()
    except OSError:
        pass
    else:
        return f"hedgehogd {__version__} ({commit})"
    root = package.parent
    if (root / ".git").exists():
        import subprocess

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
    """Return ``read`` for ``argparse``: a ValueError becomes an ArgumentTypeError.

    ``argparse`` prints only the messages of its own exception type.
    """

    def read_checked(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"found {text!r}, expected {error}") from None

    return read_checked


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every key of the configuration, in its group.

    Also add ``--version``, ``--config`` and ``--check``. A flag that is absent has the value None.
    """
    parser.add_argument("--version", action=_Version, nargs=0, help="show version and commit")
    groups: dict[str, Any] = {}
    for key in KEYS:
        group = groups.get(key.group)
        if group is None:
            group = groups[key.group] = parser.add_argument_group(key.group)
        default = shown(key.default)
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
        help="check the configuration and exit",
    )  # fmt: skip


def new_parser(command: str, description: str, epilog: str = "") -> Parser:
    """Return a parser with ``--help`` and no other flag."""
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


def add_where(parser: argparse.ArgumentParser, port_help: str) -> None:
    """Add the flags that locate the local daemon: ``--config``, and three of its keys."""
    texts = {
        "serve.port": port_help,
        "instance": "its number",
        "serve.bind": "its address",
    }
    group = parser.add_argument_group(
        "the local daemon; default the one that `hedgehogd serve` would start here"
    )
    for name, text in texts.items():
        key = BY_NAME[name]
        group.add_argument(
            key.flag, dest=key.field, type=checked(key.read), metavar=key.metavar, help=text
        )
    group.add_argument("--config", type=Path, metavar="FILE", help="its configuration file")


def configuration_of(arguments: argparse.Namespace) -> Configuration:
    """Return the configuration in force with these flags, of a parser with ``--config``.

    The environment and the file are read again by each call.

    Raises:
        OperatorError: the configuration is wrong.
    """
    flags = {
        key.name: value
        for key in KEYS
        if (value := getattr(arguments, key.field, None)) is not None
    }
    return load(flags, os.environ, arguments.config)


def split_names(text: str) -> tuple[str, ...]:
    """Return the names in ``text``, which commas separate, without empty ones."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
