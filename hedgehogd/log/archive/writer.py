"""Writing the archive: append records, sync them, compact them, drop the oldest.

Records are collected, written to the *tail* as a small block and synced (``sync``, once a second).
A tail that is full is replaced by the next one; ``work`` makes one block of it and appends this to
the *open segment*. When that is full it gets a footer and a name that says it is sealed. No file is
changed once it is complete, and a file is removed only after its replacement is durable.

Not for the loop: every method may wait for the disk. One call at a time, from any thread.
"""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from hedgehogd.domain import limits
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import Record
from hedgehogd.log.archive import catalogue, compaction, files, inventory
from hedgehogd.log.archive.block import CHECKPOINT, Builder
from hedgehogd.log.archive.block_file import BlockFile
from hedgehogd.log.archive.catalogue import Catalogue, SegmentRow
from hedgehogd.log.archive.errors import ArchiveError, ArchiveReplaced, DamagedArchive
from hedgehogd.log.archive.files import OPEN, SEGMENT, TAIL, FileHeader, FileName
from hedgehogd.log.archive.index import Index, collect, read_footer
from hedgehogd.log.archive.inventory import Growing
from hedgehogd.log.archive.lock import Lock

Checkpoint = Callable[[], Iterable[Message]]
_US = 1_000_000

# Levels of zlib: speed for tails, size for blocks.
_TAIL_LEVEL = 1
_BLOCK_LEVEL = 6


class Sizes(NamedTuple):
    """When tails and segments end.

    Attributes:
        tail_bytes: payload bytes of a tail.
        tail_age_s: its age.
        segment_bytes: bytes on disk of a segment.
        segment_age_s: its age.
    """

    tail_bytes: int = limits.ARCHIVE_BLOCK_BYTES
    tail_age_s: float = limits.ARCHIVE_TAIL_AGE_S
    segment_bytes: int = limits.ARCHIVE_SEGMENT_BYTES
    segment_age_s: float = limits.ARCHIVE_SEGMENT_AGE_S


def sizes_for(bytes_max: int) -> Sizes:
    """Return sizes for an archive of at most ``bytes_max`` bytes on disk."""
    part = bytes_max // limits.ARCHIVE_SEGMENTS_MIN
    return Sizes(segment_bytes=min(limits.ARCHIVE_SEGMENT_BYTES, part))


