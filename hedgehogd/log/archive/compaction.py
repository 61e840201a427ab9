"""Compaction: the small blocks of tails become one block of the open segment.

A block of a second's records compresses worse than one of a minute's, and a book's checkpoint is
written once for each segment. Damaged parts of a tail become gap records in the new block.
"""

from collections.abc import Iterable

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.record import GapKind, GapRecord
from hedgehogd.log.archive.block import Builder, Part, Place
from hedgehogd.log.archive.block_file import BlockAt, BlockFile
from hedgehogd.log.archive.errors import DamagedArchive
from hedgehogd.log.archive.group import Group
from hedgehogd.log.archive.markers import Marker


def unreadable(topic: Topic, block: BlockAt) -> GapRecord:
    """Return the gap of ``topic`` for a block that cannot be read.

    Its id is the last one of the block: a reader that begins inside the block receives it, too.
    """
    header = block.header
    return GapRecord(topic, GapKind.UNREADABLE, id=header.last_id, received_us=header.max_us)


def extend(builder: Builder, file: BlockFile, block: BlockAt, topics: Iterable[Topic]) -> int:
    """Add all records of a block of ``file`` to ``builder``.

    Args:
        builder: collects the new block.
        file: the file.
        block: the block.
        topics: the topics that it may have, if its directory or its markers are damaged.

    Returns:
        The number of topics that are unreadable; the new block has a gap record for each.
    """
    gaps: list[Marker] = []
    parts: list[tuple[Part, Group]] = []
    markers: list[Marker] = []
    try:
        directory = file.directory(block)
    except DamagedArchive:
        gaps += [unreadable(topic, block) for topic in sorted(set(topics))]
    else:
        damaged: set[Topic] = set()
        groups: dict[int, Group | None] = {}
        for part in directory:
            if part.group not in groups:
                groups[part.group] = _group(file, block, directory.place(part.group))
            unpacked = groups[part.group]
            if unpacked is None or part.end > len(unpacked.ids):
                damaged.add(part.topic)
            else:
                parts.append((part, unpacked))
        gaps += [unreadable(topic, block) for topic in sorted(damaged)]
    try:
        markers = file.markers(block)
    except DamagedArchive:  # a topic may have had a record there and no message
        missing = {part.topic for part, _ in parts} | set(topics)
        missing -= {gap.topic for gap in gaps if isinstance(gap, GapRecord)}
        gaps += [unreadable(topic, block) for topic in sorted(missing)]
    builder.extend(block.header, parts, markers + gaps)
    return len(gaps)


def _group(file: BlockFile, block: BlockAt, place: Place) -> Group | None:
    try:
        return file.group(block, place)
    except DamagedArchive:
        return None
