"""Blocks: all records of a stretch of ids, grouped by topic.

A block is a header of fixed size, a directory, the summaries of its topics, the groups of messages,
and the markers. A reader that skips the block needs its header alone; the directory finds the
groups of a topic. Each group has a CRC of its own, so that damage costs one group and not its
block.
"""

import struct
import zlib
from array import array
from collections.abc import Iterable, Iterator
from itertools import accumulate, groupby
from typing import NamedTuple
from urllib.parse import quote, unquote

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message, intern_topic
from hedgehogd.domain.record import Record, TradeRecord
from hedgehogd.log.archive import columns, group, markers, summary
from hedgehogd.log.archive.errors import DamagedArchive
from hedgehogd.log.archive.group import Group, Run
from hedgehogd.log.archive.markers import Marker
from hedgehogd.log.archive.summary import Summary

RECORDS, CHECKPOINT = 0, 1
"""The kinds of blocks: records of the log, and the books at the start of a segment."""

_MAGIC = b"HEDB"
_HEADER = struct.Struct("<4sBxxxIIIIIIqqqqI")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
_DIRECTORY_LEVEL = 6
_FEW_TOPICS = 16


class Header(NamedTuple):
    """The header of a block.

    Attributes:
        kind: ``RECORDS`` or ``CHECKPOINT``.
        messages: number of messages.
        markers: number of markers.
        directory_bytes: size of the directory.
        summaries_bytes: size of the summaries.
        markers_bytes: size of the markers.
        body_bytes: size of all that follows the header.
        first_id: the smallest id; of a checkpoint the id that it follows.
        last_id: the largest id.
        min_us: the earliest receive time, µs since the epoch.
        max_us: the latest one.
        body_crc: CRC-32 of all that follows the header.
    """

    kind: int
    messages: int
    markers: int
    directory_bytes: int
    summaries_bytes: int
    markers_bytes: int
    body_bytes: int
    first_id: int
    last_id: int
    min_us: int
    max_us: int
    body_crc: int

    @property
    def size(self) -> int:
        """The size of the block."""
        return HEADER_BYTES + self.body_bytes

    @property
    def groups_begin(self) -> int:
        """Distance of the first group from the start of the block."""
        return HEADER_BYTES + self.directory_bytes + self.summaries_bytes


class Part(NamedTuple):
    """Where the messages of one topic are.

    Attributes:
        group: number of the group in its block.
        topic: the topic of these messages; another one if they are found by their ``also``.
        begin: the first one's number in the group.
        end: the number after the last one's.
    """

    group: int
    topic: Topic
    begin: int
    end: int


class Place(NamedTuple):
    """Where the bytes of a group are.

    Attributes:
        offset: distance from the start of the block.
        size: number of bytes.
        crc: their CRC-32.
        raw_size: size when decompressed.
        topic: the topic of its first run.
    """

    offset: int
    size: int
    crc: int
    raw_size: int
    topic: Topic


def unpack_header(data: bytes) -> Header:
    """Decode the header at the start of ``data``.

    Raises:
        DamagedArchive: there is none.
    """
    if len(data) < HEADER_BYTES:
        raise DamagedArchive("a block's header is cut off")
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    if crc != zlib.crc32(data[: _HEADER.size]):
        raise DamagedArchive("a block's header is damaged")
    magic, *fields = _HEADER.unpack_from(data)
    header = Header(*fields)
    if magic != _MAGIC or sum(header[3:6]) > header.body_bytes:
        raise DamagedArchive("a block's header is damaged")
    return header


