"""What happens to single orders, as ``full`` and ``level3`` tell it.

Both channels carry the same events of the same counter; here they become the same
``OrderEvent``, which ``orders.OrderBook`` applies.

Source: FEED §6.7–§6.13.
"""

from typing import Annotated, Any, NamedTuple

import msgspec

from hedgehogd.domain.amount import BadAmount, text_of
from hedgehogd.domain.limits import SEQUENCE_MAX
from hedgehogd.domain.message import BadMessage
from hedgehogd.domain.rows import UNREADABLE, decode_exactly

_Number = Annotated[int, msgspec.Meta(ge=0, le=SEQUENCE_MAX)]


class OrderEvent(NamedTuple):
    """One event of a product's engine; texts are empty where they do not matter.

    Attributes:
        kind: ``open``, ``match``, ``change``, ``done``; ``noop`` for all that does not touch
            the book but has a number in the row; ``unreadable`` for an event with a number
            and a field that cannot be read: it costs its own order, not the book.
        sequence: the product's counter, rising by exactly one.
        order_id: whom it is about; of a match the maker.
        side: of an open, ``"buy"`` or ``"sell"``.
        price: of an open; of a change the new price, or empty when that stays.
        size: what an open adds, a match takes away, a change makes it; base currency.
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
    """Read one message of ``full``; None for what is no event of the engine.

    ``received`` is a ``noop``. A change of a market order, which has funds and no size, too.
    ``activate``, ``heartbeat``, ``last_match`` and what else may come between are None.

    Raises:
        BadMessage: not JSON, or an event without a sequence.

    Cost: 1 µs.
    """
    try:
        told = _decode_full(payload)
    except msgspec.ValidationError:
        return _from_odd_full(payload)
    except UNREADABLE as error:
        raise BadMessage(str(error)) from None
    return _event(told)


def _from_odd_full(payload: bytes) -> OrderEvent | None:
    """Read a message with fields of other types: numbers of any form, or unreadable ones."""
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


def _event(told: _Full) -> OrderEvent | None:
    kind, sequence = told.type, told.sequence
    if kind not in _EVENTS:
        return None
    if sequence is None:
        raise BadMessage(f"{kind} without a sequence")
    if kind == "open":
        size = told.remaining_size or ""
        return OrderEvent(kind, sequence, told.order_id, told.side, told.price or "", size)
    if kind == "done":
        return OrderEvent(kind, sequence, told.order_id)
    if kind == "match":
        return OrderEvent(kind, sequence, told.maker_order_id, size=told.size or "")
    if kind == "change" and told.new_size is not None:
        price = told.new_price or ""
        return OrderEvent(kind, sequence, told.order_id, price=price, size=told.new_size)
    return OrderEvent("noop", sequence)


def from_level3(payload: bytes) -> OrderEvent | None:
    """Read one message of ``level3``; None for an object, such as the schema it begins with.

    Raises:
        BadMessage: not JSON, or an array without a sequence.

    Cost: 1 µs.
    """
    if payload[:1] == b"{":
        return None
    try:
        row = _decode_row(payload)
    except msgspec.ValidationError:
        row = _odd_row(payload)
    except UNREADABLE as error:
        raise BadMessage(str(error)) from None
    digits = row[2] if len(row) > 2 else ""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX):
        raise BadMessage(f"{digits[:40]!r} is no sequence")
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


def _odd_row(payload: bytes) -> tuple[str, ...]:
    """Read an array whose numbers may be JSON numbers, up to what cannot be read."""
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
