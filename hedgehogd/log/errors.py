"""The errors of the log's window."""

from collections.abc import Iterator
from contextlib import contextmanager

from hedgehogd.domain.errors import HedgehogError, OperatorError


class LogError(HedgehogError):
    """The log cannot do its work now; the daemon serves on without it and reports it."""


@contextmanager
def reported(place: object) -> Iterator[None]:
    """Raise ``LogError`` with the place and the reason for each ``OSError`` of the block."""
    try:
        yield
    except OSError as error:
        raise LogError(f"{place}: {error.strerror or error}") from None


class Fenced(LogError):
    """Another instance holds the lease: this writer appends nothing more, and becomes a candidate.

    The batch of the failed append was not published. The next writer decides whether the log
    contains it: a reader finds it there, or not at all.
    """


class LostLease(LogError):
    """Another candidate took the lease first."""


class WindowFull(LogError):
    """The file system has no room for the batch; nothing was appended, later batches may fit."""


class LeftWindow(LogError):
    """Records after the position have left the window.

    Attributes:
        oldest_id: a read after this id begins with the oldest record of the window.
    """

    def __init__(self, oldest_id: int) -> None:
        super().__init__(f"records up to id {oldest_id} have left the window")
        self.oldest_id = oldest_id


class DamagedWindow(LogError):
    """Bytes of the window are not as they were written; the text names the file and the place."""


class ReplacedWindow(LogError):
    """The files of the window are no longer at their path: removed, moved or replaced."""


class UnusableWindow(OperatorError):
    """The directory has a window of another format or deployment, or its file system is remote."""
