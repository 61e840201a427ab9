"""Bytes of messages in one wire form, shared by all subscribers that receive them."""

from array import array
from collections.abc import Sequence
from copy import copy
from itertools import accumulate

from hedgehogd.domain.message import Message

_PIECE_BYTES = 56  # the end of a piece, its offset, its places in the lists
_CHUNK_BYTES = 640  # the object, the headers of its bytes and lists, its entry in the budget


class Chunk:
    """Bytes for the members of one cohort, made once and shared by all of them.

    Attributes:
        data: the joined pieces: the bytes to write.
        size: length of ``data``, in bytes.
        count: number of messages.
        pieces: the wire form of each message; a piece is a whole frame, line or event. Empty after
            the first read of ``ends``.
        messages: the messages, one per piece.
        offsets: the tape offset of each message.
        kept_bytes: memory of the messages when this chunk keeps them instead of the tape, else 0.
    """

    __slots__ = ("_ends", "count", "data", "kept_bytes", "messages", "offsets", "pieces", "size")

    def __init__(
        self,
        pieces: Sequence[bytes],
        messages: list[Message],
        offsets: list[int],
        kept_bytes: int = 0,
    ) -> None:
        self.data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self.pieces = pieces
        self.messages = messages
        self.offsets = offsets
        self.size = len(self.data)
        self.count = len(pieces)
        self.kept_bytes = kept_bytes
        self._ends: array[int] | None = None

    @property
    def ends(self) -> "array[int]":
        """The end of each piece in ``data``.

        Computed when the chunk has to wait for a slow subscriber. The pieces are dropped then:
        ``data`` has their bytes, and they would take the same memory again.
        """
        if self._ends is None:
            self._ends = array("Q", accumulate(map(len, self.pieces)))
            self.pieces = ()
        return self._ends

    def weight(self) -> int:
        """Return how many bytes of memory it takes while it waits."""
        return self.size + self.kept_bytes + self.count * _PIECE_BYTES + _CHUNK_BYTES

    def placed(self, offset: int) -> "Chunk":
        """Return a copy that shares the bytes, with ``offset`` as the offset of each message."""
        chunk = copy(self)
        chunk.offsets = [offset] * self.count
        return chunk
