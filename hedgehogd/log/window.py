"""The log writer: append a batch, check the fence, publish the end, wake the followers.

The order of these steps is the fence: an entry that was published was in its file before the term
was fenced, so the candidate that measures the file after the fence finds it. An entry that the
candidate did not find was not published, and never will be.

On this path no call syncs, locks, or waits for a thread or a peer.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import trio

from hedgehogd.domain.limits import LEASE_S, WINDOW_CHECK_S
from hedgehogd.domain.record import Record
from hedgehogd.log.allocation import Allocation, Bounds
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import Fenced, WindowFull
from hedgehogd.log.header import Page
from hedgehogd.log.segment import FRAME_BYTES, HEAD_BYTES, frame
from hedgehogd.log.wakeups import Wakeups
from hedgehogd.protocol.entry import pack


class Window:
    """The log writer of one term; the owner calls ``close``, which releases the lease.

    Args:
        directory: the window's directory.
        page: the page of the term whose lease is held; the window closes it.
        wall_us: the clock, µs since the epoch; it may step.
        bounds: how far the window reaches back.
        monotonic_ns: the clock of heartbeats and ages, in ns.

    Raises:
        ReplacedWindow: the directory was emptied or has another log; the page is closed.
        LogError: the segments of earlier terms cannot be read, or those after a seal cannot be
            removed; the page is closed, and the lease is free.

    Attributes:
        last_id: the id of the last record of the log.
    """

    def __init__(
        self,
        directory: Directory,
        page: Page,
        wall_us: Callable[[], int],
        bounds: Bounds = Bounds(),  # noqa: B008  # a tuple
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.last_id = page.fixed.first_id_min - 1
        self._directory = directory
        self._page = page
        self._wall_us = wall_us
        self._monotonic_ns = monotonic_ns
        self._descriptor = -1
        self._offset = 0
        self._is_torn = False
        self._joined = page.joined
        with ExitStack() as opened:
            opened.callback(page.close)
            self._allocation = Allocation(directory, page, bounds, monotonic_ns())
            opened.callback(self._allocation.close)
            self._wakeups = Wakeups(directory)
            opened.callback(self._wakeups.close)
            directory.remove_new_pages()
            self._allocation.allocate_ahead(0)
            self._wakeups.find_followers()
            self._wakeups.send()  # the last term has its seal
            self._opened = opened.pop_all()

    @property
    def deployment(self) -> str:
        """The id of the deployment, 6 characters."""
        return self._page.fixed.deployment

    @property
    def term(self) -> int:
        """The term, from 1: the epoch of all records that this writer appends."""
        return self._page.fixed.term

    @property
    def window_bytes(self) -> int:
        """Bytes of all segments, those allocated ahead included."""
        return self._allocation.window_bytes

    @property
    def is_short(self) -> bool:
        """True while the window is shorter than its bounds because space ran out."""
        return self._allocation.is_short

    @property
    def shrinks(self) -> int:
        """Number of segments that were removed early because space ran out."""
        return self._allocation.shrinks

    def append(self, records: Sequence[Record]) -> int:
        """Append a batch, at least one record, and publish it; return the id of its last record.

        The records get their ids: from the larger of the clock's µs and the last id + 1, each one
        more than the one before. If an error is raised, nothing was published and their ids mean
        nothing. Not a checkpoint.

        Raises:
            Fenced: the lease is lost; the window must be closed.
            ReplacedWindow: the directory was emptied or has another log; the window must be closed.
            WindowFull: the file system has no room; a later append may succeed.
            LogError: the file system refuses a new segment; a later append may succeed.
            ValueError: the batch is empty or too large.
        """
        first_id = max(self._wall_us(), self.last_id + 1)
        last_id = first_id + len(records) - 1
        for record_id, record in enumerate(records, first_id):
            record.id = record_id
        entry = pack(records)
        size = FRAME_BYTES + len(entry)
        if self._allocation.room(self._offset) < size + FRAME_BYTES or self._is_torn:
            self._open_next(size)
        self._write(frame(entry, first_id, last_id), entry, size)
        if self._page.is_fenced:
            raise Fenced(f"term {self.term} has ended")
        self._offset += size
        self.last_id = last_id
        self._page.publish(self._allocation.number, self._offset, last_id)
        if self._page.joined != self._joined:
            self._joined = self._page.joined
            self._wakeups.find_followers()
        self._wakeups.send()
        self._allocation.allocate_ahead(self._offset)
        return last_id

    def renew(self) -> None:
        """Renew the lease, remove old segments, find followers; every ``lease_s`` / 4.

        Raises:
            Fenced: the lease is lost; the window must be closed.
            ReplacedWindow: the directory was emptied or has another log; the window must be closed.
            LogError: an old segment cannot be removed; a later renewal tries again.
        """
        now_ns = self._monotonic_ns()
        self._page.renew(now_ns)
        if self._page.is_fenced:
            raise Fenced(f"term {self.term} has ended")
        self._wakeups.find_followers()
        self._allocation.expire(now_ns)

    def check(self) -> None:
        """Compare the files at the path with the open ones; every ``WINDOW_CHECK_S``.

        Raises:
            ReplacedWindow: they are missing or replaced; the window must be closed.
            LogError: the file system refuses a look.
        """
        self._directory.check(self._page)

    def close(self) -> None:
        """Release the lease and close all files; the published records stay."""
        self._opened.close()

    def _write(self, head: bytes, entry: bytes, size: int) -> None:
        """Write at the end; raise WindowFull if the file system does not accept all of it.

        A part that was written is no whole entry. The next append goes to another segment, so
        the rest of that part never follows a whole entry.
        """
        try:
            written = os.pwritev(self._descriptor, (head, entry), self._offset)
        except OSError as error:
            self._is_torn = True
            raise WindowFull(f"{self._directory.path}: {error.strerror}") from None
        if written < size:
            self._is_torn = True
            raise WindowFull(f"{self._directory.path}: {written} of {size} bytes were written")

    def _open_next(self, size: int) -> None:
        """Continue in the next segment, which has room for ``size`` bytes and an end mark."""
        self._descriptor = self._allocation.open_next(
            size + FRAME_BYTES, self._offset, self.last_id, self._monotonic_ns()
        )
        self._offset = HEAD_BYTES
        self._is_torn = False


async def keep_lease(window: Window, *, lease_s: float = LEASE_S) -> None:
    """Renew the lease and check the files until an error ends it; for a nursery.

    Raises:
        Fenced: the lease is lost.
        ReplacedWindow: the window's files are missing or replaced.
        LogError: the file system refuses the removal of an old segment.
    """
    checked_at = trio.current_time()
    while True:
        window.renew()
        if trio.current_time() - checked_at >= WINDOW_CHECK_S:
            window.check()
            checked_at = trio.current_time()
        await trio.sleep(lease_s / 4)
