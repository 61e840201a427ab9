"""The recorded past in a directory, for commands that read it beside a running daemon."""

from pathlib import Path

from hedgehogd.domain import limits
from hedgehogd.domain.errors import OperatorError
from hedgehogd.history.reader import Reader
from hedgehogd.history.schema import FILE_NAME, StoreError
from hedgehogd.log.archive.errors import ArchiveError
from hedgehogd.log.archive.files import CATALOGUE
from hedgehogd.log.past_reader import PastReader

PAST_ERRORS = (ArchiveError, StoreError)
"""The errors of ``open_past``, and of the methods of the reader that it returns."""


def open_past(directory: Path) -> PastReader | Reader:
    """Open the archive in ``directory``, or the store where there is no archive.

    Raises:
        ArchiveError: the archive cannot be read.
        OperatorError: there are both (exit status 78): each may have only a part of the messages.
        StoreError: there is neither, or the store cannot be read.
    """
    archive, store = directory / CATALOGUE, directory / FILE_NAME
    if not archive.exists():
        return Reader(directory)
    if store.exists():
        raise OperatorError(
            f"{directory} has a store ({store}) and an archive ({archive})\n"
            "  Expected one of them: each may have only a part of the messages.\n"
            "  Move the files of the other one to a directory of their own."
        )
    return PastReader(directory, limits.ARCHIVE_PAGE_RECORDS_MAX)  # a command reads all of them
