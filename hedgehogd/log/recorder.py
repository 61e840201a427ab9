"""The recorder: takes part in the log for one instance, as its writer or as a candidate.

Every instance runs one. The instance with the lease of the window is the writer: it appends the
messages of its tape, and its archiver copies the recorded topics to the archive. The rest are
candidates, which look for the lease every ``LEASE_LOOK_S``.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import structlog
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.errors import OperatorError
from hedgehogd.engine.health import FeedHealth, HistoryHealth, HistoryState
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.log.agreement import agree, write_names
from hedgehogd.log.allocation import Bounds
from hedgehogd.log.appender import Appender
from hedgehogd.log.archive import files
from hedgehogd.log.archive.errors import ArchiveError, ArchiveLocked
from hedgehogd.log.archive.lock import Lock
from hedgehogd.log.archiver import Archiver, Kept
from hedgehogd.log.directory import DIRECTORY_MODE, Directory
from hedgehogd.log.ending import read_ends, read_predecessor
from hedgehogd.log.errors import Fenced, LogError, LostLease, ReplacedWindow
from hedgehogd.log.header import Page
from hedgehogd.log.lease import Candidate
from hedgehogd.log.window import Window, keep_lease

log = structlog.get_logger("log")


class Place(NamedTuple):
    """Where a log is, and how it is kept.

    Attributes:
        window: the directory of the window.
        archive: the directory of the archive.
        kept: the records that the archive keeps.
        names: the recorded pairs and channels; all instances must have the same ones.
        bounds: how far the window reaches back.
        lease_s: seconds without a renewal after which a writer is succeeded.
    """

    window: Path
    archive: Path
    kept: Kept
    names: Mapping[str, str] = MappingProxyType({})
    bounds: Bounds = Bounds()
    lease_s: float = limits.LEASE_S

    def check(self) -> bool:
        """Check that this instance can take part in the log; it waits for the disk.

        Returns:
            False if another instance has just begun to write, and has not written its names yet.

        Raises:
            OperatorError: window or archive have another format, they are of different deployments,
                the window's file system is remote, or the writer records other pairs or channels.
            LogError: the window cannot be looked at now.
        """
        try:
            self.window.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise LogError(f"{self.window}: {error.strerror}") from None
        directory = Directory(self.window)
        try:
            candidate = Candidate(directory, predecessor=read_predecessor(self.archive))
            try:
                return candidate.look() or agree(self.archive, self.names)
            finally:
                candidate.close()
        finally:
            directory.close()


class Recorder:
    """Records the messages of one instance in a log while this instance is the writer.

    Args:
        place: where the log is.
        pipe: the tape, and the books in step with it.
        feed: the health of the feed.
        health: the health of history, which it updates.
        wall_us: the clock, µs since the epoch; it may step.
        number: the number of the instance.
    """

    def __init__(
        self,
        place: Place,
        pipe: Pipe,
        feed: FeedHealth,
        health: HistoryHealth,
        wall_us: Callable[[], int],
        number: int = 0,
    ) -> None:
        self._place = place
        self._pipe = pipe
        self._feed = feed
        self._health = health
        self._wall_us = wall_us
        self._number = number
        self._appender: Appender | None = None
        self._archiver = Archiver(place.archive, place.kept, wall_us, self._begin_books)
        self._overruns = 0  # of earlier terms
        self._fault = ""
        # True if a writer, this instance or another one, appended while this process ran: only then
        # may the log have messages of its tape.
        self._has_seen_writer = False
        self._last_term = 0
        self._lock: Lock | None = None  # while a window begins

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part in the log until cancelled; a writer then appends and archives the rest."""
        task_status.started()
        while True:
            try:
                await self._take_part()
            except* (LogError, OperatorError, OSError) as group:
                self._note_fault(_text_of(group))
                self._show()
            await trio.sleep(limits.HISTORY_AGAIN_S)

    def keep_trades(self, product_id: str, trades: Sequence[Mapping[str, Any]]) -> None:
        """Record backfilled trades of a product if this instance is the writer."""
        if self._appender is not None:
            self._appender.keep_trades(product_id, trades)

    def _begin_books(self) -> None:
        if self._appender is not None:
            self._appender.begin_books()

    async def _take_part(self) -> None:
        """Wait for the lease, and be the writer until it is lost.

        Raises:
            LogError: the lease is lost, or the window cannot be used.
            OperatorError: the window is not usable.
        """
        directory = Directory(self._place.window)
        try:
            page = await self._take_lease(directory, may_begin=False)
            if page is None:
                await self._lock_archive(directory)
                page = await self._take_lease(directory, may_begin=True)
            if page is None:
                raise AssertionError("the window may begin")
            window = Window(directory, page, self._wall_us, self._place.bounds)
            self._last_term = window.term
            try:
                await self._write(window, directory)
            finally:
                window.close()
        finally:
            self._unlock_archive()
            directory.close()

    async def _lock_archive(self, directory: Directory) -> None:
        """Hold the archive until the window has begun, or another instance has begun it.

        The writer of a window that was removed may still copy it to the archive; a window that
        begins must have larger ids than these records. That writer notices within
        ``WINDOW_CHECK_S``; one that hangs is not waited for. An archive that cannot be locked now
        has no writer.
        """
        path = self._place.archive
        with trio.move_on_after(limits.ARCHIVE_LOCK_WAIT_S):
            while not _has_page(directory):
                try:
                    path.mkdir(files.DIRECTORY_MODE, parents=True, exist_ok=True)
                    self._lock = Lock(path)
                except ArchiveLocked:
                    directory.check()
                    await trio.sleep(limits.LEASE_LOOK_S)
                except (OSError, ArchiveError):
                    return
                else:
                    return

    def _unlock_archive(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    async def _take_lease(self, directory: Directory, *, may_begin: bool) -> Page | None:
        """Wait until this instance has the lease; return the page of its term.

        An instance that has just started leaves a free lease for a moment to instances whose tapes
        have the messages that the last writer did not append.

        Returns:
            None if the window has to begin first, unless ``may_begin``.
        """
        read = partial(read_predecessor, self._place.archive, needs_term=may_begin)
        predecessor = await _in_thread(read)
        if predecessor.term < self._last_term:
            predecessor = predecessor._replace(term=self._last_term)
        place = self._place
        candidate = Candidate(
            directory, predecessor=predecessor, writer=self._number, lease_s=place.lease_s
        )
        free_since = trio.current_time()
        try:
            while True:
                is_free = candidate.look()
                now = trio.current_time()
                if not is_free:
                    self._has_seen_writer, free_since, self._fault = True, now, ""
                    self._health.become(HistoryState.READING)
                elif candidate.begins and not may_begin:
                    return None
                elif (
                    self._has_seen_writer
                    or candidate.begins
                    or now >= free_since + limits.LEASE_PATIENCE_S
                ):
                    with suppress(LostLease):
                        return candidate.take()
                await trio.sleep(limits.LEASE_LOOK_S)
        finally:
            candidate.close()

    async def _write(self, window: Window, directory: Directory) -> None:
        """Append to the window and to the archive until an error or the end; then do the rest."""
        archiver = self._archiver
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(keep_lease, window, lease_s=self._place.lease_s))
                read = partial(read_ends, directory, self._place.archive)
                ends, gaps = await _in_thread(read)
                appender = Appender(
                    window, self._pipe, self._feed, ends, gaps, overlaps=self._has_seen_writer
                )
                self._has_seen_writer = True
                self._unlock_archive()  # the archiver locks it
                await _in_thread(partial(write_names, self._place.archive, self._place.names))
                log.info("this instance writes the log", term=window.term)
                nursery.start_soon(archiver.run, directory)
                await self._append(appender)
        finally:
            deadline = trio.current_time() + limits.FAREWELL_S
            with trio.CancelScope(shield=True, deadline=deadline):
                await archiver.finish(directory)
            self._show()

    async def _append(self, appender: Appender) -> None:
        """Append the messages of the tape, again and again; at the end once more."""
        self._appender = appender
        try:
            while True:
                try:
                    await appender.append()
                    await appender.append_books()
                    self._note_fault("")
                except (Fenced, ReplacedWindow):
                    raise
                except LogError as error:
                    self._note_fault(str(error))
                self._show()
                await trio.sleep(limits.HISTORY_FLUSH_S)
        finally:
            self._appender = None
            self._overruns += appender.overruns
            with suppress(LogError):
                appender.append_nowait()

    def _note_fault(self, reason: str) -> None:
        """Log the begin and the end of a fault of the window."""
        if reason and not self._fault:
            log.error("the log is not written", reason=reason)
        elif self._fault and not reason:
            log.info("the log is written again")
        self._fault = reason

    def _show(self) -> None:
        """Update the health of history."""
        health, archiver = self._health, self._archiver
        overruns = self._overruns + (0 if self._appender is None else self._appender.overruns)
        health.kept = archiver.archived
        health.written_us = archiver.archived_us
        health.overruns = overruns + archiver.leaps
        reason = "; ".join(filter(None, (self._fault, archiver.fault)))
        health.become(HistoryState.FAILED if reason else HistoryState.WRITING, reason)


def _has_page(directory: Directory) -> bool:
    """Say whether the newest page of a window is readable."""
    terms = directory.terms()
    page = directory.page(terms[-1]) if terms else None
    if page is None:
        return False
    page.close()
    return True


async def _in_thread(call: Callable[[], Any]) -> Any:
    return await trio.to_thread.run_sync(call)


def _text_of(group: BaseExceptionGroup[BaseException]) -> str:
    """Return the texts of all errors of a group, each once."""
    texts: dict[str, None] = {}
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            texts[_text_of(error)] = None
        else:
            texts[str(error) or type(error).__name__] = None
    return "; ".join(texts)
