"""The header page of a term: 4 KiB in shared memory, one page for each writer's term.

Instances read and write it with plain loads and stores. Each fact that changes is one aligned
8-byte word with one writer or one possible value, so no reader sees half of a change and no lock
is needed:

* ``heartbeat``, ``end`` and ``last_id`` are written by the writer of this term only;
* ``fence`` changes once, from 0 to 1, by whichever candidate comes first;
* ``joined`` is any new number; followers write it, and the writer looks for new followers then.

The rest never changes after the page is published (``lease.py``). ``docs/STORE.md`` has the
layout, and the reasons why the order of loads and stores suffices on x86-64 and arm64.
"""

import mmap
import os
import struct
import zlib
from typing import NamedTuple

from hedgehogd.log.errors import UnusableWindow

FORMAT = 1
PAGE_BYTES = 4096
_MAGIC = b"hhlogpag"
_FIXED = struct.Struct("<8sII8sQQQQQQ")  # magic, CRC, format, deployment, …
_CHECKED_FROM = 12
# The words' places, in words of 8 bytes; each on a cache line of its own, except those that the
# writer writes together.
_HEARTBEAT, _LAST_ID, _END, _FENCE, _JOINED = 64, 65, 66, 72, 80
_ID_LIMIT = 1 << 62  # µs since the epoch reach it in 146,000 years


class Place(NamedTuple):
    """A place in a term's segments: the number of the segment, from 1, and an offset in bytes.

    ``Place(0, 0)``: no entry in this term.
    """

    segment: int
    offset: int

    @property
    def word(self) -> int:
        """The place as one number; later places have greater ones."""
        return self.segment << 32 | self.offset


class Seal(NamedTuple):
    """The end of a term, decided by its successor: no entry after it is part of the log.

    Attributes:
        place: where the term ends.
        last_id: the last id of the log up to there.
    """

    place: Place
    last_id: int


NO_SEAL = Seal(Place(0, 0), 0)


class Fixed(NamedTuple):
    """The part of a page that never changes.

    Attributes:
        deployment: the id of the deployment, 6 characters of base32.
        term: the term, from 1.
        writer: the number of the writer's instance.
        boot: the machine's boot, as a number; the monotonic clock belongs to it.
        seal: where the previous term ends.
        first_id_min: ids of this term are at least this one.
    """

    deployment: str
    term: int
    writer: int
    boot: int
    seal: Seal
    first_id_min: int


def pack_page(fixed: Fixed, heartbeat_ns: int) -> bytes:
    """Return the bytes of a new page."""
    deployment, term, writer, boot, (place, last_id), first_id_min = fixed
    numbers = (term, writer, boot, place.word, last_id, first_id_min)
    data = bytearray(PAGE_BYTES)
    _FIXED.pack_into(data, 0, _MAGIC, 0, FORMAT, deployment.encode(), *numbers)
    struct.pack_into("<I", data, 8, zlib.crc32(data[_CHECKED_FROM : _FIXED.size]))
    struct.pack_into("<Q", data, _HEARTBEAT * 8, heartbeat_ns)
    struct.pack_into("<Q", data, _LAST_ID * 8, last_id)
    return bytes(data)


def unpack_page(data: bytes, name: str) -> Fixed | None:
    """Return the fixed part of a page; None if the page is damaged, as after a loss of power.

    The words that change have no CRC; a last id that no clock reaches is damage too, because the
    next term would begin with an id that has no room.

    Raises:
        UnusableWindow: the page has another format.
    """
    if len(data) < PAGE_BYTES:
        return None
    magic, crc, form, deployment, *numbers = _FIXED.unpack_from(data)
    if magic != _MAGIC:
        return None
    if form != FORMAT:
        raise UnusableWindow(f"{name} has format {form}; this version reads format {FORMAT}")
    (published_id,) = struct.unpack_from("<Q", data, _LAST_ID * 8)
    if crc != zlib.crc32(data[_CHECKED_FROM : _FIXED.size]) or published_id >= _ID_LIMIT:
        return None
    term, writer, boot, place, last_id, first_id_min = numbers
    seal = Seal(_place(place), last_id)
    text = deployment.rstrip(b"\0").decode("ascii", "replace")
    return Fixed(text, term, writer, boot, seal, first_id_min)


def _place(word: int) -> Place:
    return Place(word >> 32, word & 0xFFFF_FFFF)


class Page:
    """A mapped page; the owner calls ``close``.

    Args:
        descriptor: the open file; the page closes it.
        fixed: its fixed part.

    Attributes:
        fixed: its fixed part.
        descriptor: the open file, for locks and comparisons.
    """

    def __init__(self, descriptor: int, fixed: Fixed) -> None:
        self.fixed = fixed
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, PAGE_BYTES)
        self._words = memoryview(self._map).cast("Q")

    @property
    def heartbeat_ns(self) -> int:
        """The writer's last renewal, on its monotonic clock, in ns."""
        return self._words[_HEARTBEAT]

    def renew(self, now_ns: int) -> None:
        """Write a renewal; for the writer."""
        self._words[_HEARTBEAT] = now_ns

    @property
    def end(self) -> Place:
        """The published end of the term; ``Place(0, 0)`` before the first append."""
        word = self._words[_END]
        return Place(word >> 32, word & 0xFFFF_FFFF)

    @property
    def end_word(self) -> int:
        """``end`` as one number: it rises."""
        return self._words[_END]

    @property
    def last_id(self) -> int:
        """The last id of the log; it may be ahead of ``end`` for an instant."""
        return self._words[_LAST_ID]

    def publish(self, segment: int, offset: int, last_id: int) -> None:
        """Publish all entries up to a place; for the writer.

        The id first: a process that reads the new end then reads an id that is at least as new.
        """
        self._words[_LAST_ID] = last_id
        self._words[_END] = segment << 32 | offset

    @property
    def is_fenced(self) -> bool:
        """True if a candidate has ended the term."""
        return self._words[_FENCE] != 0

    def fence(self) -> None:
        """End the term: its writer publishes nothing that it appends from now on."""
        self._words[_FENCE] = 1

    def precedes(self, later: Fixed) -> bool:
        """Return True if the fixed part of the next term's page continues the log of this page.

        Another log has another deployment, or begins before the end that is published here: each
        published end of a term is at or before its seal, except after a loss of power.
        """
        mine = self.fixed
        return (
            later.deployment == mine.deployment
            and later.seal.last_id >= mine.seal.last_id
            and (later.boot != mine.boot or later.seal.place.word >= self.end_word)
        )

    @property
    def joined(self) -> int:
        """A number that changes when a follower joins."""
        return self._words[_JOINED]

    def join(self, number: int) -> None:
        """Let the writer look for followers; ``number`` is random, 64 bits."""
        self._words[_JOINED] = number

    def close(self) -> None:
        """Unmap and close; releases a lock that the descriptor holds."""
        self._words.release()
        self._map.close()
        os.close(self.descriptor)