class Directory:
    """The topics of a block, and where their messages are.

    Args:
        data: the directory.
        groups_begin: distance of the first group from the start of the block.

    Raises:
        DamagedArchive: ``data`` is not a directory.
    """

    __slots__ = ("_also", "_also_of", "_counts", "_names", "_places", "_starts", "_topics_of")

    def __init__(self, data: bytes, groups_begin: int) -> None:
        try:
            raw = zlib.decompress(data)
            (size,) = _CRC.unpack_from(raw)
            self._names = raw[_CRC.size : _CRC.size + size]
            self._counts, at = columns.unpack(raw, _CRC.size + size, rising=False)
            self._topics_of, at = columns.unpack(raw, at, rising=False)
            sizes, at = columns.unpack(raw, at, rising=False)
            crcs, at = columns.unpack(raw, at, rising=False)
            raw_sizes, at = columns.unpack(raw, at, rising=False)
            self._also_of, at = columns.unpack(raw, at, rising=False)
            self._also = raw[at:]
        except (zlib.error, struct.error, columns.BadColumn) as error:
            raise DamagedArchive(f"a directory is damaged: {error}") from None
        self._starts = array("q", accumulate(self._topics_of, initial=0))
        is_whole = (
            len(sizes) == len(crcs) == len(raw_sizes) == len(self._topics_of)
            and self._names.count(b"\n") == len(self._counts) + 1
            and self._starts[-1] == len(self._counts)
            and self._also.count(b"\n") == len(self._also_of) + 1
        )
        if not is_whole:
            raise DamagedArchive("a directory with columns of different lengths")
        self._places = list(
            zip(accumulate(sizes, initial=groups_begin), sizes, crcs, raw_sizes, strict=False)
        )

    def place(self, number: int) -> Place:
        """Return where group ``number`` is."""
        first = self._names.split(b"\n", self._starts[number] + 2)[self._starts[number] + 1]
        return Place(*self._places[number], _topic(first))

    def __iter__(self) -> Iterator[Part]:
        """Iterate over all messages of the block, group by group."""
        names = self._names.split(b"\n")[1:-1]
        for number in range(len(self._places)):
            end = 0
            for at in range(self._starts[number], self._starts[number + 1]):
                begin, end = end, end + self._counts[at]
                yield Part(number, _topic(names[at]), begin, end)

    @property
    def weight(self) -> int:
        """Estimate of its memory, in bytes."""
        return len(self._names) + 100 * len(self._places) + 8 * len(self._counts)

    def topics(self) -> list[Topic]:
        """Return the topics of the messages, then their second topics, as the summaries do."""
        return [_topic(name) for name in (self._names + self._also).split(b"\n") if name]

    def find(
        self, topics: frozenset[Topic] | None
    ) -> Iterator[tuple[Part, frozenset[Topic] | None]]:
        """Find the messages of ``topics``; None for all.

        Returns:
            Pairs. The first is a part; the second None, or, if the topic of the part is not one of
            ``topics``, those of ``topics`` that may be the second topic of its messages.
        """
        if topics is None or len(topics) > _FEW_TOPICS:
            parts = list(self)
            found = {at for at, part in enumerate(parts) if topics is None or part.topic in topics}
            yield from ((parts[at], None) for at in sorted(found))
            seconds = () if topics is None else self._also.split(b"\n")[1:-1]
            for name, at in zip(seconds, self._also_of, strict=False):
                if topics is not None and at not in found and _topic(name) in topics:
                    yield parts[at], topics
            return
        of_source: dict[int, set[Topic]] = {}
        for topic in topics:
            key = b"\n" + _name(topic) + b"\n"
            place = self._names.find(key)
            if place >= 0:
                yield self._part(self._names.count(b"\n", 0, place)), None
            place = self._also.find(key)
            while place >= 0:
                at = self._also_of[self._also.count(b"\n", 0, place)]
                of_source.setdefault(at, set()).add(topic)
                place = self._also.find(key, place + 1)
        for at, second in of_source.items():
            part = self._part(at)
            if part.topic not in topics:
                yield part, frozenset(second)

    def _part(self, at: int) -> Part:
        number = 0
        while self._starts[number + 1] <= at:
            number += 1
        begin = sum(self._counts[self._starts[number] : at])
        topic = _topic(self._names.split(b"\n", at + 2)[at + 1])
        return Part(number, topic, begin, begin + self._counts[at])


def _name(topic: Topic) -> bytes:
    name = f"{topic.channel}:{topic.product_id}"
    if "\n" in name or "%" in name:
        name = quote(name, safe="")
    return name.encode()


def _topic(name: bytes) -> Topic:
    try:
        text = name.decode()
    except UnicodeDecodeError as error:
        raise DamagedArchive(f"a topic is damaged: {error}") from None
    if "%" in text:
        text = unquote(text)
    channel, _, product_id = text.partition(":")
    return intern_topic(channel, product_id)


class _Listing:
    """Collects the directory and the summaries of a block."""

    def __init__(self) -> None:
        self._names, self._seconds = bytearray(b"\n"), bytearray(b"\n")
        self._counts: list[int] = []
        self._topics_of: list[int] = []
        self._seconds_of: list[int] = []
        self._sizes: list[int] = []
        self._crcs: list[int] = []
        self._raw_sizes: list[int] = []
        self._summaries: list[Summary] = []
        self._second_summaries: list[Summary] = []

    def add(self, runs: list[Run], data: bytes, raw_size: int) -> None:
        """Add the next group.

        Args:
            runs: its runs.
            data: its bytes.
            raw_size: its size when decompressed.
        """
        self._sizes.append(len(data))
        self._crcs.append(zlib.crc32(data))
        self._raw_sizes.append(raw_size)
        self._topics_of.append(len(runs))
        for run in runs:
            for second in sorted({topic for topic in run.also if topic is not None}):
                self._seconds += _name(second) + b"\n"
                self._seconds_of.append(len(self._counts))
                self._second_summaries.append(summary.of_second_topic(run, second))
            self._names += _name(run.topic) + b"\n"
            self._counts.append(len(run))
            self._summaries.append(summary.of_run(run))

    def pack(self) -> tuple[bytes, bytes]:
        """Encode the directory and the summaries."""
        numbers = (
            self._counts, self._topics_of, self._sizes, self._crcs, self._raw_sizes,
            self._seconds_of,
        )  # fmt: skip
        packed = b"".join([columns.pack(column, rising=False) for column in numbers])
        raw = b"".join([_CRC.pack(len(self._names)), self._names, packed, self._seconds])
        summaries = summary.pack(self._summaries + self._second_summaries)
        return zlib.compress(raw, _DIRECTORY_LEVEL), summaries


