"""The level-2 books of the archive as of one of its records.

A book is its newest start, a snapshot in the log or in the checkpoint of a segment, and the changes
after it. The blocks since the oldest start are read once for all books together, in the order of
their ids; the messages of different topics in a block are not merged.

Not for the loop: it waits for the disk.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.record import GapRecord
from hedgehogd.log.archive.block import Part
from hedgehogd.log.archive.errors import DamagedArchive
from hedgehogd.log.archive.group import Group
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.search import books_in_checkpoint, open_readable
from hedgehogd.log.archive.summary import by_topic
from hedgehogd.log.archive.view import Opened, Source
from hedgehogd.log.collected_books import CHANNELS, Books


class _Rows(NamedTuple):
    """Messages of one topic in the order of their ids, as columns."""

    ids: Sequence[int]
    types: Sequence[str]
    payloads: Sequence[bytes]


def books_at(reader: Reader, topics: Collection[Topic], id_: int) -> dict[Topic, bytes]:
    """Return the books of ``topics`` as of the record ``id_``.

    Returns:
        The payload of a ``snapshot`` message of each topic whose book is known. It is not known
        without a start up to ``id_``, or with a gap, damaged records or an unreadable update after
        that.

    Raises:
        ArchiveError: the archive cannot be read.
    """
    reader.view.refresh()
    books = Books()
    after = dict(_starts(reader, topics, id_, books))  # the place after which a book continues
    for source in list(reader.view.sources_after(min(after.values(), default=id_))):
        if source.first_id > id_:
            break
        opened = open_readable(reader, source)
        if opened is None:
            for topic in _concerned(reader, source, after):
                if after[topic] < source.last_id:
                    del after[topic]
            continue
        for number, block in enumerate(opened.contents.blocks):
            last_id = block.header.last_id
            following = {topic for topic, place in after.items() if place < last_id}
            mask = opened.contents.mask(following)
            is_read = opened.contents.has(number, mask) or block.header.markers
            if following and block.header.first_id <= id_ and is_read:
                _follow(reader, opened, number, following, after, id_, books)
    found: dict[Topic, bytes] = {}
    for each in books.snapshots():
        if each.topic in after:
            found[each.topic] = each.payload
        books.end(each.topic)  # a book is ten times as large as its snapshot
    return found


def _starts(
    reader: Reader, topics: Collection[Topic], id_: int, books: Books
) -> Iterator[tuple[Topic, int]]:
    """Iterate over the topics with a start up to ``id_``, each with the place before its changes.

    A snapshot in the log counts as the first of the changes; one in a checkpoint is put into
    ``books``.
    """
    wanted = set(topics)
    for source in reversed(reader.view.sources):
        if not wanted:
            return
        if _after_id(source) > id_:
            continue
        opened = open_readable(reader, source)
        if opened is None:
            continue  # a book that would begin before it has lost changes, and is left out later
        mask = opened.contents.mask(wanted)
        for number in reversed(range(len(opened.contents.blocks))):
            if opened.contents.blocks[number].header.first_id > id_:
                continue
            if opened.contents.has(number, mask):
                found = _snapshots(reader, opened, number, wanted, id_)
                yield from ((topic, at - 1) for topic, at in found.items())
                wanted -= found.keys()
        for message in books_in_checkpoint(opened, wanted):
            books.follow(message.topic, message)
            yield message.topic, _after_id(source)
            wanted.discard(message.topic)


def _after_id(source: Source) -> int:
    """Return the id after which a file begins: its checkpoint has the books of that place."""
    if source.row is not None:
        return source.row.after_id
    return source.first_id - 1 if source.opened is None else source.opened.key[0]


def _snapshots(
    reader: Reader, opened: Opened, number: int, topics: Collection[Topic], id_: int
) -> dict[Topic, int]:
    """Return the ids of the newest snapshots up to ``id_`` in one block, by topic."""
    block = opened.contents.blocks[number]
    if block.header.last_id <= id_:
        try:
            names = opened.file.directory(block).topics()
            summaries = by_topic(names, opened.file.summaries(block))
        except DamagedArchive:
            pass  # the messages themselves may be readable
        else:
            return {
                topic: each.snapshot_id
                for topic, each in summaries.items()
                if each.snapshot_id and topic in topics
            }
    found: dict[Topic, int] = {}
    parts, _ = reader.blocks.parts(opened, number, frozenset(topics))
    for topic, rows in _rows(parts, topics).items():
        pairs = zip(rows.ids, rows.types, strict=True)
        ids = [at for at, kind in pairs if kind == "snapshot" and at <= id_]
        if ids:
            found[topic] = ids[-1]
    return found


def _follow(
    reader: Reader,
    opened: Opened,
    number: int,
    topics: set[Topic],
    after: dict[Topic, int],
    id_: int,
    books: Books,
) -> None:
    """Add the messages of a block up to ``id_``; remove the topics whose book is not known then."""
    last_id = opened.contents.blocks[number].header.last_id
    parts, damaged = reader.blocks.parts(opened, number, frozenset(topics))
    # The newest place at which changes were lost; a message may have been of both channels.
    lost = {Topic(channel, t.product_id): last_id for t in damaged for channel in CHANNELS}
    try:
        found = opened.file.markers(opened.contents.blocks[number])
    except DamagedArchive:
        lost = dict.fromkeys(topics, last_id)
    else:
        for gap in found:
            if isinstance(gap, GapRecord) and gap.id <= id_:
                lost[gap.topic] = max(lost.get(gap.topic, 0), gap.id)
    for topic in topics:
        if lost.get(topic, 0) > after[topic]:
            del after[topic]
    for topic, (ids, types, payloads) in _rows(parts, topics & after.keys()).items():
        chosen = slice(bisect_right(ids, after[topic]), bisect_right(ids, id_))
        books.follow_all(topic, types[chosen], payloads[chosen])


def _rows(
    parts: Sequence[tuple[Part, Group, frozenset[Topic] | None]], topics: Collection[Topic]
) -> dict[Topic, _Rows]:
    """Return the messages of ``topics`` in one block.

    A topic has its own messages, and those of which it is the second topic.
    """
    found: dict[Topic, _Rows] = {}
    for part, group, _ in parts:
        stretch = slice(part.begin, part.end)
        rows = _Rows(group.ids[stretch], group.types[stretch], group.payloads[stretch])
        second = group.also[stretch]
        if part.topic in topics:
            found[part.topic] = _joined(found.get(part.topic), rows)
        for topic in {*second} - {None, part.topic}:
            if topic is not None and topic in topics:
                its = [at for at, also in enumerate(second) if also == topic]
                chosen = _Rows(
                    [rows.ids[at] for at in its],
                    [rows.types[at] for at in its],
                    [rows.payloads[at] for at in its],
                )
                found[topic] = _joined(found.get(topic), chosen)
    return found


def _joined(one: _Rows | None, other: _Rows) -> _Rows:
    if one is None:
        return other
    return _Rows(*zip(*sorted([*zip(*one, strict=True), *zip(*other, strict=True)]), strict=True))


def _concerned(reader: Reader, source: Source, topics: Collection[Topic]) -> list[Topic]:
    """Return those of ``topics`` that a file may have had."""
    if source.row is None:
        return list(topics)
    return [topic for topic in topics if source.row.mask & reader.view.catalogue.mask([topic])]
