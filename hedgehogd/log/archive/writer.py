"""Writing the archive: append records, sync them, compact them, drop the oldest.

Records are collected, written to the *tail* as a small block and synced (``sync``, once a second).
A tail that is full is replaced by the next one; ``work`` makes one block of it and appends this to
the *open segment*. When that is full it gets a footer and a name that says it is sealed. No file is
changed once it is complete, and a file is removed only after its replacement is durable.

Not for the loop: every method may wait for the disk. One call at a time, from any thread.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from hedgehogd.domain import limits
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import Record
from hedgehogd.log.archive import catalogue, compaction, files, inventory
from hedgehogd.log.archive.block import CHECKPOINT, Builder
from hedgehogd.log.archive.block_file import BlockFile
from hedgehogd.log.archive.catalogue import Catalogue, SegmentRow
from hedgehogd.log.archive.errors import ArchiveError, ArchiveFull, ArchiveReplaced
from hedgehogd.log.archive.files import OPEN, SEGMENT, FileHeader, FileName
from hedgehogd.log.archive.index import Index, collect, read_footer
from hedgehogd.log.archive.inventory import Growing, Inventory
from hedgehogd.log.archive.lock import Lock
from hedgehogd.log.archive.tail import Tail
from hedgehogd.log.file_system import make_directory

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
            make_directory(directory)
            self._opened_as = _identity(directory)
        except OSError as error:
            raise files.failed(directory, error) from None
        with ExitStack() as undo:
            self._lock = Lock(directory)
            undo.callback(self._lock.release)
            found = inventory.take(directory, deployment)
            undo.callback(found.close)
            self._begin(found)
            undo.callback(self._tail.close)
            self._write_catalogue()
            undo.pop_all()

    def _begin(self, found: Inventory) -> None:
        self.problems = found.problems
        self.unreadable = 0
        self._catalogue: Catalogue = found.catalogue
        self._opened = found.opened
        self._tails: list[Growing] = found.tails
        rows = self._catalogue.segments
        ends = [self._catalogue.dropped_id, *(row.last_id for row in rows[-1:])]
        for each in (*self._tails, self._opened):
            if each is not None:
                ends += [each.last_id, each.file.header.after_id]
        self.last_id = self.synced_id = max(ends)
        self._builder = Builder(self.last_id)
        self._has_failed = False
        self._is_catalogue_due = False
        self._catalogue_as = catalogue.identity(self._directory)
        self._replaced: dict[Path, int] = {}
        self._segment_begun = self._clock()
        self._segment_bytes = self._opened.file.size if self._opened else 0
        # The last writer's tail without records is replaced by the new one, of the same name.
        empty = [each for each in self._tails if each.file.header.after_id == self.last_id]
        for each in empty:
            self._tails.remove(each)
            each.file.close()
        self._tail = self._new_tail(
            begins_segment=(self._opened is None and not self._tails)
            or any(_has_checkpoint(each) for each in empty)
        )

    def close(self) -> None:
        """Write the appended records, and release the archive. It is closed even if writing fails.

        Raises:
            ArchiveError: the last records are not written.
        """
        with ExitStack() as closing:
            closing.callback(self._lock.release)
            for each in (*self._tails, self._opened):
                if each is not None:
                    closing.callback(each.file.close)
            closing.callback(self._tail.close)
            if not self._has_failed:
                self.sync()

    @property
    def size(self) -> int:
        """The size of all files."""
        growing = [self._tail.size, *(each.file.size for each in self._tails)]
        opened = self._opened.file.size if self._opened else 0
        known = self._catalogue_as.bytes if self._catalogue_as else 0
        sealed = sum(row.bytes for row in self._catalogue.segments)
        return sealed + sum(growing) + opened + known + sum(self._replaced.values())

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
        """Make all that was appended durable and readable, and replace a full tail.

        Raises:
            ArchiveError: it cannot be written; it is tried again by the next call. After an error
                of the disk itself the archive must be opened again.
        """
        self._flush()
        if self.synced_id < self.last_id:
            try:
                self._tail.sync()
            except ArchiveError:
                self._has_failed = True
                raise
        if self._is_catalogue_due:  # without it readers miss the tail, or its name is not durable
            self._write_catalogue()
        self.synced_id = self.last_id
        age_s = self._clock() - self._tail.begun_s
        if self._tail.bytes >= self._sizes.tail_bytes or (
            self._tail.bytes and age_s >= self._sizes.tail_age_s
        ):
            self._rotate()
        while len(self._tails) > limits.ARCHIVE_TAILS_WAITING_MAX:
            self.work()

    def work(self) -> bool:
        """Compact the oldest full tail into the open segment; return False if there is none.

        Raises:
            ArchiveError: it cannot be written; the next call tries again.
        """
        self._remove_replaced()
        if not self._tails:
            return False
        chosen = self._next_tails()
        replaced = {tail.file.path: tail.file.size for tail in chosen}
        if _has_checkpoint(chosen[0]) and _is_begun(self._opened):
            self._seal()
        self._compact(chosen)
        del self._tails[: len(chosen)]
        self._replaced |= replaced
        for tail in chosen:
            tail.file.close()
        self._is_catalogue_due = True
        self._remove_replaced()
        return True

    def seal(self) -> None:
        """End the open segment with the last record, and seal it.

        Raises:
            ArchiveError: it cannot be written.
        """
        self.sync()
        if self._tail.bytes or _is_begun(self._opened) or self._tails:
            self._rotate(ends_segment=True)
        while self.work():
            pass
        if _is_begun(self._opened):
            self._seal()

    def retain(self, now_us: int, age_s: float, bytes_max: int) -> SegmentRow | None:
        """Drop the oldest segment if it is too old, or if there are too many bytes; return it.

        It drops one in each call, so that appending never waits for the removal of many.

        A segment of a clock that ran ahead is as old as the next one with a possible time.

        On a full disk the file is removed before the catalogue is written: until then readers
        report its records as a gap.

        Args:
            now_us: the time, µs since the epoch.
            age_s: how long records are kept.
            bytes_max: most bytes of all files.

        Raises:
            ArchiveError: the catalogue cannot be written, or the file cannot be removed; the next
                call tries again before it drops another one, unless the disk is full.
        """
        full: ArchiveFull | None = None
        try:
            self._remove_replaced()
        except ArchiveFull as error:
            full = error
        rows = self._catalogue.segments
        newest_us = next((row.max_us for row in rows if row.max_us <= now_us), now_us)
        if not rows or (self.size <= bytes_max and newest_us >= now_us - age_s * _US):
            if full is not None:
                raise full
            return None
        dropped = self._catalogue.drop(self._index_of(rows[0]))
        path = self._directory / dropped.name
        self._replaced[path] = dropped.bytes
        self._is_catalogue_due = True
        try:
            self._remove_replaced()
        except ArchiveFull:
            files.remove(path)
            del self._replaced[path]
            self._remove_replaced()
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
        self._tail.check()

    def _flush(self) -> None:
        """Write the collected records to the tail as one block."""
        if self._has_failed:
            raise ArchiveError(f"{self._directory}: the disk failed; it must be opened again")
        if not self._builder.count:
            return
        block = self._builder.build(_TAIL_LEVEL, limits.ARCHIVE_GROUP_BYTES)
        self._tail.write(block, self._builder.bytes)
        self._segment_bytes += len(block)
        self._builder = Builder(self.last_id)

    def _new_tail(self, *, begins_segment: bool) -> Tail:
        """Return a complete tail that follows the last record."""
        blocks = self._checkpoint_blocks() if begins_segment else iter(())
        return Tail(self._directory, self._deployment, self.last_id, blocks, self._clock())

    def _checkpoint_blocks(self) -> Iterator[bytes]:
        """Return the books, in blocks; at least one, which says that a segment begins."""
        builder, is_written = Builder(), False
        for message in self._checkpoint():
            message.id = self.last_id
            builder.add_book(message)
            if builder.bytes >= limits.ARCHIVE_BLOCK_BYTES:
                yield _checkpoint_block(builder, _TAIL_LEVEL)
                builder, is_written = Builder(), True
        if builder.count or not is_written:
            yield _checkpoint_block(builder, _TAIL_LEVEL)

    def _rotate(self, *, ends_segment: bool = False) -> None:
        """Replace the tail, all of which is durable, by the next one."""
        begins = (
            ends_segment
            or self._segment_bytes >= self._sizes.segment_bytes
            or self._clock() - self._segment_begun >= self._sizes.segment_age_s
        )
        ended, full = self._tail, None
        if ended.after_id < self.last_id:  # else the next one has its name, and replaces its file
            full = _indexed(ended.path)
        try:
            following = self._new_tail(begins_segment=begins)
        except BaseException:
            if full is not None:
                full.file.close()
            raise
        self._tail = following
        if full is not None:
            self._tails.append(full)
        if begins:
            self._segment_begun, self._segment_bytes = self._clock(), 0
        self._is_catalogue_due = True
        ended.close()
        self._write_catalogue()

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
            os.close(files.create(path, FileHeader(self._deployment, after_id))[0])
            self._opened = Growing(BlockFile(path), Index())
        opened = self._opened
        blocks = []
        unreadable = 0
        builder = Builder()
        topics = {*self._catalogue.messages, *opened.contents.summaries}
        for tail in tails:
            topics.update(tail.contents.summaries)
        for tail, block in [(each, block) for each in tails for block in each.contents.all_blocks]:
            if block.header.kind == CHECKPOINT:
                books = Builder()
                unreadable += compaction.extend(books, tail.file, block, ())
                blocks.append(_checkpoint_block(books, _BLOCK_LEVEL))
            else:
                unreadable += compaction.extend(builder, tail.file, block, topics)
        if builder.count:
            blocks.append(builder.build(_BLOCK_LEVEL, limits.ARCHIVE_GROUP_BYTES))
        _append(opened.file, b"".join(blocks))
        collect(opened.file, opened.contents)
        self.unreadable += unreadable

    def _seal(self) -> None:
        """Give the open segment its footer and its final name."""
        opened = self._opened
        if opened is None:
            raise AssertionError("there is no open segment")
        file = opened.file
        footer = opened.contents.pack(file.end)
        _append(file, footer)
        path = file.path.with_suffix(SEGMENT)
        try:
            file.path.rename(path)
        except OSError as error:
            raise files.failed(path, error) from None
        self._catalogue.add(file.header.after_id, opened.contents, file.end + len(footer))
        file.close()
        self._opened = None
        self._is_catalogue_due = True
        self._write_catalogue()

    def _write_catalogue(self) -> None:
        """Write the catalogue, and make all names durable."""
        names = [self._tail.path.name, *(each.file.path.name for each in self._tails)]
        self._catalogue.growing = dict.fromkeys(names, b"")
        if self._opened is not None:
            file, contents = self._opened.file, self._opened.contents
            self._catalogue.growing[file.path.name] = contents.pack(file.end)
        files.sync_directory(self._directory)  # first: it names no file that may disappear
        self._catalogue_as = self._catalogue.write(self._directory)
        files.sync_directory(self._directory)
        self._is_catalogue_due = False

    def _remove_replaced(self) -> None:
        """Remove the files that the catalogue no longer names."""
        if self._is_catalogue_due:  # first: a reader must not miss a file that it knows
            self._write_catalogue()
        for path in list(self._replaced):
            files.remove(path)
            del self._replaced[path]

    def _index_of(self, row: SegmentRow) -> Index | None:
        try:
            file = BlockFile(self._directory / row.name, self._deployment)
        except (FileNotFoundError, ArchiveError):
            return None
        try:
            return read_footer(file)
        except ArchiveError:
            return None
        finally:
            file.close()


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _has_checkpoint(growing: Growing) -> bool:
    return bool(growing.contents.checkpoints)


def _is_begun(growing: Growing | None) -> bool:
    return growing is not None and bool(growing.contents.blocks)


def _indexed(path: Path) -> Growing:
    """Open a complete tail for compaction."""
    file = BlockFile(path)
    try:
        index = Index()
        collect(file, index)
    except BaseException:
        file.close()
        raise
    return Growing(file, index)


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
            try:
                files.write_all(descriptor, data)
                os.fsync(descriptor)
            except OSError:
                with suppress(OSError):  # else the next append or the next start removes it
                    os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise files.failed(file.path, error) from None
