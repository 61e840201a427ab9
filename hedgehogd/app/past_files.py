"""The recorded past in a directory, for commands that read it beside a running daemon."""

from pathlib import Path

from hedgehogd.domain import limits
from hedgehogd.history.reader import Reader
from hedgehogd.history.schema import StoreError
from hedgehogd.log.archive.errors import ArchiveError
from hedgehogd.log.archive.files import CATALOGUE
from hedgehogd.log.past_reader import PastReader

PAST_ERRORS = (ArchiveError, StoreError)
"""The errors of ``open_past``, and of the methods of the reader that it returns."""


def open_past(directory: Path) -> PastReader | Reader:
    """Open the archive in ``directory``, or the store where there is no archive.

    Raises:
        ArchiveError: the archive cannot be read.
        StoreError: there is neither, or the store cannot be read.
    """
    has_archive = (directory / CATALOGUE).exists()
    page_messages = limits.ARCHIVE_PAGE_RECORDS_MAX  # a command reads all of them
    return PastReader(directory, page_messages) if has_archive else Reader(directory)
