"""Markers: the records that are not messages. A block keeps them in a part of its own."""

import zlib

import msgspec

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.record import FeedRecord, GapRecord, RefusalRecord, TradeRecord
from hedgehogd.log.archive.errors import DamagedArchive

Marker = GapRecord | TradeRecord | RefusalRecord | FeedRecord
_KINDS: tuple[type[Marker], ...] = (GapRecord, TradeRecord, RefusalRecord, FeedRecord)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[int, msgspec.Raw]]).decode
_decoders = [msgspec.msgpack.Decoder(kind).decode for kind in _KINDS]


def pack(markers: list[Marker]) -> bytes:
    """Encode markers, in the order of their ids."""
    return zlib.compress(_encode([(_KINDS.index(type(marker)), marker) for marker in markers]))


def unpack(data: bytes) -> list[Marker]:
    """Decode bytes that ``pack`` returned.

    Raises:
        DamagedArchive: ``data`` differs from these bytes.
    """
    try:
        return [_decoders[kind](raw) for kind, raw in _decode(zlib.decompress(data))]
    except (zlib.error, msgspec.MsgspecError, IndexError, UnicodeDecodeError) as error:
        raise DamagedArchive(f"records are damaged: {error}") from None


def concerns(marker: Marker, topics: frozenset[Topic] | None) -> bool:
    """Say whether a reader of ``topics`` (None for all) receives ``marker``.

    A refusal without a product concerns a channel, one without a channel a product. The state of
    the feed concerns all readers, or those of its products.
    """
    if topics is None:
        return True
    if isinstance(marker, GapRecord | TradeRecord):
        return marker.topic in topics
    if isinstance(marker, FeedRecord):
        return not marker.products or any(t.product_id in marker.products for t in topics)
    channel, product_id = marker.topic
    return any(
        channel in {"", topic.channel} and product_id in {"", topic.product_id} for topic in topics
    )
