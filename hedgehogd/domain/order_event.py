"""What happens to single orders, as ``full`` and ``level3`` tell it.

Both channels carry the same events of the same counter; here they become the same
``OrderEvent``, which ``orders.OrderBook`` applies.

Source: FEED §6.7–§6.13.
"""

from typing import Annotated, NamedTuple

import msgspec

from hedgehogd.domain.limits import SEQUENCE_MAX
from hedgehogd.domain.message import BadMessage

_Number = Annotated[int, msgspec.Meta(ge=0, le=SEQUENCE_MAX)]


class OrderEvent(NamedTuple):
    """One event of a product's engine; texts are empty where they do not matter.

    Attributes:
        kind: ``open``, ``match``, ``change``, ``done``; ``noop`` for all that does not touch
            the book but has a number in the row.
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


_decode_full = msgspec.json.Decoder(_Full).decode
_decode_row = msgspec.json.Decoder(tuple[str, ...]).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_ROW_LENGTHS = {"open": 8, "match": 8, "change": 7, "done": 5, "noop": 4}
_DIGITS_MAX = len(str(SEQUENCE_MAX))


def from_full(payload: bytes) -> OrderEvent | None:
    """Read one message of ``full``; None for what is no event of the engine.

    ``received`` is a ``noop``. A change of a market order, which has funds and no size, too.
    ``activate``, ``heartbeat``, ``last_match`` and what else may come between are None.

    Raises:
        BadMessage: not JSON, a field that is no text, or an event without a sequence.

    Cost: 1 µs.
    """
    try:
        told = _decode_full(payload)
    except _UNREADABLE as error:
        raise BadMessage(str(error)) from None
    kind, sequence = told.type, told.sequence
    if kind not in {"open", "match", "change", "done", "received"}:
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
        BadMessage: not JSON, an array of another kind or length than the schema's, or one
            with a sequence that is none.

    Cost: 1 µs.
    """
    if payload[:1] == b"{":
        return None
    try:
        row = _decode_row(payload)
    except _UNREADABLE as error:
        raise BadMessage(str(error)) from None
    kind = row[0] if row else ""
    if len(row) < _ROW_LENGTHS.get(kind, len(row) + 1):
        raise BadMessage(f"{kind[:40]!r} with {len(row)} fields is not of level3")
    digits = row[2]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX):
        raise BadMessage(f"{digits[:40]!r} is no sequence")
    sequence = int(digits)
    if kind == "open":
        return OrderEvent(kind, sequence, row[3], row[4], row[5], row[6])
    if kind == "match":
        return OrderEvent(kind, sequence, row[3], size=row[6])
    if kind == "change":
        return OrderEvent(kind, sequence, row[3], price=row[4], size=row[5])
    return OrderEvent(kind, sequence, row[3] if kind == "done" else "")
