"""Searching the archive: by sequence, by trade id, by receive time, and for the start of a book."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.log.archive import summary
from hedgehogd.log.archive.block import Directory
from hedgehogd.log.archive.errors import DamagedArchive
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.view import Opened, Source


class Stretch(NamedTuple):
    """Consecutive ids.

    Attributes:
        after_id: the position before the first one.
        last_id: the last one.
    """

    after_id: int
    last_id: int


def find(
    reader: Reader, topic: Topic, number: int, *, is_trade_id: bool = False
) -> tuple[int, int] | None:
    """Return id and number of the newest message of ``topic`` with ``number`` or a smaller one.

    Args:
        reader: the archive.
        topic: the topic.
        number: a sequence, or a trade id.
        is_trade_id: True for a trade id.

    Returns:
        None if the archive has no such message. After a reset of the exchange's numbers the
        newest message counts, even if an older one has exactly the number.

    Raises:
        ArchiveError: the archive cannot be read.
    """
    reader.view.refresh()
    wanted = frozenset({topic})
    for opened in _newest_first(reader, topic):
        whole = opened.contents.summaries.get(topic)
        if whole is not None and not whole.begins_by(number, is_trade_id=is_trade_id):
            continue
        mask = opened.contents.mask(wanted)
        blocks = [n for n in range(len(opened.contents.blocks)) if opened.contents.has(n, mask)]
        if whole is not None and not whole.falls:
            blocks = _up_to(opened, blocks, topic, number, is_trade_id=is_trade_id)
        for at in reversed(blocks):
            merged = reader.blocks.merged(opened, at, wanted)
            for record in reversed(merged.records(0, len(merged.ids))):
                if isinstance(record, Message):
                    found = record.trade_id if is_trade_id else record.sequence
                    if found is not None and found <= number:
                        return record.id, found
    return None


def _up_to(
    opened: Opened, blocks: list[int], topic: Topic, number: int, *, is_trade_id: bool
) -> list[int]:
    """Return those of ``blocks`` that begin by ``number``; numbers rise from block to block."""
    low, high = 0, len(blocks)
    while low < high:
        middle = (low + high) // 2
        try:
            block = opened.contents.blocks[blocks[middle]]
            topics = opened.file.directory(block).topics()
            each = summary.by_topic(topics, opened.file.summaries(block)).get(topic)
        except DamagedArchive:
            return blocks
        first = (
            None if each is None else each.first_trade_id if is_trade_id else each.first_sequence
        )
        if first is not None and first > number:
            high = middle
        else:
            low = middle + 1
    return blocks[:low]


def find_time(reader: Reader, received_us: int, topics: frozenset[Topic] | None = None) -> int:
    """Return the place before the first record that was received at ``received_us`` or later.

    With topics, only their records count. The records after it may include earlier ones: a clock
    may have been set back. With no such record it is the last id of the archive.

    Raises:
        ArchiveError: the archive cannot be read.
    """
    reader.view.refresh()
    for opened, number in _blocks(reader, received_us):
        found = reader.blocks.merged(opened, number, topics).first_from(received_us)
        if found is not None:
            return found - 1
    return reader.view.last_id


def stretches(reader: Reader, since_us: int, until_us: int) -> list[Stretch]:
    """Return the stretches of all records received from ``since_us`` to before ``until_us``.

    There are several if the clock was set. A stretch ends where blocks end, so it has records of
    the seconds before and after, too. A file that is missing or damaged is in a stretch if it may
    have had such a record. Segments of other times are not opened.

    Raises:
        ArchiveError: the archive cannot be read.
    """
    reader.view.refresh()
    found: list[Stretch] = []
    continues = False
    for source in list(reader.view.sources):
        for first_id, last_id, min_us, max_us in _spans(reader, source, since_us, until_us):
            if not _overlaps(min_us, max_us, since_us, until_us):
                continues = False
            elif continues:
                found[-1] = Stretch(found[-1].after_id, last_id)
            else:
                found.append(Stretch(first_id - 1, last_id))
                continues = True
    return found


def _spans(
    reader: Reader, source: Source, since_us: int, until_us: int
) -> list[tuple[int, int, int, int]]:
    """Return ids and receive times, each the first and last ones, of the parts of a file."""
    row = source.row
    if row is not None and (
        not _overlaps(row.min_us, row.max_us, since_us, until_us)
        or (since_us <= row.min_us and row.max_us < until_us)
    ):
        return [(row.first_id, row.last_id, row.min_us, row.max_us)]
    opened = open_readable(reader, source)
    if opened is None:
        return [(source.first_id, source.last_id, since_us, since_us)]
    headers = [block.header for block in opened.contents.blocks]
    return [(each.first_id, each.last_id, each.min_us, each.max_us) for each in headers]


def _blocks(reader: Reader, since_us: int) -> Iterator[tuple[Opened, int]]:
    """Iterate over the blocks with a record received at ``since_us`` or later."""
    for source in list(reader.view.sources):
        if source.row is not None and source.row.max_us < since_us:
            continue
        opened = open_readable(reader, source)
        if opened is not None:
            for number, block in enumerate(opened.contents.blocks):
                if block.header.max_us >= since_us:
                    yield opened, number


def _overlaps(min_us: int, max_us: int, since_us: int, until_us: int) -> bool:
    return max_us >= since_us and min_us < until_us


def checkpoint_before(reader: Reader, topic: Topic, id_: int) -> Message | None:
    """Return the newest start of a book at or before ``id_``.

    It is a ``snapshot`` of the topic in the log, or the checkpoint at the start of a segment; the
    book at a later position is this one and the updates with larger ids.

    Returns:
        The message; the id of a checkpoint is that of the record that precedes its segment. None
        if there is no start of this book.

    Raises:
        ArchiveError: the archive cannot be read.
    """
    reader.view.refresh()
    wanted = frozenset({topic})
    for source in reversed(reader.view.sources):
        if source.row is not None and source.row.after_id > id_:
            continue
        opened = open_readable(reader, source)
        if opened is None:
            continue
        whole = opened.contents.summaries.get(topic)
        if source.first_id <= id_ and (whole is None or whole.snapshot_id):
            found = _snapshot(reader, opened, wanted, id_)
            if found is not None:
                return found
        if opened.file.header.after_id <= id_:
            found = next(books_in_checkpoint(opened, wanted), None)
            if found is not None:
                return found
    return None


def _snapshot(reader: Reader, opened: Opened, wanted: frozenset[Topic], id_: int) -> Message | None:
    """Return the newest snapshot in the log up to ``id_`` in one file."""
    mask = opened.contents.mask(wanted)
    for number in reversed(range(len(opened.contents.blocks))):
        if opened.contents.blocks[number].header.first_id > id_ or not opened.contents.has(
            number, mask
        ):
            continue
        merged = reader.blocks.merged(opened, number, wanted)
        for record in reversed(merged.records(0, merged.after(id_))):
            if isinstance(record, Message) and record.type == "snapshot":
                return record
    return None


def books_in_checkpoint(opened: Opened, topics: Collection[Topic]) -> Iterator[Message]:
    """Iterate over the readable books of ``topics`` in the checkpoint of one file."""
    wanted = frozenset(topics)
    for block in opened.contents.checkpoints:
        try:
            directory: Directory = opened.file.directory(block)
            for part, _ in directory.find(wanted):
                group = opened.file.group(block, directory.place(part.group))
                yield from group.messages(part.topic, part.begin, part.begin + 1)
        except DamagedArchive:
            continue


def _newest_first(reader: Reader, topic: Topic) -> Iterator[Opened]:
    """Iterate over the files that may have messages of ``topic``, newest first."""
    mask = reader.view.catalogue.mask([topic])
    for source in reversed(list(reader.view.sources)):
        if source.row is None or source.row.mask & mask:
            opened = open_readable(reader, source)
            if opened is not None:
                yield opened


def open_readable(reader: Reader, source: Source) -> Opened | None:
    """Open a file; None if it is damaged or missing, perhaps because retention has removed it."""
    try:
        return reader.view.open(source)
    except (FileNotFoundError, DamagedArchive):
        return None
