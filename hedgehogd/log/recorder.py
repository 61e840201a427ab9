"""The recorder: takes part in the log for one instance, as its writer or as a candidate.

Every instance runs one. The instance with the lease of the window is the writer: it appends the
messages of its tape, and its archiver copies the recorded topics to the archive. The rest are
candidates, which look for the lease every ``LEASE_LOOK_S``.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import structlog
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import LEVEL2, LEVEL2_BATCH, Topic
from hedgehogd.domain.errors import OperatorError
from hedgehogd.engine.health import FeedHealth, HistoryHealth, HistoryState
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.log.agreement import agree, agree_on_window, write_names, write_window
from hedgehogd.log.allocation import Bounds
from hedgehogd.log.appender import Appender, begin_appending
from hedgehogd.log.archive.errors import ArchiveError, ArchiveLocked
from hedgehogd.log.archive.lock import Lock
from hedgehogd.log.archiver import Archiver, Kept
from hedgehogd.log.continuity import Ends
from hedgehogd.log.directory import Directory
from hedgehogd.log.disk import DISK_HANGS, Disk, DiskHangs, LockTaking, Result
from hedgehogd.log.ending import read_ends, read_predecessor
from hedgehogd.log.errors import Fenced, LogError, LostLease, ReplacedWindow
from hedgehogd.log.file_system import make_directory
from hedgehogd.log.header import Page
from hedgehogd.log.lease import Candidate, Predecessor
from hedgehogd.log.trade_gaps import TradeGaps, WaitingTrades
from hedgehogd.log.window import Window, keep_lease

log = structlog.get_logger("log")

_ALL = frozenset({Topic("", "")})
"""The topics of a feed that does not report them."""


ARCHIVE_SILENT = f"nothing was archived for {limits.ARCHIVER_SILENT_MAX_S:.0f} s: the disk may hang"
_NO_ARCHIVE = Path(os.devnull)
"""No directory, and so an archive without records."""


class LogFiles(NamedTuple):
    """The directories of a log, and how it is kept.

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
                the window's file system is remote, or the writer records other topics, into another
                archive, or with another window.
            LogError: the window cannot be looked at now.
        """
        try:
            make_directory(self.window)
        except OSError as error:
            raise LogError(f"{self.window}: {error.strerror}") from None
        directory = Directory(self.window)
        try:
            candidate = Candidate(directory, predecessor=read_predecessor(self.archive))
            try:
                is_free = candidate.look()
                agree_on_window(self.archive, self.window)
                return is_free or agree(self.window, self.archive, self.names, candidate.term)
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
        monotonic_ns: the clock of the lease, in ns.
    """

    def __init__(
        self,
        place: LogFiles,
        pipe: Pipe,
        feed: FeedHealth,
        health: HistoryHealth,
        wall_us: Callable[[], int],
        number: int = 0,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._place = place
        self._pipe = pipe
        self._feed = feed
        self._health = health
        self._wall_us = wall_us
        self._number = number
        self._appender: Appender | None = None
        self._waiting = WaitingTrades()
        self._archiver = Archiver(place.archive, place.kept, wall_us, self._begin_books)
        self._overruns = 0  # of earlier terms
        self._fault = ""
        self._monotonic_ns = monotonic_ns
        self._began_ns = monotonic_ns()  # before the first message of the tape
        self._has_seen_writer = False  # this instance or another one, while this process ran
        self._overlaps = False  # the last writer may have appended messages of the tape
        self._held_with: frozenset[Topic] = frozenset()
        self._tape_since: float | None = None  # when it had messages first
        self._last_term = 0
        self._agreed_term = 0  # whose writer records the same
        self._lock: Lock | None = None  # while a window begins
        self._window_disk, self._archive_disk = Disk(), Disk()
        self._was_hung = False
        self._progress = (-1, 0, 0.0)  # archived_us, the log's last id then, and when that was
        self._is_silent = False  # the archive, although the log grew
        self._users: set[object] = set()  # calls that use the open directory

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take part in the log until cancelled; a writer then appends and archives the rest."""
        if self._pipe.tape.end == 0:
            self._began_ns = self._monotonic_ns()
        task_status.started()
        while True:
            try:
                await self._take_part()
            except* Fenced:
                log.info("another instance writes the log")
                self._note_fault("")
                self._show_reading()
            except* (LogError, OperatorError, OSError) as group:
                self._note_fault(_text_of(group))
                self._show()
            await trio.sleep(limits.HISTORY_AGAIN_S)

    def keep_trades(self, product_id: str, trades: Sequence[Mapping[str, Any]]) -> None:
        """Record backfilled trades of a product, oldest first.

        They wait until this instance is the writer; the newest of them are kept, and those that
        the log has by then are left out.
        """
        self._waiting.add(product_id, trades)

    def _begin_books(self) -> None:
        if self._appender is not None:
            self._appender.begin_books()

    async def _take_part(self) -> None:
        """Wait for the lease, and be the writer until it is lost.

        Raises:
            LogError: the lease is lost, or the window cannot be used.
            OperatorError: the window is not usable.
        """
        directory, self._users = Directory(self._place.window), set()
        try:
            page = await self._take_lease(directory)
            window = Window(directory, page, self._wall_us, self._place.bounds, self._monotonic_ns)
            self._last_term = window.term
            try:
                await self._write(window, directory)
            finally:
                window.close()
        finally:
            self._unlock_archive()
            if not (self._archiver.hangs or self._users):
                directory.close()

    async def _lock_archive(self, directory: Directory) -> None:
        """Hold the archive until the window has begun, or another instance has begun it.

        The writer of a window that was removed may still copy it to the archive; a window that
        begins must have larger ids than these records. That writer notices within
        ``WINDOW_CHECK_S``; one that hangs is not waited for. An archive that cannot be locked now
        is treated as one without a writer.
        """
        until = trio.current_time() + limits.ARCHIVE_LOCK_WAIT_S
        taking = LockTaking(self._place.archive, self._place.window)
        try:
            with trio.move_on_at(until), suppress(DiskHangs):
                while not await self._use(directory, self._window_disk, _has_page):
                    try:
                        await self._archive_disk.call(taking.take)
                    except ArchiveLocked:
                        directory.check()
                        await trio.sleep(limits.LEASE_LOOK_S)
                    except (OSError, ArchiveError):
                        break
                    else:
                        break
        finally:
            self._lock = taking.end()

    def _unlock_archive(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    async def _take_lease(self, directory: Directory) -> Page:
        """Wait until this instance has the lease; return the page of its term.

        An instance whose tape has just begun leaves a free lease for a moment to instances whose
        tapes have the messages that the last writer did not append. Where the window begins, the
        archive is locked, and its end is read again: it may have grown since the candidate began
        to look.
        """
        place = self._place
        candidate = Candidate(
            directory, predecessor=await self._predecessor(), writer=self._number,
            lease_s=place.lease_s, monotonic_ns=self._monotonic_ns,
        )  # fmt: skip
        free_since = trio.current_time()
        is_prepared = False
        try:
            while True:
                is_free = candidate.look()
                now = trio.current_time()
                if not is_free:
                    if self._agreed_term != candidate.term:
                        named = partial(
                            agree, place.window, place.archive, place.names, candidate.term
                        )
                        with suppress(DiskHangs):
                            if await self._archive_disk.call(named):
                                self._agreed_term = candidate.term
                    self._has_seen_writer, free_since, self._fault = True, now, ""
                    self._note_held()
                    is_prepared = False
                    self._unlock_archive()
                    self._show_reading()
                elif self._has_rest(free_since) or now >= free_since + limits.LEASE_PATIENCE_S:
                    if candidate.begins and not is_prepared:
                        await self._lock_archive(directory)
                        candidate.follow(await self._predecessor(needs_term=True))
                        is_prepared = True
                        continue
                    self._overlaps = self._may_overlap(candidate)
                    with suppress(LostLease):
                        return candidate.take()
                    is_prepared = False
                    self._unlock_archive()
                await trio.sleep(limits.LEASE_LOOK_S)
        finally:
            candidate.close()

    def _has_rest(self, free_since: float) -> bool:
        """Say whether the tape has the messages that a writer had not appended at its end."""
        began = self._tape_since
        return began is not None and began + limits.LEASE_REACH_S <= free_since

    def _note_held(self) -> None:
        """Note the topics that the feed holds while a writer is alive."""
        if self._pipe.tape.end:
            if self._tape_since is None:
                self._tape_since = trio.current_time()
            topics = self._pipe.flows.topics
            self._held_with = _ALL if topics is None else topics

    def _was_held(self, topic: Topic) -> bool:
        """Say whether the feed held a topic when a writer was last seen."""
        held = self._held_with
        if held is _ALL or topic in held or Topic(topic.channel, "") in held:
            return True
        is_level2 = topic.channel == LEVEL2.topic_channel
        return is_level2 and LEVEL2_BATCH.topic(topic.product_id) in held

    async def _predecessor(self, *, needs_term: bool = False) -> Predecessor:
        """Read the archive's end; without ``needs_term`` a disk that hangs is an empty archive.

        Raises:
            DiskHangs: a window that begins needs the end, and the disk does not answer.
        """
        read = partial(read_predecessor, self._place.archive, needs_term=needs_term)
        try:
            found = await self._archive_disk.call(read)
        except DiskHangs:
            if needs_term:
                raise
            found = Predecessor()
        return found._replace(term=max(found.term, self._last_term))

    async def _use(
        self, directory: Directory, disk: Disk, call: Callable[[Directory], Result]
    ) -> Result:
        """Call with the directory, which stays open if the call hangs.

        Raises:
            DiskHangs: the disk does not answer.
        """
        user, users = object(), self._users

        def use() -> Result:
            try:
                return call(directory)
            finally:
                users.discard(user)

        users.add(user)
        return await disk.call(use)

    async def _read_ends(self, directory: Directory) -> tuple[Ends, TradeGaps]:
        """Read the ends of the log's topics; of the window alone if the archive's disk hangs.

        Raises:
            DiskHangs: the window's disk hangs.
        """
        try:
            return await self._use(
                directory, self._archive_disk, partial(read_ends, archive_path=self._place.archive)
            )
        except DiskHangs:
            log.error("the end of the archive is not readable", reason=DISK_HANGS)
        return await self._use(
            directory, self._window_disk, partial(read_ends, archive_path=_NO_ARCHIVE)
        )

    def _may_overlap(self, candidate: Candidate) -> bool:
        """Say whether the last writer may have appended messages that the tape has.

        A writer renews its lease every quarter of ``lease_s``. One that is dead may have appended
        for that long after its last renewal, and once more as long if the loop was late.
        """
        renewed_ns = candidate.renewed_ns
        if self._has_seen_writer or renewed_ns is None:
            return self._has_seen_writer
        return renewed_ns + int(self._place.lease_s * 1e9) // 2 > self._began_ns

    async def _write(self, window: Window, directory: Directory) -> None:
        """Append to the window and to the archive until an error or the end; then do the rest."""
        archiver, place = self._archiver, self._place
        write_names(place.window, place.archive, place.names, window.term)  # in memory
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(keep_lease, window, lease_s=self._place.lease_s))
                ends, gaps = await self._read_ends(directory)
                appender = await begin_appending(
                    window, self._pipe, self._feed, ends, gaps, overlaps=self._overlaps,
                    held_with=self._was_held, waiting=self._waiting,
                )  # fmt: skip
                self._has_seen_writer = True
                self._note_held()
                self._unlock_archive()  # the archiver locks it
                with suppress(DiskHangs):
                    await self._archive_disk.call(
                        partial(write_window, place.archive, place.window)
                    )
                log.info("this instance writes the log", term=window.term)
                self._progress = (-1, 0, 0.0)
                nursery.start_soon(archiver.run, directory)
                await self._append(appender, window)
        finally:
            window.close()  # the lease is free while the archiver copies the rest
            deadline = trio.current_time() + limits.FAREWELL_S
            with trio.CancelScope(shield=True, deadline=deadline):
                await archiver.finish(directory)
            self._show()

    async def _append(self, appender: Appender, window: Window) -> None:
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
                self._note_progress(window.last_id)
                self._show()
                await trio.sleep(limits.HISTORY_FLUSH_S)
        finally:
            self._appender = None
            self._is_silent = False
            self._overruns += appender.overruns
            try:
                appender.append_nowait()
            except Fenced:
                pass  # the next writer appends them
            except LogError as error:
                log.error("the last messages are not in the log", reason=str(error))

    def _note_fault(self, reason: str) -> None:
        """Log when a fault of the window begins and when it ends."""
        if reason and not self._fault:
            log.error("the log is not written", reason=reason)
        elif self._fault and not reason:
            log.info("the log is written again")
        self._fault = reason

    def _note_progress(self, last_id: int) -> None:
        """Log when the archive stops to follow a log that grows, and when it follows again."""
        archiver, now = self._archiver, trio.current_time()
        archived_us, last_id_then, since = self._progress
        follows = archiver.archived_us != archived_us or last_id == last_id_then
        if follows or archiver.fault:  # the archiver reports its faults
            self._progress = (archiver.archived_us, last_id, now)
        is_silent = not follows and now >= since + limits.ARCHIVER_SILENT_MAX_S
        if is_silent and not self._is_silent:
            log.error("the archive does not follow the log", reason=ARCHIVE_SILENT)
        elif self._is_silent and not is_silent:
            log.info("the archive follows the log again")
        self._is_silent = is_silent

    def _show(self) -> None:
        """Update the health of history."""
        health, archiver = self._health, self._archiver
        overruns = self._overruns + (0 if self._appender is None else self._appender.overruns)
        health.kept = archiver.archived
        health.written_us = archiver.archived_us
        health.overruns = overruns + archiver.unarchived
        silence = ARCHIVE_SILENT if self._is_silent else ""
        reasons = dict.fromkeys((self._fault, archiver.fault, silence, self._hang()))
        reason = "; ".join(filter(None, reasons))
        health.become(HistoryState.FAILED if reason else HistoryState.WRITING, reason)

    def _show_reading(self) -> None:
        """Update the health of history while another instance writes."""
        reason = self._hang()
        self._health.become(HistoryState.FAILED if reason else HistoryState.READING, reason)

    def _hang(self) -> str:
        """Return why a disk hangs; empty if none does. Log when that begins and when it ends."""
        hangs = self._archive_disk.hangs or self._window_disk.hangs
        if hangs and not self._was_hung:
            log.error("a disk of the log hangs", reason=DISK_HANGS)
        elif self._was_hung and not hangs:
            log.info("the disk of the log answers again")
        self._was_hung = hangs
        return DISK_HANGS if hangs else ""


def _has_page(directory: Directory) -> bool:
    """Say whether the newest page of a window is readable."""
    terms = directory.terms()
    page = directory.page(terms[-1]) if terms else None
    if page is None:
        return False
    page.close()
    return True


def _text_of(group: BaseExceptionGroup[BaseException]) -> str:
    """Return the texts of all errors of a group, each once."""
    texts: dict[str, None] = {}
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            texts[_text_of(error)] = None
        else:
            texts[str(error) or type(error).__name__] = None
    return "; ".join(texts)