class Writer:
    """The archive in one directory, open for writing.

    Args:
        directory: where it is; it is created if it does not exist.
        deployment: the deployment whose log it is: 6 characters of base32.
        checkpoint: returns a ``snapshot`` message of every level-2 book, as of the last appended
            record. It is called within ``sync`` and ``seal`` when a segment begins.
        sizes: when tails and segments end.
        clock: seconds of a monotonic clock.

    Raises:
        ArchiveLocked: another process writes it.
        NewerFormat: a newer version wrote it.
        ForeignArchive: it is of another deployment.
        ArchiveError: it cannot be opened.

    Attributes:
        last_id: the id of the last appended record; 0 for none.
        synced_id: the id of the last record that is durable.
        problems: damaged or unfinished parts at the start, one text each, for the operator.
        unreadable: number of gap records written since because parts of a tail were damaged.
    """

    def __init__(
        self,
        directory: Path,
        deployment: str,
        *,
        checkpoint: Checkpoint = tuple,
        sizes: Sizes = Sizes(),  # noqa: B008  # it is immutable
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not files.DEPLOYMENT.fullmatch(deployment):
            raise AssertionError(f"{deployment!r} is not a deployment")
        self._directory = directory
        self._deployment = deployment
        self._checkpoint = checkpoint
        self._sizes = sizes
        self._clock = clock
        try:
            directory.mkdir(mode=files.DIRECTORY_MODE, parents=True, exist_ok=True)
            self._opened_as = _identity(directory)
        except OSError as error:
            raise files.failed(directory, error) from None
        self._lock = Lock(directory)
        self._tail_descriptor = -1
        try:
            self._begin()
        except BaseException:
            self._lock.release()
            raise

    def _begin(self) -> None:
        found = inventory.take(self._directory, self._deployment)
        self.problems = found.problems
        self.unreadable = 0
        self._catalogue: Catalogue = found.catalogue
        self._opened = found.opened
        self._tails: list[Growing] = found.tails
        rows = self._catalogue.segments
        self._sealed_id = max(self._catalogue.dropped_id, rows[-1].last_id if rows else 0)
        ends = [each.last_id for each in (*self._tails, self._opened) if each is not None]
        self.last_id = self.synced_id = max([self._sealed_id, *ends])
        self._builder = Builder(self.last_id)
        self._has_failed = False
        self._segment_begun = self._clock()
        self._segment_bytes = self._opened.file.size if self._opened else 0
        is_new = self._opened is None and not self._tails
        self._start_tail(begins_segment=is_new)
        self._catalogue_as = catalogue.identity(self._directory)

    def close(self) -> None:
        """Write the appended records, and release the archive. It is closed even if writing fails.

        Raises:
            ArchiveError: the last records are not written.
        """
        try:
            if not self._has_failed:
                self.sync()
        finally:
            os.close(self._tail_descriptor)
            for each in (*self._tails, self._opened):
                if each is not None:
                    each.file.close()
            self._lock.release()

    @property
    def size(self) -> int:
        """The size of all files."""
        growing = [self._tail_end, *(each.file.size for each in self._tails)]
        opened = self._opened.file.size if self._opened else 0
        known = self._catalogue_as[3] if self._catalogue_as else 0
        return sum(row.bytes for row in self._catalogue.segments) + sum(growing) + opened + known

    @property
    def waiting(self) -> int:
        """The number of tails that ``work`` has to compact."""
        return len(self._tails)

    def append(self, records: Iterable[Record]) -> None:
        """Add records; they are durable after the next ``sync``.

        Args:
            records: in the order of their ids; those up to ``last_id`` are ignored. They must not
                change before the next ``sync``.

        Raises:
            ArchiveError: there is no space; none of ``records`` is added.
        """
        if self._builder.bytes >= limits.ARCHIVE_TAIL_BLOCK_BYTES:
            self._flush()
        self._builder.append(records)
        self.last_id = self._builder.last_id

    def sync(self) -> None:
        """Make all that was appended durable, and replace a full tail.

        Raises:
            ArchiveError: it cannot be written; it is tried again by the next call. After an error
                of the disk itself the archive must be opened again.
        """
        self._flush()
        if self.synced_id < self.last_id:
            try:
                os.fdatasync(self._tail_descriptor)
            except OSError as error:
                self._has_failed = True  # the kernel may have dropped the unwritten pages
                raise files.failed(self._tail_path, error) from None
            self.synced_id = self.last_id
        age_s = self._clock() - self._tail_begun
        if self._tail_bytes >= self._sizes.tail_bytes or (
            self._tail_bytes and age_s >= self._sizes.tail_age_s
        ):
            self._rotate()
        while len(self._tails) > limits.ARCHIVE_TAILS_WAITING_MAX:
            self.work()

    def work(self) -> bool:
        """Compact the oldest full tail into the open segment; return False if there is none.

        Raises:
            ArchiveError: it cannot be written; the next call tries again.
        """
        if not self._tails:
            return False
        chosen = self._next_tails()
        if _has_checkpoint(chosen[0]) and _is_begun(self._opened):
            self._seal()
        self._compact(chosen)
        del self._tails[: len(chosen)]
        self._write_catalogue()
        for tail in chosen:
            tail.file.close()
            with suppress(FileNotFoundError):
                tail.file.path.unlink()
        return True

    def seal(self) -> None:
        """End the open segment with the last record, and seal it.

        Raises:
            ArchiveError: it cannot be written.
        """
        self.sync()
        if self._tail_bytes or _is_begun(self._opened) or self._tails:
            self._rotate(ends_segment=True)
        while self.work():
            pass
        if _is_begun(self._opened):
            self._seal()
            self._write_catalogue()

    def retain(self, now_us: int, age_s: float, bytes_max: int) -> SegmentRow | None:
        """Drop the oldest segment if it is too old, or if there are too many bytes; return it.

        It drops one in each call, so that appending never waits for the removal of many.

        A segment of a clock that ran ahead is as old as the next one with a possible time.

        Args:
            now_us: the time, µs since the epoch.
            age_s: how long records are kept.
            bytes_max: most bytes of all files.

        Raises:
            ArchiveError: its file cannot be removed.
        """
        rows = self._catalogue.segments
        if not rows:
            return None
        newest_us = next((row.max_us for row in rows if row.max_us <= now_us), now_us)
        if self.size <= bytes_max and newest_us >= now_us - age_s * _US:
            return None
        dropped = self._catalogue.drop(self._index_of(rows[0]))
        self._write_catalogue()  # first: a reader must not miss a file that it knows
        path = self._directory / dropped.name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise files.failed(path, error) from None
        return dropped

    def check(self) -> None:
        """Compare the files on disk with those that are open; it takes some microseconds.

        Raises:
            ArchiveReplaced: the directory, or a file in it, was deleted, moved or replaced.
        """
        there: object = None
        with suppress(OSError):
            there = _identity(self._directory)
        if there != self._opened_as:
            raise ArchiveReplaced(f"{self._directory} was deleted, moved or replaced")
        if not self._lock.is_in_place():
            raise ArchiveReplaced(f"{self._directory / files.LOCK} was deleted or replaced")
        if catalogue.identity(self._directory) != self._catalogue_as:
            raise ArchiveReplaced(f"{self._directory / files.CATALOGUE} was deleted or replaced")
        ours = os.fstat(self._tail_descriptor)
        if ours.st_nlink == 0 or ours.st_size != self._tail_end:
            raise ArchiveReplaced(f"{self._tail_path} was deleted or changed")

    def _flush(self) -> None:
        """Write the collected records to the tail as one block."""
        if self._has_failed:
            raise ArchiveError(f"{self._directory}: the disk failed; it must be opened again")
        if not self._builder.count:
            return
        block = self._builder.build(_TAIL_LEVEL, limits.ARCHIVE_GROUP_BYTES)
        self._write_block(block)
        self._tail_bytes += self._builder.bytes
        self._segment_bytes += len(block)
        self._builder = Builder(self.last_id)

    def _write_block(self, block: bytes) -> None:
        try:
            files.write_all(self._tail_descriptor, block)
        except OSError as error:
            with suppress(OSError):  # else the next start removes it
                os.ftruncate(self._tail_descriptor, self._tail_end)
            raise files.failed(self._tail_path, error) from None
        self._tail_end += len(block)

    def _start_tail(self, *, begins_segment: bool) -> None:
        name = FileName(self.last_id, TAIL)
        path = self._directory / str(name)
        for each in [each for each in self._tails if each.file.path == path]:
            begins_segment = begins_segment or _has_checkpoint(each)  # it has no records
            self._tails.remove(each)
            each.file.close()
        path.unlink(missing_ok=True)  # a reader may have it open
        descriptor = files.create(path, FileHeader(self._deployment, self.last_id))
        if self._tail_descriptor >= 0:
            os.close(self._tail_descriptor)
        self._tail_descriptor = descriptor
        self._tail_path = path
        self._tail_end = files.HEADER_BYTES
        self._tail_bytes = 0
        self._tail_begun = self._clock()
        if begins_segment:
            self._write_checkpoint()
        self._write_catalogue()

    def _write_checkpoint(self) -> None:
        """Write the books, in blocks; at least one, which says that a segment begins."""
        builder, is_written = Builder(), False
        for message in self._checkpoint():
            message.id = self.last_id
            builder.add_book(message)
            if builder.bytes >= limits.ARCHIVE_BLOCK_BYTES:
                self._write_block(_checkpoint_block(builder, _TAIL_LEVEL))
                builder, is_written = Builder(), True
        if builder.count or not is_written:
            self._write_block(_checkpoint_block(builder, _TAIL_LEVEL))

    def _rotate(self, *, ends_segment: bool = False) -> None:
        """Replace the tail by the next one."""
        age_s = self._clock() - self._segment_begun
        begins = (
            ends_segment
            or self._segment_bytes >= self._sizes.segment_bytes
            or age_s >= self._sizes.segment_age_s
        )
        if self._tail_bytes or _has_blocks(self._tail_path):
            file = BlockFile(self._tail_path)
            index = Index()
            collect(file, index, file.refresh())
            self._tails.append(Growing(file, index))
        self._start_tail(begins_segment=begins)
        if begins:
            self._segment_begun, self._segment_bytes = self._clock(), 0

    def _next_tails(self) -> list[Growing]:
        """Return the oldest tail, and those after it that fit into the same block."""
        chosen = self._tails[:1]
        size = chosen[0].file.size
        for tail in self._tails[1:]:  # small ones are left by writers that ended early
            size += tail.file.size
            if _has_checkpoint(tail) or size > self._sizes.tail_bytes // 8:
                break
            chosen.append(tail)
        return chosen

    def _compact(self, tails: list[Growing]) -> None:
        """Append the records of ``tails`` to the open segment as one block."""
        if self._opened is None:
            after_id = tails[0].file.header.after_id
            path = self._directory / str(FileName(after_id, OPEN))
            os.close(files.create(path, FileHeader(self._deployment, after_id)))
            self._opened = Growing(BlockFile(path), Index())
        opened = self._opened
        blocks = []
        builder = Builder()
        topics = {*self._catalogue.messages, *opened.contents.summaries}
        for tail in tails:
            topics.update(tail.contents.summaries)
        for tail, block in [(each, block) for each in tails for block in each.contents.all_blocks]:
            if block.header.kind == CHECKPOINT:
                books = Builder()
                self.unreadable += compaction.extend(books, tail.file, block, ())
                blocks.append(_checkpoint_block(books, _BLOCK_LEVEL))
            else:
                self.unreadable += compaction.extend(builder, tail.file, block, topics)
        if builder.count:
            blocks.append(builder.build(_BLOCK_LEVEL, limits.ARCHIVE_GROUP_BYTES))
        _append(opened.file, b"".join(blocks))
        collect(opened.file, opened.contents, opened.file.refresh())

    def _seal(self) -> None:
        """Give the open segment its footer and its final name."""
        opened = self._opened
        if opened is None:
            raise AssertionError("there is no open segment")
        file = opened.file
        _append(file, opened.contents.pack(file.end))
        path = file.path.with_suffix(SEGMENT)
        try:
            file.path.rename(path)
        except OSError as error:
            raise files.failed(path, error) from None
        files.sync_directory(self._directory)
        self._catalogue.add(file.header.after_id, opened.contents, file.size)
        file.close()
        self._opened = None

    def _write_catalogue(self) -> None:
        names = [self._tail_path.name, *(each.file.path.name for each in self._tails)]
        self._catalogue.growing = dict.fromkeys(names, b"")
        if self._opened is not None:
            file, contents = self._opened.file, self._opened.contents
            self._catalogue.growing[file.path.name] = contents.pack(file.end)
        self._catalogue.write(self._directory)
        self._catalogue_as = catalogue.identity(self._directory)

    def _index_of(self, row: SegmentRow) -> Index | None:
        try:
            file = BlockFile(self._directory / row.name, self._deployment)
        except (FileNotFoundError, DamagedArchive):
            return None
        try:
            return read_footer(file)
        finally:
            file.close()


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _has_checkpoint(growing: Growing) -> bool:
    return bool(growing.contents.checkpoints)


def _is_begun(growing: Growing | None) -> bool:
    return growing is not None and bool(growing.contents.blocks)


def _has_blocks(path: Path) -> bool:
    return path.stat().st_size > files.HEADER_BYTES


def _checkpoint_block(builder: Builder, level: int) -> bytes:
    return builder.build(level, limits.ARCHIVE_GROUP_BYTES, CHECKPOINT)


def _append(file: BlockFile, data: bytes) -> None:
    """Append to a growing file, durably; on failure it is as before."""
    end = file.end
    try:
        descriptor = os.open(file.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, end)
            os.lseek(descriptor, end, os.SEEK_SET)
            files.write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise files.failed(file.path, error) from None
