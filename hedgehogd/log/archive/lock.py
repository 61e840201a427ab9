"""The lock of an archive's writer: a flock on a file of its own.

The lock belongs to an open descriptor, so it ends with the process, however that ends.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from hedgehogd.log.archive import files
from hedgehogd.log.archive.errors import ArchiveLocked


class Lock:
    """The right to write to the archive in one directory, held until ``release``.

    Raises:
        ArchiveLocked: another process holds it.
        ArchiveError: the file cannot be created or locked.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / files.LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, files.FILE_MODE)
        except OSError as error:
            raise files.failed(path, error) from None
        try:
            with suppress(PermissionError):  # the file of another user
                os.fchmod(descriptor, files.FILE_MODE)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise ArchiveLocked(f"another process writes the archive in {directory}") from None
            raise files.failed(path, error) from None
        self._descriptor = descriptor
        self._path = path

    def is_in_place(self) -> bool:
        """Say whether the locked file is still the one in the directory."""
        ours = os.fstat(self._descriptor)
        try:
            there = self._path.stat()
        except OSError:
            return False
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)

    def release(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)
