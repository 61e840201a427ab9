"""``hedgehogd config``: print the configuration in force, or an example of its file."""

from collections.abc import Sequence

from hedgehogd.commands.arguments import Parser, add_keys, configuration_of, new_parser
from hedgehogd.settings.example import example_file
from hedgehogd.settings.keys import KEYS, Key
from hedgehogd.settings.load import Configuration, shown_value


def config_parser() -> Parser:
    """Return the parser of ``config``."""
    parser = new_parser(
        "config", "Show the configuration in force, and where each value came from."
    )
    add_keys(parser)
    parser.add_argument("--example", action="store_true", help="print a file of all defaults")
    return parser


def run(argv: Sequence[str]) -> int:
    """Print every key, its value and its origin, or with ``--example`` a file of all defaults.

    Returns:
        The exit status 0.

    Raises:
        OperatorError: the configuration is wrong.
    """
    arguments = config_parser().parse_args(argv)
    if arguments.example:
        print(example_file(), end="")
        return 0
    configuration = configuration_of(arguments)
    rows = [_config_row(key, configuration) for key in KEYS]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, value, origin in rows:
        print(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}")
    return 0


def _config_row(key: Key, configuration: Configuration) -> tuple[str, str, str]:
    return key.name, shown_value(key, configuration.settings), configuration.origins[key.name]
