"""Reading the blocks of one file: which there are, and their parts.

``BlockFile`` reads a file that may be growing: ``refresh`` looks for blocks that were appended.
A block counts when the file is as long as its header says; the writer appends with one call, and
a process that ends in it leaves a part of a block, which the next writer removes. Not safe to
share between threads.
"""

import os
import zlib
from pathlib import Path
from typing import NamedTuple

from hedgehogd.log.archive import files, group, markers, summary
from hedgehogd.log.archive.block import (
    CHECKPOINT,
    HEADER_BYTES,
    RECORDS,
    Directory,
    Header,
    Place,
    unpack_header,
)
from hedgehogd.log.archive.errors import ArchiveError, DamagedArchive
from hedgehogd.log.archive.files import FileHeader
from hedgehogd.log.archive.group import Group
from hedgehogd.log.archive.markers import Marker
from hedgehogd.log.archive.summary import Summary

_SEARCH_BYTES = 1024 * 1024
_MAGIC = b"HEDB"


class BlockAt(NamedTuple):
    """A block and where it is.

    Attributes:
        offset: distance of its header from the start of the file.
        header: its header.
    """

    offset: int
    header: Header

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.offset + self.header.size


class Damage(NamedTuple):
    """Bytes of a file that are not readable.

    Attributes:
        file: the name of the file.
        offset: where they begin.
        size: how many.
        fault: the fault of these bytes.
    """

    file: str
    offset: int
    size: int
    fault: str


