"""Groups: messages of one channel, compressed together. The smallest part that is read.

A *run* holds consecutive messages of one topic as columns. A group holds one run, or the runs of
several quiet topics of one channel, one after another. It is raw deflate (RFC 1951), primed with
typical messages of its channel, so that three messages shrink as well as three hundred.
"""

import struct
import zlib
from array import array
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import msgspec

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message, intern_topic
from hedgehogd.log.archive import columns
from hedgehogd.log.archive.errors import DamagedArchive
from hedgehogd.log.archive.priming import priming
from hedgehogd.protocol.frames import encode_text

_END = b"\xff"  # separates payloads: UTF-8 never contains it (RFC 3629 §3)
_RAW_DEFLATE = -15  # no header, no checksum: the directory of the block has a CRC
_MEMORY = 9
_TEXT = struct.Struct("<I")
Value = TypeVar("Value")
_encode = msgspec.msgpack.Encoder().encode


class _Names(NamedTuple):
    """The texts that messages of a group share, and whether their lengths are a column."""

    types: list[str]
    also: list[tuple[str, str]]
    has_lengths: bool


_decode_names = msgspec.msgpack.Decoder(_Names).decode


class Run:
    """Messages of one topic in the order of their ids, as columns of equal length.

    Attributes:
        topic: their topic.
        bytes: the sum of their payloads' lengths.
    """

    __slots__ = (
        "also", "bytes", "ids", "payloads", "received", "sequences", "topic", "trade_ids", "types",
    )  # fmt: skip

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.bytes = 0
        self.payloads: list[bytes] = []
        self.ids: list[int] = []
        self.received: list[int] = []
        self.sequences: list[int | None] = []
        self.trade_ids: list[int | None] = []
        self.types: list[str] = []
        self.also: list[Topic | None] = []

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, messages: list[Message]) -> None:
        """Add messages with larger ids."""
        payloads = [message.payload for message in messages]
        self.payloads += payloads
        self.ids += [message.id for message in messages]
        self.received += [message.received_us for message in messages]
        self.sequences += [message.sequence for message in messages]
        self.trade_ids += [message.trade_id for message in messages]
        self.types += [message.type for message in messages]
        self.also += [message.also for message in messages]
        self.bytes += sum(map(len, payloads))

    def extend(self, group: "Group", begin: int, end: int) -> None:
        """Add the messages ``begin`` to ``end`` of a group; their ids are larger."""
        payloads = group.payloads[begin:end]
        self.payloads += payloads
        self.ids += group.ids[begin:end]
        self.received += group.received[begin:end]
        self.sequences += group.sequences[begin:end]
        self.trade_ids += group.trade_ids[begin:end]
        self.types += group.types[begin:end]
        self.also += group.also[begin:end]
        self.bytes += sum(map(len, payloads))


class _Heads(dict[int, bytes]):
    """The headers of WebSocket text frames by the length of the payload, made when needed."""

    def __missing__(self, length: int) -> bytes:
        head = encode_text(bytes(length))[:-length] if length else encode_text(b"")
        if length < _FEW_BYTES:
            self[length] = head
        return head


_FEW_BYTES = 4096
_heads = _Heads()


class Group(NamedTuple):
    """The messages of a group, as columns of equal length.

    Attributes:
        payloads: the bytes that the exchange sent.
        ids: their ids; they rise within a topic.
        received: their receive times, µs since the epoch.
        sequences: as in their heads.
        trade_ids: as in their heads.
        types: as in their heads.
        also: their second topics.
        weight: estimate of its memory, in bytes.
    """

    payloads: list[bytes]
    ids: "array[int]"
    received: list[int]
    sequences: Sequence[int | None]
    trade_ids: Sequence[int | None]
    types: Sequence[str]
    also: Sequence[Topic | None]
    weight: int

    def chosen(self, places: Sequence[int]) -> "Group":
        """Return a group with the messages at ``places``."""
        return Group(
            [self.payloads[at] for at in places],
            array("q", [self.ids[at] for at in places]),
            [self.received[at] for at in places],
            [self.sequences[at] for at in places],
            [self.trade_ids[at] for at in places],
            [self.types[at] for at in places],
            [self.also[at] for at in places],
            160 * len(places),
        )

    def messages(self, topic: Topic, begin: int, end: int) -> list[Message]:
        """Return the messages ``begin`` to ``end``, which are of ``topic``."""
        heads, part = _heads, slice(begin, end)
        return [
            Message(topic, kind, heads[len(payload)] + payload, payload, sequence, trade_id, also,
                    None, None, None, received_us, id_)
            for payload, id_, received_us, sequence, trade_id, kind, also in zip(
                self.payloads[part], self.ids[part], self.received[part], self.sequences[part],
                self.trade_ids[part], self.types[part], self.also[part], strict=True,
            )
        ]  # fmt: skip


