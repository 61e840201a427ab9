"""The index of a file: its blocks, its topics, and which block has which topic.

The index of a sealed segment is its footer. That of a growing file is collected from its blocks as
they are found. The footer of a sealed segment may be damaged; its index is then collected, too.
"""

import struct
import zlib
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import intern_topic
from hedgehogd.log.archive import columns, summary
from hedgehogd.log.archive.block import CHECKPOINT, RECORDS, Header
from hedgehogd.log.archive.block_file import BlockAt, BlockFile, Damage
from hedgehogd.log.archive.errors import ArchiveError, DamagedArchive
from hedgehogd.log.archive.summary import Summary

_TRAILER = struct.Struct("<QII8s")
_MAGIC = b"HEDGFOOT"
_UNKNOWN = -1
Part = TypeVar("Part")


class _Footer(msgspec.Struct, array_like=True):
    """The contents of a footer, packed by msgpack.

    Attributes:
        topics: channel and product of each topic.
        blocks: of each block the offset and the fields of its header, as columns.
        of_block: for each block its topics, the bits of a number in little-endian bytes; no bytes
            if they are unknown.
        summaries: of the topics.
        backfills: of each gap with backfilled trades in this file its id and the block's number.
    """

    topics: list[tuple[str, str]]
    blocks: list[bytes]
    of_block: list[bytes]
    summaries: bytes
    backfills: list[tuple[int, int]]


_decode = msgspec.msgpack.Decoder(_Footer).decode
_encode = msgspec.msgpack.Encoder().encode