class BlockFile:
    """One file of blocks, open for reading.

    Args:
        path: the file.
        deployment: the deployment that it must be of; None for any.

    Raises:
        FileNotFoundError: there is no such file.
        ArchiveError: it cannot be read, or is not a file of this archive.

    Attributes:
        path: the file.
        header: its header.
        blocks: the blocks found so far, in order.
        end: where the next block begins.
        damages: bytes between blocks that are not blocks.
    """

    def __init__(self, path: Path, deployment: str | None = None) -> None:
        self.path = path
        self.blocks: list[BlockAt] = []
        self.damages: list[Damage] = []
        self.end = files.HEADER_BYTES
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise files.failed(path, error) from None
        try:
            first = self.read(0, files.HEADER_BYTES)
            self.header: FileHeader = files.unpack_header(first, path.name, deployment)
        except ArchiveError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        """Close the file: a cache may drop it while a read still uses it."""
        self.close()

    @property
    def is_in_place(self) -> bool:
        """True if the file at its path is still this one."""
        try:
            there, ours = self.path.stat(), os.fstat(self._descriptor)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    @property
    def inode(self) -> int:
        """Its inode."""
        return os.fstat(self._descriptor).st_ino

    @property
    def size(self) -> int:
        """The size of the file, in bytes. Raises ArchiveError."""
        try:
            return os.fstat(self._descriptor).st_size
        except OSError as error:
            raise files.failed(self.path, error) from None

    def sync(self) -> None:
        """Make the bytes of the file durable, whichever process wrote them. Raises ArchiveError."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise files.failed(self.path, error) from None

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``, or as many as there are.

        Raises:
            ArchiveError: the file system reports an error.
        """
        try:
            data = os.pread(self._descriptor, size, offset)
            while len(data) < size and (more := os.pread(
                self._descriptor, size - len(data), offset + len(data)
            )):  # fmt: skip
                data += more
        except OSError as error:
            raise files.failed(self.path, error) from None
        return data

    def refresh(self, end: int | None = None) -> list[BlockAt]:
        """Look for blocks that were appended; return them.

        Bytes that are not a block are skipped if a block follows them, and noted as damage. If ids
        are missing there, the blocks have one with these ids that cannot be read.

        Args:
            end: where the blocks end; None for the end of the file.

        Raises:
            ArchiveError: the file system reports an error; the next call finds the same blocks.
        """
        size = self.size if end is None else end
        found: list[BlockAt] = []
        damages: list[Damage] = []
        next_ = self.end
        while next_ + HEADER_BYTES <= size:
            at = self._block_at(next_, size)
            if at is None:
                at = self._search(next_ + 1, size)
                if at is None:
                    break
                fault = "bytes that are not a block"
                damages.append(Damage(self.path.name, next_, at.offset - next_, fault))
                found += self._lost(found or self.blocks, next_, at)
            found.append(at)
            next_ = at.end
        self.end = next_
        self.blocks += found
        self.damages += damages
        return found

    def forget(self, blocks: list[BlockAt]) -> None:
        """Find ``blocks``, the last ones of the file, again at the next ``refresh``."""
        if blocks:
            del self.blocks[-len(blocks) :]
            self.end = blocks[0].offset
            self.damages = [each for each in self.damages if each.offset < self.end]

    def add(self, blocks: list[BlockAt], end: int = 0) -> None:
        """Set the blocks, as an index lists them, instead of looking for them.

        Args:
            blocks: the blocks.
            end: where the next block begins; 0 for the end of the last one.
        """
        self.blocks = blocks
        self.end = end or (blocks[-1].end if blocks else files.HEADER_BYTES)

    def is_whole(self, block: BlockAt) -> bool:
        """Say whether all bytes of ``block`` are as they were written."""
        header = block.header
        try:
            if unpack_header(self.read(block.offset, HEADER_BYTES)) != header:
                return False
        except DamagedArchive:
            return False
        body = self.read(block.offset + HEADER_BYTES, header.body_bytes)
        return len(body) == header.body_bytes and zlib.crc32(body) == header.body_crc

    def directory(self, block: BlockAt) -> Directory:
        """Read the directory of ``block``.

        Raises:
            DamagedArchive: it is damaged.
        """
        data = self.read(block.offset + HEADER_BYTES, block.header.directory_bytes)
        return Directory(data, block.header.groups_begin)

    def summaries(self, block: BlockAt) -> list[Summary]:
        """Read the summaries of the topics of ``block``, in the order of ``Directory.topics``.

        Raises:
            DamagedArchive: they are damaged.
        """
        begin = block.offset + HEADER_BYTES + block.header.directory_bytes
        return summary.unpack(self.read(begin, block.header.summaries_bytes))

    def group(self, block: BlockAt, place: Place) -> Group:
        """Read and decompress one group of ``block``.

        Raises:
            DamagedArchive: it is damaged.
        """
        data = self.read(block.offset + place.offset, place.size)
        if zlib.crc32(data) != place.crc:
            raise DamagedArchive("the checksum of a group is wrong")
        return group.unpack(place.topic, data, place.raw_size)

    def markers(self, block: BlockAt) -> list[Marker]:
        """Read the markers of ``block``.

        Raises:
            DamagedArchive: they are damaged.
        """
        size = block.header.markers_bytes
        if not size:
            return []
        return markers.unpack(self.read(block.end - size, size))

    def _block_at(self, offset: int, size: int) -> BlockAt | None:
        try:
            block = BlockAt(offset, unpack_header(self.read(offset, HEADER_BYTES)))
        except DamagedArchive:
            return None
        return block if block.end <= size else None

    def _lost(self, before: list[BlockAt], offset: int, following: BlockAt) -> list[BlockAt]:
        """Return a block without a directory for the ids of bytes that are not a block."""
        last = before[-1].header if before else None
        # A checkpoint without books has the id 0.
        first_id = max(last.last_id if last else 0, self.header.after_id) + 1
        last_id = following.header.first_id - 1
        size = following.offset - offset - HEADER_BYTES
        if first_id > last_id or following.header.kind == CHECKPOINT or size < 0:
            return []
        times = following.header.min_us, last.max_us if last else following.header.min_us
        header = Header(RECORDS, 1, 0, 0, 0, 0, size, first_id, last_id, min(times), max(times), 0)
        return [BlockAt(offset, header)]

    def _search(self, offset: int, size: int) -> BlockAt | None:
        """Return the next block from ``offset`` on."""
        while offset < size:
            data = self.read(offset, min(_SEARCH_BYTES, size - offset))
            at = data.find(_MAGIC)
            while at >= 0:
                block = self._block_at(offset + at, size)
                if block is not None:
                    return block
                at = data.find(_MAGIC, at + 1)
            if len(data) < _SEARCH_BYTES:
                return None
            offset += len(data) - len(_MAGIC) + 1
        return None
