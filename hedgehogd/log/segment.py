"""The bytes of a window segment: its head, the frames of its entries, its end mark.

A segment is a file that is only appended to. Length and CRC of an entry decide where it ends: a
write that a kill interrupted leaves a part of an entry, and a preallocated file continues with
zero bytes. Neither is a whole entry, so both end the segment.

All numbers are little-endian. Head, 64 bytes: magic, CRC of the rest, format, deployment, term,
number of the segment, the last id before it, the time at which it was opened. Frame of an entry,
24 bytes before it: CRC of all that follows, size of the entry, first and last id. An *end mark* is
a frame of size 0: the writer continued in the next segment. So a reader distinguishes the end of
a segment from damage.
"""

import struct
import zlib
from typing import NamedTuple

import msgspec

from hedgehogd.domain.limits import ENTRY_BYTES_MAX

FORMAT = 1
HEAD_BYTES = 64
FRAME_BYTES = 24
_MAGIC = b"hhlogseg"
_HEAD = struct.Struct("<8sII8sQQQQ8x")
_HEAD_CHECKED = slice(12, HEAD_BYTES)
_CRC = struct.Struct("<I")
_FRAME = struct.Struct("<IIQQ")
_FRAME_CHECKED = struct.Struct("<IQQ")
_FRAME_SKIPPED = struct.Struct("<4xI8xQ")  # size and last id


class SegmentHead(NamedTuple):
    """The head of a window segment.

    Attributes:
        deployment: the id of the deployment.
        term: the term of its writer.
        number: its number within the term, from 1.
        previous_id: the last id of the log before this segment; 0 at the log's start.
        opened_ns: when the writer began it, on the monotonic clock, in ns.
    """

    deployment: str
    term: int
    number: int
    previous_id: int
    opened_ns: int


def pack_head(head: SegmentHead) -> bytes:
    """Return the first ``HEAD_BYTES`` bytes of a segment."""
    deployment, *numbers = head
    data = _HEAD.pack(_MAGIC, 0, FORMAT, deployment.encode(), *numbers)
    return data[:8] + _CRC.pack(zlib.crc32(data[_HEAD_CHECKED])) + data[12:]


def unpack_head(data: bytes) -> SegmentHead | None:
    """Return the head of a segment, or None if it is not opened yet, damaged or of another format.

    A preallocated segment has zero bytes in place of a head until the writer needs it.
    """
    if len(data) < HEAD_BYTES:
        return None
    magic, crc, form, deployment, *numbers = _HEAD.unpack_from(data)
    if magic != _MAGIC or form != FORMAT or crc != zlib.crc32(data[12:HEAD_BYTES]):
        return None
    return SegmentHead(deployment.rstrip(b"\0").decode("ascii", "replace"), *numbers)


def frame(entry: bytes, first_id: int, last_id: int) -> bytes:
    """Return the ``FRAME_BYTES`` bytes before an entry; of an empty one, they are an end mark."""
    checked = _FRAME_CHECKED.pack(len(entry), first_id, last_id)
    return _CRC.pack(zlib.crc32(entry, zlib.crc32(checked))) + checked


def end_mark(last_id: int) -> bytes:
    """Return the mark that the writer continued in the next segment after ``last_id``."""
    return frame(b"", last_id, last_id)


Whole = tuple[int, int, int, int]
"""A whole entry in a piece of a segment: the place of its first byte after its frame, the place
after its last byte, the ids of its first and last record."""


class Scan(msgspec.Struct, gc=False):
    """The whole entries at the start of a piece of a segment.

    Attributes:
        entries: the whole entries, in order.
        end: the place after the last one.
        is_ended: True if an end mark follows.
        needed: bytes of the frame and entry at ``end``, if the piece ends within it; else 0.
    """

    entries: list[Whole]
    end: int
    is_ended: bool
    needed: int


def scan(data: bytes, start: int = 0) -> Scan:
    """Find the whole entries of ``data`` from ``start``, up to the first bytes that are none.

    Never raises; each CRC is checked.
    """
    entries: list[Whole] = []
    at, size = start, len(data)
    view = memoryview(data)
    while size - at >= FRAME_BYTES:
        crc, length, first_id, last_id = _FRAME.unpack_from(data, at)
        if length > ENTRY_BYTES_MAX:  # a damaged length; a reader would allocate it
            return Scan(entries, at, False, 0)
        end = at + FRAME_BYTES + length
        if end > size:
            return Scan(entries, at, False, end - at)
        if zlib.crc32(view[at + 4 : end]) != crc:
            return Scan(entries, at, False, 0)
        if not length:
            return Scan(entries, at, True, 0)
        entries.append((at + FRAME_BYTES, end, first_id, last_id))
        at = end
    return Scan(entries, at, False, FRAME_BYTES if at < size else 0)


def skip(data: bytes, after_id: int) -> tuple[int, int, bool]:
    """Go past the entries at the start of ``data`` whose last id is at most ``after_id``.

    Only their frames are read, and no CRC is checked.

    Returns:
        ``(size, last_size, is_found)``: the bytes of the entries with their frames, which may be
        more than ``data`` has, and those of the last one; True if the next frame is in ``data``.
    """
    at = last_at = 0
    end = len(data) - FRAME_BYTES
    while at <= end:
        length, last_id = _FRAME_SKIPPED.unpack_from(data, at)
        if last_id > after_id or not 0 < length <= ENTRY_BYTES_MAX:
            return at, at - last_at, True
        last_at = at
        at += FRAME_BYTES + length
    return at, at - last_at, False
