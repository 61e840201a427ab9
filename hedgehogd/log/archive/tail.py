"""The tail that is being written: records are appended to it, a small block at a time."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from hedgehogd.log.archive import files
from hedgehogd.log.archive.errors import ArchiveReplaced
from hedgehogd.log.archive.files import TAIL, FileHeader, FileName


class Tail:
    """A new tail, complete with its first blocks. It replaces a tail of the same name.

    Args:
        directory: the archive's.
        deployment: the deployment of the archive.
        after_id: its records have larger ids.
        blocks: its first blocks: the books if a segment begins with it.
        begun_s: the time, seconds of the writer's clock.

    Raises:
        ArchiveError: it cannot be created; there is no new file then.

    Attributes:
        path: its path.
        after_id: its records have larger ids.
        begun_s: when it was created, seconds of the writer's clock.
        size: its size, in bytes.
        bytes: payload bytes of its records.
    """

    def __init__(
        self,
        directory: Path,
        deployment: str,
        after_id: int,
        blocks: Iterable[bytes],
        begun_s: float,
    ) -> None:
        self.path = directory / str(FileName(after_id, TAIL))
        self.after_id = after_id
        self.begun_s = begun_s
        self.bytes = 0
        self._descriptor, self.size = files.create(
            self.path, FileHeader(deployment, after_id), blocks
        )
        self._has_surplus = False

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def write(self, block: bytes, payload_bytes: int) -> None:
        """Append a block with ``payload_bytes`` bytes of payloads.

        Raises:
            ArchiveError: it cannot be written; the tail is as before.
        """
        try:
            self._remove_surplus()
            self._has_surplus = True
            files.write_all(self._descriptor, block)
        except OSError as error:
            with suppress(OSError):  # else the next write or the next start removes it
                self._remove_surplus()
            raise files.failed(self.path, error) from None
        self._has_surplus = False
        self.size += len(block)
        self.bytes += payload_bytes

    def sync(self) -> None:
        """Make all that was written durable.

        Raises:
            ArchiveError: it cannot be done. The kernel may have dropped the unwritten pages.
        """
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise files.failed(self.path, error) from None

    def check(self) -> None:
        """Compare the file at its path with this one.

        Raises:
            ArchiveReplaced: it was deleted or changed.
        """
        ours = os.fstat(self._descriptor)
        if ours.st_nlink == 0 or (ours.st_size != self.size and not self._has_surplus):
            raise ArchiveReplaced(f"{self.path} was deleted or changed")

    def _remove_surplus(self) -> None:
        """Remove the bytes that a failed write left. Raises OSError."""
        if self._has_surplus:
            os.ftruncate(self._descriptor, self.size)
            self._has_surplus = False
