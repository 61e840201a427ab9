"""Calls for a disk that may hang: none is waited for longer than ``DISK_ANSWER_S``."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from hedgehogd.domain import limits
from hedgehogd.log.agreement import write_window
from hedgehogd.log.archive.lock import Lock
from hedgehogd.log.errors import LogError
from hedgehogd.log.file_system import make_directory

DISK_HANGS = "the disk of the history does not answer"

Result = TypeVar("Result")


class DiskHangs(LogError):
    """A call for a disk has not returned in time; it may still return."""


class Disk:
    """Calls for one disk in a thread, one at a time; none is waited for longer than a limit."""

    def __init__(self) -> None:
        self._turn = trio.CapacityLimiter(1)  # a call that hangs keeps it
        self._was_late = False

    @property
    def hangs(self) -> bool:
        """True from when a call was late until it returns."""
        self._was_late = self._was_late and self._turn.borrowed_tokens > 0
        return self._was_late

    async def call(self, function: Callable[[], Result]) -> Result:
        """Return the result of a call; a cancelled one is not waited for.

        Raises:
            DiskHangs: it has not returned for ``DISK_ANSWER_S``, or an earlier one has not yet.
        """
        if not self.hangs:
            with trio.move_on_after(limits.DISK_ANSWER_S):
                return await trio.to_thread.run_sync(
                    function, limiter=self._turn, abandon_on_cancel=True
                )
            self._was_late = True
        raise DiskHangs(DISK_HANGS)


class LockTaking:
    """Takes the lock of an archive in a thread, which may hang and go on later."""

    def __init__(self, archive: Path, window: Path) -> None:
        self._archive = archive
        self._window = window
        self._taken: list[Lock] = []  # at most one; a list, because ``pop`` is atomic
        self._is_over = False

    def take(self) -> None:
        """Lock the archive, whose directory is created if it does not exist; name its window."""
        make_directory(self._archive)
        self._taken.append(Lock(self._archive))
        write_window(self._archive, self._window)  # a start compares it while the lock is held
        if self._is_over and (lock := self._pop()) is not None:
            lock.release()

    def end(self) -> Lock | None:
        """Return the lock if the thread has it by now; a later one is released at once."""
        self._is_over = True
        return self._pop()

    def _pop(self) -> Lock | None:
        try:
            return self._taken.pop()
        except IndexError:
            return None
