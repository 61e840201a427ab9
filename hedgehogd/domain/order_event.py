"""Events of single orders, parsed from ``full`` and ``level3`` messages.

Both channels carry the same events with the same sequences. Both are converted to an
``OrderEvent``, which ``orders.OrderBook`` applies.

Source: docs/COINBASE.md §6.7–§6.13.
"""

from typing import Annotated, Any, NamedTuple

import msgspec

from hedgehogd.domain.amount import BadAmount, text_of
from hedgehogd.domain.limits import SEQUENCE_MAX
from hedgehogd.domain.message import BadMessage
from hedgehogd.domain.rows import UNREADABLE, decode_exactly

_Number = Annotated[int, msgspec.Meta(ge=0, le=SEQUENCE_MAX)]


class OrderEvent(NamedTuple):
    """One event of a product's matching engine; the texts that its kind does not use are empty.

    Attributes:
        kind: ``open``, ``match``, ``change`` or ``done``; ``noop`` for an event that has a
            sequence but does not affect the book; ``unreadable`` for an event that has a
            sequence and an unreadable field: only its own order is lost, not the book.
        sequence: the product's counter; it rises by exactly one per event.
        order_id: the order; for a match the maker's.
        side: for an open, ``"buy"`` or ``"sell"``.
        price: the price of an open, or the new price of a change; empty if it is unchanged.
        size: the size added by an open, removed by a match or set by a change, in base currency.
    """

    kind: str
    sequence: int
    order_id: str = ""
    side: str = ""
    price: str = ""
    size: str = ""


class _Full(msgspec.Struct, gc=False):
    type: str
    sequence: _Number | None = None
    order_id: str = ""
    maker_order_id: str = ""
    side: str = ""
    price: str | None = None
    size: str | None = None
    remaining_size: str | None = None
    new_size: str | None = None
    new_price: str | None = None


_EVENTS = frozenset({"open", "match", "change", "done", "received"})
_TEXTS = tuple(name for name in _Full.__struct_fields__ if name not in {"type", "sequence"})
_decode_full = msgspec.json.Decoder(_Full).decode
_decode_row = msgspec.json.Decoder(tuple[str, ...]).decode
_ROW_LENGTHS = {"open": 8, "match": 8, "change": 7, "done": 5, "noop": 4}
_DIGITS_MAX = len(str(SEQUENCE_MAX))


def from_full(payload: bytes) -> OrderEvent | None:
    """Parse one message of ``full``; return None if it is not an event of the matching engine.

    ``received`` is a ``noop``, and so is the change of a market order, which has funds and no
    size. An event with a field of another type than text, number or null is ``unreadable``. For
    ``activate``, ``heartbeat``, ``last_match`` and all other types the result is None. Amounts
    are not checked.

    Raises:
        BadMessage: ``payload`` is not JSON, or is an event without a valid sequence.

    Cost: 1 µs.
    """
    try:
        fields = _decode_full(payload)
    except msgspec.ValidationError:
        return _from_lenient_full(payload)
    except UNREADABLE as error:
        raise BadMessage(str(error)) from None
    return _event(fields)


def _from_lenient_full(payload: bytes) -> OrderEvent | None:
    """Do the work of ``from_full`` for fields of unexpected types: numbers or unreadable values."""
    fields = _fields(payload)
    kind, sequence = fields.get("type"), fields.get("sequence")
    if kind not in _EVENTS:
        return None
    if type(sequence) is not int or not 0 <= sequence <= SEQUENCE_MAX:
        raise BadMessage(f"{kind} without a sequence")
    texts: dict[str, str] = {}
    try:
        for name in _TEXTS:
            if fields.get(name) is not None:
                texts[name] = text_of(fields[name])
    except BadAmount:
        return OrderEvent("unreadable", sequence)
    return _event(_Full(kind, sequence, **texts))


def _fields(payload: bytes) -> dict[str, Any]:
    try:
        fields = decode_exactly(payload)
    except UNREADABLE as error:
        raise BadMessage(str(error)) from None
    return fields if isinstance(fields, dict) else {}


def _event(fields: _Full) -> OrderEvent | None:
    kind, sequence = fields.type, fields.sequence
    if kind not in _EVENTS:
        return None
    if sequence is None:
        raise BadMessage(f"{kind} without a sequence")
    if kind == "open":
        size = fields.remaining_size or ""
        return OrderEvent(kind, sequence, fields.order_id, fields.side, fields.price or "", size)
    if kind == "done":
        return OrderEvent(kind, sequence, fields.order_id)
    if kind == "match":
        return OrderEvent(kind, sequence, fields.maker_order_id, size=fields.size or "")
    if kind == "change" and fields.new_size is not None:
        price = fields.new_price or ""
        return OrderEvent(kind, sequence, fields.order_id, price=price, size=fields.new_size)
    return OrderEvent("noop", sequence)


def from_level3(payload: bytes) -> OrderEvent | None:
    """Parse one message of ``level3``; return None for an object, such as the initial schema.

    An array of an unknown kind, or with fewer elements than its kind has, is ``unreadable``.
    Amounts are not checked.

    Raises:
        BadMessage: ``payload`` is not JSON, or has no sequence.

    Cost: 1 µs.
    """
    if payload[:1] == b"{":
        return None
    try:
        row = _decode_row(payload)
    except msgspec.ValidationError:
        row = _lenient_row(payload)
    except UNREADABLE as error:
        raise BadMessage(str(error)) from None
    digits = row[2] if len(row) > 2 else ""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX):
        raise BadMessage(f"{digits[:40]!r} is not a sequence")
    kind, sequence = row[0], int(digits)
    if len(row) < _ROW_LENGTHS.get(kind, len(row) + 1):
        return OrderEvent("unreadable", sequence)
    if kind == "open":
        return OrderEvent(kind, sequence, row[3], row[4], row[5], row[6])
    if kind == "match":
        return OrderEvent(kind, sequence, row[3], size=row[6])
    if kind == "change":
        return OrderEvent(kind, sequence, row[3], price=row[4], size=row[5])
    return OrderEvent(kind, sequence, row[3] if kind == "done" else "")


def _lenient_row(payload: bytes) -> tuple[str, ...]:
    """Return an array's elements as texts, up to the first one that is neither text nor number.

    Empty for another JSON value. Raises BadMessage if ``payload`` is not JSON.
    """
    try:
        row = decode_exactly(payload)
    except UNREADABLE as error:
        raise BadMessage(str(error)) from None
    texts: list[str] = []
    for field in row if isinstance(row, list) else ():
        try:
            texts.append(text_of(field))
        except BadAmount:
            break
    return tuple(texts)
