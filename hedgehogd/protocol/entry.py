"""Entries: a batch of records as bytes, so that a reader of the log parses no JSON again.

An entry is one head and the bodies of its records, concatenated::

    byte 0      format, 1
    bytes 1-4   size of the columns in bytes, little-endian
    columns     MessagePack, the array of ``_Columns``
    bodies      to the end of the entry

All numbers are columns: one list for all records costs a tenth of one object per record. Ids and
receive times are a first value and differences; the usual batch has ids that rise by one and one
receive time, and then has no differences at all. A *route* names kind, topic channel, product,
message type and second topic; each record has the index of its route in a table of the entry, and
the encoded routes are cached.

The body of a message is its WebSocket frame as received; its payload is the part of the frame
after the header. The body of a backfilled trade is its payload. The body of any other record is
the record itself as JSON; these are rare.

The form that subscribers need (``line``, ``event``, ``deflated``) is not part of an entry.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise, repeat
from operator import add, sub
from typing import Annotated, Any

import msgspec

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.limits import ENTRY_BYTES_MAX, TOPICS_MAX
from hedgehogd.domain.message import Message, intern_topic
from hedgehogd.domain.record import FeedRecord, GapRecord, Record, RefusalRecord, TradeRecord

FORMAT = 1
_PREFIX_BYTES = 5
_MESSAGE, _GAP, _TRADE, _REFUSAL, _FEED = range(5)
_KINDS = {GapRecord: _GAP, TradeRecord: _TRADE, RefusalRecord: _REFUSAL, FeedRecord: _FEED}
_SHORT_FRAME_BYTES_MAX = 2 + 125  # the sizes of frames up to which a header has 2 bytes, …
_MIDDLE_FRAME_BYTES_MAX = 4 + 65535  # … and 4 bytes; larger frames have 10 (RFC 6455 §5.2)


class BadEntry(Exception):
    """Bytes that are not an entry of a known format; the text names the fault."""


_Natural = Annotated[int, msgspec.Meta(ge=0)]


class _Columns(msgspec.Struct, array_like=True, gc=False):
    """The columns of an entry, one value a record unless stated otherwise.

    Attributes:
        first_id: the id of the first record.
        id_steps: the differences between the ids; empty if each is 1.
        first_us: the receive time of the first record, µs since the epoch.
        us_steps: the differences between the receive times; empty if each is 0.
        table: the distinct routes, each the MessagePack of kind, topic channel, product, type and
            second topic: its channel and product, or nil.
        routes: indexes in ``table``.
        sequences: of messages; the gap's id of backfilled trades.
        trade_ids: of messages and backfilled trades.
        sizes: the sizes of the bodies in bytes.
    """

    first_id: int
    id_steps: list[int]
    first_us: int
    us_steps: list[int]
    table: list[bytes]
    routes: list[_Natural]
    sequences: list[int | None]
    trade_ids: list[int | None]
    sizes: list[_Natural]


class _Table(msgspec.Struct, array_like=True, gc=False):
    """The table among the columns; the columns before it are not decoded, the rest is ignored."""

    first_id: msgspec.Raw
    id_steps: msgspec.Raw
    first_us: msgspec.Raw
    us_steps: msgspec.Raw
    table: list[bytes]


_Route = tuple[int, Topic, str, Topic | None]
"""Kind, topic, message type and ``also``."""


class _EncodedRoutes(dict[tuple[Topic, str, Topic | None], bytes]):
    """Cache: the encoded route of messages of a topic, a type and a second topic."""

    def __missing__(self, key: tuple[Topic, str, Topic | None]) -> bytes:
        route = _encode_route(_MESSAGE, *key)
        if len(self) >= TOPICS_MAX:
            self.clear()
        self[key] = route
        return route


class _DecodedRoutes(dict[bytes, _Route]):
    """Cache: the route of encoded bytes; raises BadEntry for bytes that are none."""

    def __missing__(self, key: bytes) -> _Route:
        try:
            kind, channel, product_id, message_type, second = _decode_route(key)
        except _UNREADABLE as error:
            raise BadEntry(f"an unreadable route: {error}") from None
        if not _MESSAGE <= kind <= _FEED:
            raise BadEntry(f"a record of the unknown kind {kind}")
        topic = intern_topic(channel, product_id)
        also = None if second is None else intern_topic(*second)
        route = (kind, topic, message_type, also)
        if len(self) >= TOPICS_MAX:
            self.clear()
        self[key] = route
        return route


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, OverflowError, RecursionError)
_encode = msgspec.msgpack.Encoder().encode
_encode_json = msgspec.json.Encoder().encode
_decode_columns = msgspec.msgpack.Decoder(_Columns).decode
_decode_table = msgspec.msgpack.Decoder(_Table).decode
_decode_route = msgspec.msgpack.Decoder(tuple[int, str, str, str, tuple[str, str] | None]).decode
_decode_body: dict[int, Callable[[bytes], Any]] = {
    _GAP: msgspec.json.Decoder(GapRecord).decode,
    _REFUSAL: msgspec.json.Decoder(RefusalRecord).decode,
    _FEED: msgspec.json.Decoder(FeedRecord).decode,
}
_NONES = repeat(None)
_encoded_routes = _EncodedRoutes()
_decoded_routes = _DecodedRoutes()


def pack(records: Sequence[Record]) -> bytes:
    """Return a batch of records, at least one, as an entry; the records have their ids.

    Raises:
        ValueError: no records, or more than ``ENTRY_BYTES_MAX`` bytes.
    """
    if not records:
        raise ValueError("an entry has at least one record")
    if set(map(type, records)) == {Message}:
        messages: Sequence[Message] = records  # type: ignore[assignment]  # checked above
        routes = [_encoded_routes[m.topic, m.type, m.also] for m in messages]
        bodies = [m.frame for m in messages]
        sequences = [m.sequence for m in messages]
        trade_ids = [m.trade_id for m in messages]
    else:
        rows = list(map(_row, records))
        routes, bodies, sequences, trade_ids = map(list, zip(*rows, strict=True))
    ids = [record.id for record in records]
    times = [record.received_us for record in records]
    places = {route: place for place, route in enumerate(dict.fromkeys(routes))}
    columns = _encode(
        (
            ids[0],
            [] if _rise_by_one(ids) else list(map(sub, ids[1:], ids)),
            times[0],
            [] if times.count(times[0]) == len(times) else list(map(sub, times[1:], times)),
            list(places),
            list(map(places.__getitem__, routes)),
            sequences,
            trade_ids,
            list(map(len, bodies)),
        )
    )
    entry = b"".join((b"\x01", len(columns).to_bytes(4, "little"), columns, *bodies))
    if len(entry) > ENTRY_BYTES_MAX:
        raise ValueError(f"an entry of {len(entry)} bytes; at most {ENTRY_BYTES_MAX}")
    return entry


def _rise_by_one(ids: list[int]) -> bool:
    return ids[-1] - ids[0] == len(ids) - 1 and ids == list(range(ids[0], ids[-1] + 1))


def _row(record: Record) -> tuple[bytes, bytes, int | None, int | None]:
    """Return route, body, sequence and trade id of any record."""
    if isinstance(record, Message):
        route = _encoded_routes[record.topic, record.type, record.also]
        return route, record.frame, record.sequence, record.trade_id
    kind = _KINDS[type(record)]
    topic = Topic("", "") if isinstance(record, FeedRecord) else record.topic
    route = _encode_route(kind, topic, "", None)
    if isinstance(record, TradeRecord):
        return route, record.payload, record.gap_id, record.trade_id
    return route, _encode_json(record), None, None


def _encode_route(kind: int, topic: Topic, message_type: str, also: Topic | None) -> bytes:
    return _encode((kind, *topic, message_type, also))


def unpack(data: bytes, start: int = 0, end: int | None = None) -> list[Record]:
    """Return the records of the entry between ``start`` and ``end`` of ``data``.

    Raises:
        BadEntry: the bytes are not an entry, or of an unknown format.
    """
    end = len(data) if end is None else end
    columns, at = _columns(data, start, end)
    ends, ids, times = _rows(columns, at, end)
    sizes, places = columns.sizes, columns.routes
    bodies = [data[a:b] for a, b in pairwise(ends)]
    try:
        kinds, topics, types, seconds = zip(
            *[_decoded_routes[route] for route in columns.table], strict=True
        )
        if any(kinds):
            routes = [(kinds[i], topics[i], types[i], seconds[i]) for i in places]
            others = columns.sequences, columns.trade_ids, ids, times
            return list(map(_record, routes, bodies, *others))
        if min(sizes) > _SHORT_FRAME_BYTES_MAX and max(sizes) <= _MIDDLE_FRAME_BYTES_MAX:
            payloads = [frame[4:] for frame in bodies]
        else:
            payloads = list(map(_payload, bodies))
        return list(
            map(
                Message,
                [topics[i] for i in places],
                [types[i] for i in places],
                bodies,
                payloads,
                columns.sequences,
                columns.trade_ids,
                [seconds[i] for i in places] if any(seconds) else _NONES,
                _NONES,
                _NONES,
                _NONES,
                times,
                ids,
            )
        )
    except (IndexError, ValueError):  # ValueError: no routes at all
        raise BadEntry("the index of a route that does not exist") from None


def unpack_some(
    data: bytes, start: int, end: int, is_wanted: Callable[[Topic], bool], unwanted: set[bytes]
) -> list[Record]:
    """Return some records of the entry between ``start`` and ``end`` of ``data``.

    They are the messages with a wanted topic, and all records that are not messages. Of an entry
    without such records only the table of routes is read.

    Args:
        data: contains the entry.
        start: its first byte.
        end: the place after its last byte.
        is_wanted: says whether messages of a topic are wanted; never again once it is False.
        unwanted: the encoded routes without a wanted topic that were found so far; it is updated.

    Raises:
        BadEntry: the bytes are not an entry, or of an unknown format.
    """
    raw, at = _raw_columns(data, start, end)
    try:
        table = _decode_table(raw).table
    except _UNREADABLE as error:
        raise BadEntry(f"unreadable columns: {error}") from None
    if table and unwanted.issuperset(table):
        return []
    wanted: dict[int, _Route] = {}
    for place, encoded in enumerate(table):
        if encoded not in unwanted:
            kind, topic, _, also = route = _decoded_routes[encoded]
            if kind != _MESSAGE or is_wanted(topic) or (also is not None and is_wanted(also)):
                wanted[place] = route
            else:
                unwanted.add(encoded)
    columns, at = _columns(data, start, end)
    ends, ids, times = _rows(columns, at, end)
    places, ids, times = columns.routes, list(ids), list(times)
    if max(places) >= len(table):
        raise BadEntry("the index of a route that does not exist")
    sequences, trade_ids = columns.sequences, columns.trade_ids
    return [
        _record(
            wanted[places[n]], data[ends[n] : ends[n + 1]], sequences[n], trade_ids[n], ids[n],
            times[n],
        )
        for n in [n for n, place in enumerate(places) if place in wanted]
    ]  # fmt: skip


def _columns(data: bytes, start: int, end: int) -> tuple[_Columns, int]:
    """Return the columns of an entry, and the place of its first body; raises BadEntry."""
    raw, at = _raw_columns(data, start, end)
    try:
        return _decode_columns(raw), at
    except _UNREADABLE as error:
        raise BadEntry(f"unreadable columns: {error}") from None


def _rows(columns: _Columns, at: int, end: int) -> tuple[list[int], Iterable[int], Iterable[int]]:
    """Return the ends of the bodies from place ``at``, the ids, and the times; raises BadEntry."""
    count = len(columns.sizes)
    ends = list(accumulate(columns.sizes, initial=at))
    lengths = {count, len(columns.routes), len(columns.sequences), len(columns.trade_ids)}
    if not count or len(lengths) > 1 or ends[-1] != end:
        raise BadEntry("columns that do not fit each other")
    ids = _sums(columns.first_id, columns.id_steps, 1, count)
    return ends, ids, _sums(columns.first_us, columns.us_steps, 0, count)


def _raw_columns(data: bytes, start: int, end: int) -> tuple[bytes, int]:
    """Return the bytes of the columns of an entry, and the place of its first body."""
    at = start + _PREFIX_BYTES
    if not 0 <= start <= end <= len(data) or end < at:
        raise BadEntry("it is too short")
    if data[start] != FORMAT:
        raise BadEntry(f"format {data[start]}; known is {FORMAT}")
    bodies_at = at + int.from_bytes(data[start + 1 : at], "little")
    if bodies_at > end:
        raise BadEntry("its columns go beyond its end")
    return data[at:bodies_at], bodies_at


def _sums(first: int, steps: list[int], step: int, count: int) -> Iterable[int]:
    if not steps:
        return range(first, first + count) if step else repeat(first, count)
    if len(steps) != count - 1:
        raise BadEntry("columns that do not fit each other")
    return accumulate(steps, add, initial=first)


def _payload(frame: bytes) -> bytes:
    size = len(frame)
    if size <= _SHORT_FRAME_BYTES_MAX:
        return frame[2:]
    return frame[4:] if size <= _MIDDLE_FRAME_BYTES_MAX else frame[10:]


def _record(
    route: _Route,
    body: bytes,
    sequence: int | None,
    trade_id: int | None,
    record_id: int,
    received_us: int,
) -> Record:
    kind, topic, message_type, also = route
    if kind == _MESSAGE:
        message = Message(topic, message_type, body, _payload(body), sequence, trade_id, also)
        message.id, message.received_us = record_id, received_us
        return message
    if kind == _TRADE:
        if trade_id is None:
            raise BadEntry("a backfilled trade without a trade id")
        return TradeRecord(topic, trade_id, body, sequence or 0, record_id, received_us)
    try:
        record: GapRecord | RefusalRecord | FeedRecord = _decode_body[kind](body)
    except _UNREADABLE as error:
        raise BadEntry(f"an unreadable record: {error}") from None
    if not isinstance(record, FeedRecord):
        record.topic = topic
    record.id, record.received_us = record_id, received_us
    return record
