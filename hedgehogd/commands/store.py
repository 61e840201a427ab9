"""``hedgehogd store check``: verify an archive, and list its gaps."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hedgehogd.commands.arguments import Parser, new_parser
from hedgehogd.domain.errors import OperatorError
from hedgehogd.log.archive.check import Totals, check
from hedgehogd.log.archive.errors import ArchiveError

EXIT_DAMAGED = 1


def store_parser() -> Parser:
    """Return the parser of ``store``."""
    parser = new_parser(
        "store",
        "Verify an archive: every checksum, the order of its records, its catalogue.\n"
        "List the gaps. The exit status is 1 if anything is damaged; gaps alone are not\n"
        "damage. An archive is the future store of the log: no instance writes one yet.",
    )
    parser.usage = "hedgehogd store check DIR"
    parser.add_argument("action", choices=("check",), help="what to do")
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory of the archive")
    return parser


def run(argv: Sequence[str]) -> int:
    """Check the archive; print damage to stderr, gaps and a summary to stdout.

    Returns:
        The exit status: 0, or 1 if anything is damaged.

    Raises:
        OperatorError: there is no archive, or it cannot be read.
    """
    arguments = store_parser().parse_args(argv)
    totals = Totals()
    damages = gaps = 0
    try:
        for finding in check(arguments.directory, totals):
            damages += finding.is_damage
            gaps += not finding.is_damage
            print(finding.text, file=sys.stderr if finding.is_damage else sys.stdout)
    except ArchiveError as error:
        raise OperatorError(str(error)) from None
    print(
        f"{totals.messages} messages in {totals.blocks} blocks of {totals.files} files, "
        f"{totals.bytes} bytes: {damages} damaged, {gaps} gaps"
    )
    return EXIT_DAMAGED if damages else 0
