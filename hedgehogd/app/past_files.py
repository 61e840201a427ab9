"""The recorded past in a directory, for commands that read it beside a running daemon."""

from pathlib import Path

from hedgehogd.domain import limits
from hedgehogd.log.migration.old_store import refuse_old_store
from hedgehogd.log.past_reader import PastReader


def open_past(directory: Path) -> PastReader:
    """Open the archive in ``directory``.

    Raises:
        ArchiveError: there is no archive, or it cannot be read.
        OperatorError: there is a store of an older version (exit status 78); an archive beside it
            may have only a part of its records.
    """
    refuse_old_store(directory)
    return PastReader(directory, limits.ARCHIVE_PAGE_RECORDS_MAX)  # a command reads all of them
