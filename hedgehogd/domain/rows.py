"""Decode a peer's list element by element, so that an unreadable element loses only itself.

One unreadable row must not invalidate the whole book, page or list.
"""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

T = TypeVar("T")

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Exceptions of msgspec for JSON text that is invalid or of an unexpected type."""

_decode_each = msgspec.json.Decoder(list[msgspec.Raw]).decode
decode_exactly = msgspec.json.Decoder(Any, float_hook=str).decode
"""Decode any JSON value; a number with a point or an exponent becomes its text."""


class Read(NamedTuple, Generic[T]):
    """The result of reading a list.

    Attributes:
        items: the readable elements, in order.
        unreadable: the number of unreadable elements.
    """

    items: list[T]
    unreadable: int


def read_list(body: bytes | msgspec.Raw, decode: Callable[[msgspec.Raw], T]) -> Read[T]:
    """Read a JSON list; skip and count each element for which ``decode`` raises ``UNREADABLE``.

    Raises:
        msgspec.DecodeError: ``body`` is not a JSON list.
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

    An unreadable element is None at its index. ``null`` is read as an empty list; any other
    value that is not a list, and invalid JSON, is read as one unreadable row. It raises no
    error.
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
