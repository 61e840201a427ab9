"""Columns of whole numbers: in the fewest bytes, least significant bytes together.

A *rising* column stores the difference between each number and the one before, any other column
the difference between each number and the smallest. All differences have the same width, 1, 2, 4
or 8 bytes, and the first bytes of all of them precede their second bytes and so on: the upper bytes
of small numbers are runs of equal bytes, which deflate to almost nothing. Every step runs in C, at
some 50 ns a number.
"""

import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate, islice, pairwise

_WIDTHS = ((1, "b", 1 << 7), (2, "h", 1 << 15), (4, "i", 1 << 31), (8, "q", 1 << 63))
_TYPECODES = {width: code for width, code, _ in _WIDTHS}
_HEAD = struct.Struct("<BIq")


class BadColumn(Exception):
    """Bytes that are not a column."""


def pack(numbers: Sequence[int], *, rising: bool = True) -> bytes:
    """Encode ``numbers``, none or more, each between -2**62 and 2**62."""
    if rising:
        base = numbers[0] if numbers else 0
        stored = [b - a for a, b in pairwise((base, *numbers))]
    else:
        base = min(numbers, default=0)
        stored = [number - base for number in numbers]
    reach = max(max(stored, default=0), -min(stored, default=0) - 1)
    for width, code, limit in _WIDTHS:
        if reach < limit:
            raw = _little_endian(array(code, stored)).tobytes()
            planes = b"".join([raw[at::width] for at in range(width)])
            return _HEAD.pack(width, len(numbers), base) + planes
    raise OverflowError("a number is not between -2**62 and 2**62")


def unpack(data: bytes, at: int, *, rising: bool = True) -> "tuple[array[int], int]":
    """Decode the column that begins at ``at``; return its numbers, and where it ends.

    Raises:
        BadColumn: there is no column.
    """
    if len(data) < at + _HEAD.size:
        raise BadColumn("a column is cut off")
    width, count, base = _HEAD.unpack_from(data, at)
    begin = at + _HEAD.size
    end = begin + width * count
    code = _TYPECODES.get(width)
    if code is None or end > len(data):
        raise BadColumn("a column has an impossible size")
    raw = bytearray(width * count)
    for plane in range(width):
        raw[plane::width] = data[begin + plane * count : begin + (plane + 1) * count]
    stored = array(code)
    stored.frombytes(raw)
    _little_endian(stored)
    try:
        if rising:
            return array("q", islice(accumulate(stored, initial=base), 1, None)), end
        return array("q", [base + number for number in stored]), end
    except OverflowError:
        raise BadColumn("a number is too large") from None


def pack_optional(numbers: Iterable[int | None]) -> bytes:
    """Encode numbers of which some may be None; nothing is stored if all are."""
    shifted = [0 if number is None else number + 1 for number in numbers]
    return pack(shifted if any(shifted) else ())


def unpack_optional(data: bytes, at: int, count: int) -> tuple[Sequence[int | None], int]:
    """Decode a column of ``pack_optional`` with ``count`` numbers; return them, and its end.

    Raises:
        BadColumn: there is no such column.
    """
    shifted, end = unpack(data, at)
    if not shifted:
        return [None] * count, end
    if len(shifted) != count:
        raise BadColumn("a column has another length than its block")
    return [number - 1 if number else None for number in shifted], end


def _little_endian(numbers: "array[int]") -> "array[int]":
    """Convert ``numbers`` in place between the machine's order of bytes and the format's."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
