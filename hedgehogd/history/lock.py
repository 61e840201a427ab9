"""Who writes: the one that holds the lock on a file beside the database.

The lock hangs on an open descriptor, so it ends with the process, however that ends. It is
on a file of its own: SQLite's own locks on the database would end with the first of its
descriptors that the process closes (POSIX advisory locks; sqlite.org "How To Corrupt").
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from hedgehogd.history.schema import FILE_MODE, LOCK_NAME, StoreError


class WriterLock:
    """The right to write to the store in one directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_NAME
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        """True while it is ours."""
        return self._descriptor is not None

    def try_take(self) -> bool:
        """Take it if nobody has it; say whether it is ours now.

        Raises:
            StoreError: the file cannot be made.
        """
        if self._descriptor is not None:
            return True
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}") from None
        with suppress(PermissionError):  # the file of another user
            os.fchmod(descriptor, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return False
            raise StoreError(f"{self._path}: {error.strerror}") from None
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Let others have it; nothing happens when it is not ours."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
