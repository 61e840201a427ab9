"""What the hub knows of a subscriber: something that can be written to, and how far it is."""

from array import array
from collections.abc import Iterable, Sequence
from copy import copy
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from hedgehogd.domain.message import Message

if TYPE_CHECKING:
    from hedgehogd.engine.hub import Cohort


_PIECE_BYTES = 56  # where a piece ends, its offset, its places in the lists
_CHUNK_BYTES = 640  # the object, the headers of its bytes and lists, its entry in the budget


class Chunk:
    """Bytes for the members of one cohort, made once and shared by all of them.

    Attributes:
        data: the pieces, joined: what is written.
        pieces: the wire form of each message; a frame, line or event is never cut apart
            between two of them.
        messages: the messages, one per piece.
        offsets: the tape offset of each message.
        kept_bytes: memory of the messages where this chunk keeps them, and not the tape.
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
        """Where each piece ends in ``data``.

        Asked for when the chunk has to wait. The pieces are dropped then: ``data`` has their
        bytes, and while a subscriber is slow they would take the same memory again.
        """
        if self._ends is None:
            self._ends = array("Q", accumulate(map(len, self.pieces)))
            self.pieces = ()
        return self._ends

    def weight(self) -> int:
        """Return how many bytes of memory it takes while it waits."""
        return self.size + self.kept_bytes + self.count * _PIECE_BYTES + _CHUNK_BYTES

    def placed(self, offset: int) -> "Chunk":
        """Return the same bytes, all of them standing at ``offset`` on the tape."""
        chunk = copy(self)
        chunk.offsets = [offset] * self.count
        return chunk


class MemberStatistics(NamedTuple):
    """How one subscriber is doing.

    Attributes:
        delivered: messages whose bytes the kernel has taken.
        skipped: messages that conflation dropped.
        waiting_bytes: data that waits for its socket.
        oldest_s: age of the oldest of it, in seconds; 0 when none waits.
    """

    delivered: int
    skipped: int
    waiting_bytes: int
    oldest_s: float


class Member:
    """One subscriber, as the hub sees it. A port: ``streaming.outlet`` is the adapter.

    Attributes:
        served_to: the tape offset up to which this member has been given its topics.
        cohort: the cohort it belongs to, or None while it has no topics.
    """

    __slots__ = ("cohort", "served_to")

    def __init__(self) -> None:
        self.served_to = 0
        self.cohort: Cohort | None = None

    def write(self, chunk: Chunk) -> None:
        """Take ``chunk``: send it or keep it. Never waits, never raises for the peer's sake."""
        raise NotImplementedError

    def tell(self, payload: bytes) -> None:
        """Say something that is not data, ahead of data that waits."""
        raise NotImplementedError

    def end(self, code: int, reason: str, detail: str = "") -> None:
        """Say farewell and close.

        Args:
            code: the close code of a WebSocket.
            reason: a stable name, by which the end is counted.
            detail: what the peer is told instead, where it can be told.
        """
        raise NotImplementedError

    def shed(self) -> None:
        """Free what waits for it: all subscribers together hold too much, and it the most.

        It ends as a slow consumer does; one that is ending already drops its farewell.
        """
        raise NotImplementedError

    async def wait_written(self) -> None:
        """Return when nothing waits to be sent, or never will be."""
        raise NotImplementedError

    def waiting(self) -> Iterable[Message]:
        """Return the messages of which nothing has been sent yet, oldest first."""
        raise NotImplementedError

    def statistics(self, now: float) -> MemberStatistics:
        """Return how it is doing at ``now`` (``trio.current_time``)."""
        raise NotImplementedError