class Index:
    """The contents of one file.

    Attributes:
        blocks: its blocks of records, in the order of their ids.
        checkpoints: its blocks with the books at its begin.
        summaries: of each topic; none of a topic whose summaries are damaged.
        backfills: gaps with backfilled trades in this file: by the gap's id the numbers of the
            blocks that have them.
        damages: the parts that could not be read.
        end: where the blocks end, if the index was packed; else 0.
    """

    def __init__(self) -> None:
        self.blocks: list[BlockAt] = []
        self.checkpoints: list[BlockAt] = []
        self.summaries: dict[Topic, Summary] = {}
        self.backfills: dict[int, list[int]] = {}
        self.damages: list[Damage] = []
        self.end = 0
        self._numbers: dict[Topic, int] = {}
        self._topics: list[Topic] = []
        self._of_block: list[int] = []

    @property
    def weight(self) -> int:
        """Estimate of its memory, in bytes."""
        return 600 * len(self._topics) + (300 + len(self._topics) // 8) * len(self.blocks)

    @property
    def messages(self) -> int:
        """The number of messages."""
        return sum(block.header.messages for block in self.blocks)

    @property
    def all_blocks(self) -> list[BlockAt]:
        """The checkpoints, then the blocks of records."""
        return self.checkpoints + self.blocks

    @property
    def known_topics(self) -> list[Topic]:
        """All topics of the blocks whose topics are known."""
        return self._topics.copy()

    @property
    def has_unknown(self) -> bool:
        """True if the topics of a block are unknown, because it is damaged."""
        return _UNKNOWN in self._of_block

    def mask(self, topics: Iterable[Topic]) -> int:
        """Return the set of those of ``topics`` that are in this file, as the bits of a number."""
        mask = 0
        for topic in topics:
            number = self._numbers.get(topic)
            if number is not None:
                mask |= 1 << number
        return mask

    def has(self, block: int, mask: int) -> bool:
        """Say whether block number ``block`` has a topic of ``mask``, or is damaged."""
        found = self._of_block[block]
        return found == _UNKNOWN or bool(found & mask)

    def is_unknown(self, block: int) -> bool:
        """Say whether the topics of block number ``block`` are unknown, because it is damaged."""
        return self._of_block[block] == _UNKNOWN

    def topics(self, block: int) -> list[Topic]:
        """Return the topics of block number ``block``; all if they are unknown."""
        mask: int = self._of_block[block]
        if mask == _UNKNOWN:
            return self._topics.copy()
        found = []
        while mask:
            lowest = mask & -mask
            found.append(self._topics[lowest.bit_length() - 1])
            mask ^= lowest
        return found

    def add(
        self,
        block: BlockAt,
        topics: list[Topic],
        summaries: list[Summary],
        gap_ids: Iterable[int],
    ) -> None:
        """Add the next block.

        Args:
            block: the block.
            topics: its topics.
            summaries: one of each of ``topics``; empty if they are damaged.
            gap_ids: the gaps of its backfilled trades.
        """
        if block.header.kind == CHECKPOINT:
            self.checkpoints.append(block)
            return
        mask = 0
        for topic in topics:
            number = self._numbers.get(topic)
            if number is None:
                number = self._numbers[topic] = len(self._topics)
                self._topics.append(topic)
            mask |= 1 << number
        for topic, each in summary.by_topic(topics, summaries).items():
            self.summaries[topic] = summary.joined(self.summaries.get(topic), each)
        for gap_id in gap_ids:
            self.backfills.setdefault(gap_id, []).append(len(self.blocks))
        self.blocks.append(block)
        self._of_block.append(mask if topics or not block.header.messages else _UNKNOWN)

    def lose(self, after_id: int, last_id: int, received_us: int) -> None:
        """Add a block that cannot be read if the blocks do not reach ``last_id``.

        Args:
            after_id: the position at which the file begins.
            last_id: the position at which the next file begins.
            received_us: about when the lost records were received, µs since the epoch.
        """
        last = self.blocks[-1] if self.blocks else None
        first_id = (last.header.last_id if last else after_id) + 1
        if first_id <= last_id:
            us = last.header.max_us if last else received_us
            header = Header(RECORDS, 1, 0, 0, 0, 0, 0, first_id, last_id, us, us, 0)
            self.add(BlockAt(last.end if last else 0, header), [], [], ())

    def pack(self, offset: int) -> bytes:
        """Encode the index as a footer that begins at ``offset`` of its file."""
        rows = [(block.offset, *block.header) for block in self.all_blocks]
        footer = _Footer(
            [(topic.channel, topic.product_id) for topic in self._topics],
            [columns.pack(list(column), rising=False) for column in zip(*rows, strict=True)],
            [_bytes(mask) for mask in self._of_block],
            summary.pack([self.summaries.get(topic, summary.UNKNOWN) for topic in self._topics]),
            [(gap_id, at) for gap_id, found in self.backfills.items() for at in found],
        )
        data = zlib.compress(_encode(footer))
        return data + _TRAILER.pack(offset, len(data), zlib.crc32(data), _MAGIC)

    def _load(self, footer: _Footer) -> None:
        rows = [columns.unpack(column, 0, rising=False)[0] for column in footer.blocks]
        blocks = [BlockAt(row[0], Header(*row[1:])) for row in zip(*rows, strict=True)]
        self.checkpoints = [block for block in blocks if block.header.kind == CHECKPOINT]
        self.blocks = [block for block in blocks if block.header.kind == RECORDS]
        self._topics = [intern_topic(*pair) for pair in footer.topics]
        self._numbers = {topic: number for number, topic in enumerate(self._topics)}
        summaries = summary.unpack(footer.summaries)
        pairs = zip(self._topics, summaries, strict=True)
        self.summaries = {topic: each for topic, each in pairs if each != summary.UNKNOWN}
        for data in footer.of_block:
            mask = int.from_bytes(data, "little") if data else _UNKNOWN
            if mask.bit_length() > len(self._topics) and data:
                raise DamagedArchive("a footer names a topic that it does not have")
            self._of_block.append(mask)
        for gap_id, at in footer.backfills:
            self.backfills.setdefault(gap_id, []).append(at)
        if len(self._of_block) != len(self.blocks):
            raise DamagedArchive("a footer with lists of different lengths")


def _bytes(mask: int) -> bytes:
    return b"" if mask == _UNKNOWN else mask.to_bytes(mask.bit_length() // 8 + 1, "little")


def unpack(data: bytes) -> Index:
    """Decode bytes that ``Index.pack`` returned.

    Raises:
        DamagedArchive: ``data`` differs from these bytes.
    """
    try:
        end, size, crc, magic = _TRAILER.unpack(data[-_TRAILER.size :])
        packed = data[: -_TRAILER.size]
        if magic != _MAGIC or size != len(packed) or crc != zlib.crc32(packed):
            raise DamagedArchive("the footer is damaged")
        index = Index()
        index.end = end
        index._load(_decode(zlib.decompress(packed)))  # noqa: SLF001  # the same module
    except (struct.error, zlib.error, msgspec.MsgspecError, columns.BadColumn, ValueError,
            TypeError, IndexError) as error:  # fmt: skip
        raise DamagedArchive(f"the footer: {error}") from None
    return index


def collect(file: BlockFile, index: Index, end: int | None = None) -> None:
    """Add the blocks that were appended to ``file`` to ``index``; note unreadable parts as damage.

    Args:
        file: the file.
        index: its index.
        end: where the blocks end; None for the end of the file.

    Raises:
        ArchiveError: the file system reports an error; the next call continues there.
    """
    blocks = file.refresh(end)
    for number, block in enumerate(blocks):
        try:
            _collect(file, index, block)
        except ArchiveError:
            file.forget(blocks[number:])
            raise
    index.damages += file.damages
    file.damages.clear()


def _collect(file: BlockFile, index: Index, block: BlockAt) -> None:
    """Add one block. Each part is read alone, so that damage of one does not hide another one."""
    damages: list[Damage] = []

    def undamaged(read: Callable[[BlockAt], list[Part]]) -> list[Part]:
        try:
            return read(block)
        except DamagedArchive as error:
            damages.append(Damage(file.path.name, block.offset, block.header.size, str(error)))
            return []

    topics = undamaged(lambda block: file.directory(block).topics())
    summaries = undamaged(file.summaries) if topics else []
    gap_ids: set[int] = set()
    if block.header.kind == RECORDS:
        markers = undamaged(file.markers)
        gap_ids = {gap_id for each in markers if (gap_id := getattr(each, "gap_id", 0))}
    index.damages += damages[:1]
    index.add(block, topics, summaries, sorted(gap_ids))


def read_footer(file: BlockFile) -> Index:
    """Return the index of a sealed segment; if its footer is damaged, that of its blocks.

    The blocks of ``file`` are then set.
    """
    try:
        end = file.size - _TRAILER.size
        trailer = file.read(max(0, end), _TRAILER.size)
        offset, size = struct.unpack_from("<QI", trailer)
        if offset + size != end:
            raise DamagedArchive("the footer is damaged")
        return unpack(file.read(offset, size) + trailer)
    except (DamagedArchive, struct.error) as error:
        index = Index()
        index.damages.append(Damage(file.path.name, file.size, 0, str(error)))
        file.add([])
        collect(file, index)
    return index


def growing(file: BlockFile, packed: bytes) -> Index:
    """Return the index of a growing file.

    Args:
        file: the file.
        packed: its index, as the catalogue has it, without the blocks that were appended since;
            empty or damaged bytes cost time alone.
    """
    index = Index()
    try:
        if packed:
            index = unpack(packed)
            file.add(index.all_blocks, index.end)
            if index.end > file.size:
                raise DamagedArchive("an index of another file")
    except DamagedArchive:
        index = Index()
        file.add([])
    collect(file, index)
    return index