class Builder:
    """Collects records in the order of their ids, and makes a block of them.

    Args:
        last_id: only larger ids are added.

    Attributes:
        count: number of records.
        bytes: size of their payloads.
        last_id: the largest id.
    """

    def __init__(self, last_id: int = 0) -> None:
        self.count = self.bytes = 0
        self.last_id = last_id
        self._pending: dict[Topic, list[Message]] = {}
        self._runs: dict[Topic, Run] = {}
        self._markers: list[Marker] = []

    def append(self, records: Iterable[Record]) -> None:
        """Add records in the order of their ids; those that do not follow are left out."""
        pending, last_id, size, count = self._pending, self.last_id, self.bytes, self.count
        for record in records:
            id_ = record.id
            if id_ <= last_id:
                continue
            last_id = id_
            count += 1
            if isinstance(record, Message):
                try:
                    pending[record.topic].append(record)
                except KeyError:
                    pending[record.topic] = [record]
                size += len(record.payload)
            else:
                self._markers.append(record)
                size += len(record.payload) if isinstance(record, TradeRecord) else 100
        self.last_id, self.bytes, self.count = last_id, size, count

    def add_book(self, snapshot: Message) -> None:
        """Add a message of a checkpoint, of which all have the same id."""
        self._pending.setdefault(snapshot.topic, []).append(snapshot)
        self.last_id = snapshot.id
        self.count += 1
        self.bytes += len(snapshot.payload)

    def extend(self, header: Header, parts: list[tuple[Part, Group]], rest: list[Marker]) -> None:
        """Add all records of a block with larger ids."""
        self.last_id = header.last_id
        self.count += sum(part.end - part.begin for part, _ in parts) + len(rest)
        for part, unpacked in parts:
            run = self._runs.get(part.topic)
            if run is None:
                run = self._runs[part.topic] = Run(part.topic)
            before = run.bytes
            run.extend(unpacked, part.begin, part.end)
            self.bytes += run.bytes - before
        self._markers += rest

    def build(self, level: int, group_bytes: int, kind: int = RECORDS) -> bytes:
        """Return the block.

        Args:
            level: of zlib.
            group_bytes: payloads up to which topics of one channel share a group.
            kind: ``RECORDS`` or ``CHECKPOINT``.
        """
        self._settle()
        listing = _Listing()
        packed = []
        for runs in self._grouped(group_bytes):
            data, raw_size = group.pack(runs, level)
            packed.append(data)
            listing.add(runs, data, raw_size)
        directory, summaries = listing.pack()
        rest = markers.pack(self._markers) if self._markers else b""
        body = b"".join([directory, summaries, *packed, rest])
        received = [run.received for run in self._runs.values()]
        received += [[marker.received_us for marker in self._markers]] if self._markers else []
        firsts = [run.ids[0] for run in self._runs.values()]
        firsts += [marker.id for marker in self._markers[:1]]
        head = _HEADER.pack(
            _MAGIC, kind, sum(map(len, self._runs.values())), len(self._markers), len(directory),
            len(summaries), len(rest), len(body), min(firsts, default=0), self.last_id,
            min(map(min, received), default=0), max(map(max, received), default=0),
            zlib.crc32(body),
        )  # fmt: skip
        return head + _CRC.pack(zlib.crc32(head)) + body

    def _settle(self) -> None:
        """Add the collected messages to the runs of their topics."""
        for topic, messages in self._pending.items():
            run = self._runs.get(topic)
            if run is None:
                run = self._runs[topic] = Run(topic)
            run.add(messages)
        self._pending = {}

    def _grouped(self, group_bytes: int) -> Iterator[list[Run]]:
        """Iterate over the groups: a busy topic alone, quiet ones of one channel together."""
        runs = sorted(self._runs.values(), key=lambda run: run.topic)
        for _, of_channel in groupby(runs, key=lambda run: run.topic.channel):
            shared: list[Run] = []
            size = 0
            for run in of_channel:
                if run.bytes >= group_bytes:
                    yield [run]
                    continue
                shared.append(run)
                size += run.bytes
                if size >= group_bytes:
                    yield shared
                    shared, size = [], 0
            if shared:
                yield shared
