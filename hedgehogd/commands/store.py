"""``hedgehogd store``: verify an archive, and migrate the store of an older version into one."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from hedgehogd.commands.arguments import Parser, new_parser
from hedgehogd.domain.errors import OperatorError

EXIT_DAMAGED = 1
_SHOWN_EVERY_S = 0.5


def store_parser() -> Parser:
    """Return the parser of ``store``."""
    parser = new_parser(
        "store",
        "check    verify an archive: every checksum, the order of its records, its\n"
        "         catalogue. List the gaps. The exit status is 1 if anything is\n"
        "         damaged; gaps alone are not damage.\n"
        "migrate  convert the store of an older version, history.sqlite, into an\n"
        "         archive in the same directory. Stop all instances first. It may be\n"
        "         interrupted at any time: run it again, and it continues. The old\n"
        "         file is renamed to history.sqlite.migrated when the archive is\n"
        "         complete and verified; it is never removed. The exit status is 1 if\n"
        "         a part of the store is damaged; the archive has a gap there.",
    )
    parser.usage = "hedgehogd store {check,migrate} DIR"
    parser.add_argument("action", choices=("check", "migrate"), help="what to do")
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory of the archive")
    return parser


def run(argv: Sequence[str]) -> int:
    """Check or migrate; print damage to stderr, gaps and a summary to stdout.

    Returns:
        The exit status: 0, or 1 if anything is damaged.

    Raises:
        OperatorError: there is nothing to check or to migrate, or it cannot be read or written.
    """
    arguments = store_parser().parse_args(argv)
    from hedgehogd.log.archive.errors import ArchiveError
    from hedgehogd.log.migration.old_store import OldStoreError, refuse_old_store

    try:
        if arguments.action == "migrate":
            return _migrate(arguments.directory)
        refuse_old_store(arguments.directory)
        return _check(arguments.directory)
    except (ArchiveError, OldStoreError) as error:
        raise OperatorError(str(error)) from None


def _check(directory: Path) -> int:
    """Check the archive. Raises ArchiveError."""
    from hedgehogd.log.archive.check import Totals, check

    totals = Totals()
    damages = gaps = 0
    for finding in check(directory, totals):
        damages += finding.is_damage
        gaps += not finding.is_damage
        print(finding.text, file=sys.stderr if finding.is_damage else sys.stdout)
    print(
        f"{totals.messages} messages in {totals.blocks} blocks of {totals.files} files, "
        f"{totals.bytes} bytes: {damages} damaged, {gaps} gaps"
    )
    return EXIT_DAMAGED if damages else 0


def _migrate(directory: Path) -> int:
    """Migrate the store. Raises ArchiveError and OldStoreError."""
    from hedgehogd.log.migration.migrate import migrate  # imports more than a check needs
    from hedgehogd.log.migration.old_store import (
        FILE_NAME,
        MIGRATED_SUFFIX,
        DamagedStore,
        is_old_store,
    )

    kept = directory / (FILE_NAME + MIGRATED_SUFFIX)
    if not is_old_store(directory) and kept.is_file():
        print(f"{directory} is migrated already: its old store is {kept}")
        return 0
    progress = Progress(sys.stderr, time.monotonic)
    try:
        done = migrate(directory, progress.show, progress.warn)
    except DamagedStore as error:
        progress.warn(f"{error}\n{directory / FILE_NAME} is kept as it is")
        return EXIT_DAMAGED
    finally:
        progress.end()
    print(
        f"{done.messages} messages, {done.gaps} gaps and {done.trades} backfilled trades are "
        f"migrated and verified, {done.damages} parts were damaged.\n"
        f"The old store is kept as {done.kept}; remove it when you need it no longer."
    )
    return EXIT_DAMAGED if done.damages else 0


class Progress:
    """The display of a migration: one line that changes, on a terminal alone; problems always.

    Args:
        out: the stream.
        now: seconds of a monotonic clock.
    """

    def __init__(self, out: TextIO, now: Callable[[], float]) -> None:
        self._out = out
        self._now = now
        self._begun = now()
        self._shown = -float("inf")
        self._is_terminal = out.isatty()

    def show(self, part: float, records: int) -> None:
        """Show the part that is done, 0 to 1, and the records written; twice a second at most."""
        now = self._now()
        if not self._is_terminal or now < self._shown + _SHOWN_EVERY_S:
            return
        self._shown = now
        per_s = records / max(now - self._begun, 0.001)
        self._out.write(f"\r{part:4.0%}, {records:,} records, {per_s:,.0f} a second ")
        self._out.flush()

    def warn(self, problem: str) -> None:
        """Print a problem."""
        self.end()
        print(problem, file=self._out)

    def end(self) -> None:
        """End the line."""
        if self._shown > 0:
            print(file=self._out)
            self._shown = -float("inf")
