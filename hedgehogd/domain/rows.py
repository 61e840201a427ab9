"""Lists from a peer, element by element: an element that cannot be read costs itself alone.

One unreadable row must not cost the whole book, page or list (DESIGN, invariant 5).
"""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

T = TypeVar("T")

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for JSON text that is not what was expected."""

_decode_each = msgspec.json.Decoder(list[msgspec.Raw]).decode
decode_exactly = msgspec.json.Decoder(Any, float_hook=str).decode
"""Decode any JSON value; numbers with a point or an exponent stay the texts that they were."""


class Read(NamedTuple, Generic[T]):
    """What was read of a list.

    Attributes:
        items: the elements that could be read, in order.
        unreadable: how many could not.
    """

    items: list[T]
    unreadable: int


def read_list(body: bytes | msgspec.Raw, decode: Callable[[msgspec.Raw], T]) -> Read[T]:
    """Read a JSON list, each element by ``decode``; None in place of none counts as unreadable.

    Raises:
        msgspec.DecodeError: it is no list.
    """
    try:
        raws = _decode_each(body)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None
    items: list[T] = []
    for raw in raws:
        try:
            items.append(decode(raw))
        except UNREADABLE:
            continue
    return Read(items, len(raws) - len(items))


def read_rows(raw: bytes) -> list[Any]:
    """Read the rows of one side of a book, or the changes of an update.

    An element that cannot be read is None in its place. ``null`` in place of the list is an
    empty list; anything else that is no list is one unreadable row.
    """
    try:
        rows = decode_exactly(raw)
    except UNREADABLE:
        rows = _one_by_one(raw)
    if rows is None:
        return []
    return rows if isinstance(rows, list) else [None]


def _one_by_one(raw: bytes) -> list[Any]:
    try:
        raws = _decode_each(raw)
    except UNREADABLE:
        return [None]
    rows: list[Any] = []
    for each in raws:
        try:
            rows.append(decode_exactly(each))
        except UNREADABLE:
            rows.append(None)
    return rows