def pack(runs: Sequence[Run], level: int) -> tuple[bytes, int]:
    """Compress runs of one channel with ``level`` of zlib; return the bytes, and the raw size."""
    whole = runs[0]
    if len(runs) > 1:
        whole = Run(runs[0].topic)
        for run in runs:
            whole.payloads += run.payloads
            whole.ids += run.ids
            whole.received += run.received
            whole.sequences += run.sequences
            whole.trade_ids += run.trade_ids
            whole.types += run.types
            whole.also += run.also
    text = _END.join(whole.payloads)
    has_lengths = text.count(_END) != len(whole) - 1
    types = sorted(set(whole.types))
    also = sorted({topic for topic in whole.also if topic is not None})
    parts = [
        _TEXT.pack(len(text)),
        text,
        columns.pack(whole.ids),
        columns.pack([us - at for us, at in zip(whole.received, whole.ids, strict=True)],
                     rising=False),
        columns.pack_optional(whole.sequences),
        columns.pack_optional(whole.trade_ids),
    ]  # fmt: skip
    if len(types) > 1:
        place = {name: at for at, name in enumerate(types)}
        parts.append(columns.pack([place[name] for name in whole.types], rising=False))
    if also:
        number = {topic: at for at, topic in enumerate(also, 1)}
        parts.append(
            columns.pack([0 if t is None else number[t] for t in whole.also], rising=False)
        )
    if has_lengths:
        parts.append(columns.pack(list(map(len, whole.payloads)), rising=False))
    names = _encode(
        _Names(types, [(topic.channel, topic.product_id) for topic in also], has_lengths)
    )
    raw = b"".join([*parts, names])
    packer = zlib.compressobj(
        level, zlib.DEFLATED, _RAW_DEFLATE, _MEMORY, zdict=priming(whole.topic)
    )
    head = _TEXT.pack(len(names))
    return head + packer.compress(raw) + packer.flush(), len(raw)


def unpack(topic: Topic, data: bytes, raw_size: int) -> Group:
    """Decompress a group.

    Args:
        topic: the topic of its first run.
        data: the bytes that ``pack`` returned.
        raw_size: the raw size that ``pack`` returned.

    Raises:
        DamagedArchive: ``data`` differs from these bytes.
    """
    unpacker = zlib.decompressobj(_RAW_DEFLATE, zdict=priming(topic))
    try:
        (names_size,) = _TEXT.unpack_from(data)
        raw = unpacker.decompress(data[_TEXT.size :], raw_size + 1)
        if len(raw) != raw_size or not unpacker.eof or not 0 < names_size <= raw_size:
            raise DamagedArchive("a group of another size than recorded")
        names = _decode_names(raw[-names_size:])
        return _columns(raw, names)
    except (zlib.error, struct.error, msgspec.MsgspecError, columns.BadColumn) as error:
        raise DamagedArchive(f"a group is damaged: {error}") from None


def _columns(raw: bytes, names: _Names) -> Group:
    """Raises DamagedArchive, BadColumn or struct.error."""
    (text_size,) = _TEXT.unpack_from(raw)
    at = _TEXT.size + text_size
    text = raw[_TEXT.size : at]
    ids, at = columns.unpack(raw, at)
    count = len(ids)
    lags, at = columns.unpack(raw, at, rising=False)
    sequences, at = columns.unpack_optional(raw, at, count)
    trade_ids, at = columns.unpack_optional(raw, at, count)
    types: Sequence[str] = names.types * count
    also: Sequence[Topic | None] = [None] * count
    is_whole = len(lags) == count and len(names.types) > 0
    if len(names.types) > 1:
        places, at = columns.unpack(raw, at, rising=False)
        types = _named(places, names.types)
        is_whole = is_whole and len(types) == count
    if names.also:
        places, at = columns.unpack(raw, at, rising=False)
        also = _named(places, [None, *(intern_topic(*pair) for pair in names.also)])
        is_whole = is_whole and len(also) == count
    if names.has_lengths:
        lengths, at = columns.unpack(raw, at, rising=False)
        payloads = _divided(text, lengths)
    else:
        payloads = text.split(_END)
    if not is_whole or len(payloads) != count:
        raise DamagedArchive("a group with columns of different lengths")
    received = [a + b for a, b in zip(ids, lags, strict=True)]
    return Group(payloads, ids, received, sequences, trade_ids, types, also, len(raw) + 160 * count)


def _named(places: Sequence[int], names: Sequence[Value]) -> list[Value]:
    if places and not 0 <= min(places) <= max(places) < len(names):
        raise DamagedArchive("a group names a text that it does not have")
    return [names[place] for place in places]


def _divided(text: bytes, lengths: Sequence[int]) -> list[bytes]:
    """Divide the joined payloads, some of which contain the separator, by their lengths."""
    payloads, at = [], 0
    for length in lengths:
        payloads.append(text[at : at + length])
        at += length + 1
    return payloads
